"""Sharing the weights of a PPO run out over processes, once all its models are there."""

from torch import nn

from clearppo.build.in_loop import Measures
from clearppo.config import PPOConfig
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import WeightedScorer
from clearppo.models.policy import FrozenReference, Policy
from clearppo.rollout.decoder import OwnDecoder
from clearppo.rollout.inprocess import InProcessSampler


def shard(
    config: PPOConfig,
    engine: Engine,
    policy: Policy,
    reference: FrozenReference,
    scorer: WeightedScorer,
    measures: Measures | None,
    sampler: InProcessSampler,
) -> None:
    """Have every process keep a share of policy, critic, reference and reward models, if that is asked for.

    Raises ConfigError for what does not go together with it, and ModelError.
    """
    if config.run.sharding == "none":
        return
    if config.model.freeze_layers:
        raise ConfigError(
            f"freeze_layers = {config.model.freeze_layers} and sharding = full: this cannot be done with weights that "
            "are shared out. Leave out --freeze_layers, or --sharding."
        )
    if not isinstance(sampler.decoder, OwnDecoder):
        raise ConfigError(
            f"sharding = full needs a decoder of our own, and this model has none: {sampler.decoder.why}. Leave out "
            "--sharding."
        )
    engine.shard(policy)
    if reference.actor is not policy.actor:
        engine.shard(reference.actor)
    for source in (*scorer.sources, *(measures.scorers.values() if measures else ())):
        if isinstance(source, RewardModelScorer) and isinstance(source.model, nn.Module):
            engine.shard(source.model)
