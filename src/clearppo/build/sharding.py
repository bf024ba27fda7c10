"""Sharing the weights of a run out over processes, once all its models are there; and what does not go with it."""

from torch import nn

from clearppo.build.in_loop import Measures
from clearppo.config import PPOConfig, RewardModelConfig
from clearppo.data.comparisons import ComparisonSet
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import WeightedScorer
from clearppo.models.policy import FrozenReference, Policy
from clearppo.rollout.decoder import Decoder, OwnDecoder


def shard(
    config: PPOConfig,
    engine: Engine,
    policy: Policy,
    reference: FrozenReference,
    scorer: WeightedScorer,
    measures: Measures | None,
    decoder: Decoder | None,
) -> None:
    """Have every process keep a share of policy, critic, reference and reward models, if that is asked for.

    Raises ConfigError for what does not go together with it, and ModelError.
    """
    if config.run.sharding == "none":
        return
    for option, value in (("freeze_layers", config.model.freeze_layers), ("ema_decay", config.run.ema_decay)):
        if value:
            raise ConfigError(
                f"{option} = {value} and sharding = full: this cannot be done with weights that are shared out. Leave "
                f"out --{option}, or --sharding."
            )
    if decoder is not None and not isinstance(decoder, OwnDecoder):
        raise ConfigError(
            f"sharding = full needs a decoder of our own, and this model has none: {decoder.why}. Leave out --sharding."
        )
    engine.shard(policy)
    if reference.actor is not policy.actor:
        engine.shard(reference.actor)
    for source in (*scorer.sources, *(measures.scorers.values() if measures else ())):
        if isinstance(source, RewardModelScorer) and isinstance(source.model, nn.Module):
            engine.shard(source.model)


def require_one_pass(config: RewardModelConfig, learned: ComparisonSet, tokens: int | None) -> None:
    """With weights that are shared out all processes pass through the model equally often, so the answers of a
    comparison must be in it at once. Raises ConfigError."""
    if config.run.sharding == "none":
        return
    most = max(len(texts) for texts in learned.ids)
    widest = max(len(texts) * max(map(len, texts)) for texts in learned.ids)
    for option, value, needed in (
        ("micro_batch_size", config.run.micro_batch_size, most),
        ("max_tokens_per_microbatch", tokens, widest),
    ):
        if value is not None and value < needed:
            raise ConfigError(
                f"{option} = {value} and sharding = full: a prompt's answers must be in the model at once, and one "
                f"needs {needed}. Use --{option} {needed}, or leave out --sharding."
            )
