"""Sharing the weights of a run out over processes, once all its models are there; and what does not go with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from clearppo.build.in_loop import Measures
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.data.comparisons import ComparisonSet
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import WeightedScorer
from clearppo.models.network import Network
from clearppo.models.policy import FrozenReference, Policy
from clearppo.models.resting import Resting
from clearppo.plan.result import Plan, gib
from clearppo.rollout.decoder import Decoder, OwnDecoder

ConfigT = TypeVar("ConfigT", SFTConfig, RewardModelConfig, PPOConfig)
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Whether a run's weights are shared out, by what is asked for or, with `auto`, by what fits; and its plan."""

    full: bool
    plan: Plan | None

    @property
    def numbers(self) -> dict[str, Any]:
        """What a checkpoint notes, because last bits depend on it."""
        return {"sharding": "full"} if self.full else {}


def decide(config: ConfigT, engine: Engine, plan: Callable[[ConfigT], Plan | None], note: Note) -> Sharing:
    """Look at the run's `plan`; before anything is shared out. All processes come to the same."""
    found = plan(config)
    if config.run.sharding != "auto" or engine.world == 1:
        return Sharing(full=config.run.sharding == "full", plan=found)
    if all(engine.gather(found is None or found.fits)):
        return Sharing(full=False, plan=found)
    said = "" if found is None else f" (here {gib(found.peak_bytes)} of {gib(found.available_bytes or 0)})"
    note(f"all weights do not fit into each process's memory{said}: they are shared out, as with --sharding full")
    run = config.run.model_copy(update={"sharding": "full"})
    return Sharing(full=True, plan=plan(config.model_copy(update={"run": run})))


def shard(
    config: PPOConfig,
    engine: Engine,
    sharing: Sharing,
    policy: Policy,
    reference: FrozenReference,
    scorer: WeightedScorer,
    measures: Measures | None,
    decoder: Decoder | None,
) -> None:
    """Have every process keep a share of policy, critic, reference and reward models, if `sharing` says so; and put
    away what is frozen, if that is asked for.

    Raises ConfigError for what does not go together with it, and ModelError.
    """
    judges = [
        source
        for source in (*scorer.sources, *(measures.scorers.values() if measures else ()))
        if isinstance(source, RewardModelScorer) and isinstance(source.model, nn.Module)
    ]
    frozen: list[FrozenReference | RewardModelScorer] = [*judges]
    if reference.actor is not policy.actor:
        frozen.append(reference)
    if config.run.offload_frozen:
        _require_away(config, engine, frozen)
    if not sharing.full:
        if config.run.offload_frozen:
            for reader in frozen:
                network: Any = reader.actor if isinstance(reader, FrozenReference) else reader.model
                reader.resting = Resting(network, engine.device, but=policy.parameters())
        return
    if decoder is not None and not isinstance(decoder, OwnDecoder):
        raise ConfigError(
            f"sharding = full needs a decoder of our own, and this model has none: {decoder.why}. Leave out --sharding."
        )
    away = config.run.offload == "cpu"
    require_gpu("offload", config.run.offload, away, engine)
    engine.shard(policy, whole=_kept_whole(policy), offload=away)
    for reader in frozen:
        network = reader.actor if isinstance(reader, FrozenReference) else reader.model
        engine.shard(network, whole=_kept_whole(network), offload=away or config.run.offload_frozen)


def require_gpu(option: str, value: object, asked: bool, engine: Engine) -> None:
    """Raises ConfigError where there is no other memory than the host's."""
    if asked and engine.device.type != "cuda":
        raise ConfigError(
            f"{option} = {str(value).lower()} has no effect because the run computes on {engine.device}, and not on "
            f"GPUs with memory of their own. Leave out --{option}."
        )


def _require_away(config: PPOConfig, engine: Engine, frozen: Sequence[object]) -> None:
    require_gpu("offload_frozen", config.run.offload_frozen, True, engine)
    if not frozen:
        raise ConfigError(
            "offload_frozen = true has no effect because the reference is the policy's own weights without their "
            "adapters, and there is no reward model beside. Leave out --offload_frozen."
        )


def _kept_whole(network: nn.Module) -> list[nn.Parameter]:
    """Layers that do not learn, in a network whose upper ones do: what they make of a row is kept where it was read, so
    processes do not pass through them equally often. Each has all of them."""
    frozen = [part.frozen for part in network.modules() if isinstance(part, Network) and part.frozen is not None]
    return [parameter for layers in frozen for parameter in layers.parameters]


def require_one_pass(config: RewardModelConfig, sharing: Sharing, learned: ComparisonSet, tokens: int | None) -> None:
    """With weights that are shared out all processes pass through the model equally often, so the answers of a
    comparison must be in it at once. Raises ConfigError."""
    if not sharing.full:
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
