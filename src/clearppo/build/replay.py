"""From a run's directory to one of its iterations, learned again."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from clearppo.build.common import load_model, make_engine, pad_id
from clearppo.build.learning import (
    make_optimiser,
    make_passes,
    make_policy_of,
    make_ptx,
    other_texts,
    ppo_objective,
    ppo_recipe,
)
from clearppo.config import PPOConfig
from clearppo.config.replayable import changed, options_of, read_resolved, same_as_before
from clearppo.data import load_demonstrations
from clearppo.errors import CheckpointError, ConfigError, RunDirError
from clearppo.learning import Objective
from clearppo.models.build import make_reference
from clearppo.models.ema import EMA
from clearppo.models.loading import context_length
from clearppo.record import Iteration
from clearppo.train.checkpoint import Checkpoint
from clearppo.train.keeping import machine
from clearppo.train.marks import data_mark, policy_mark
from clearppo.train.replay.check import Check
from clearppo.train.replay.kept import KeptRun
from clearppo.train.replay.replaying import Otherwise, Outcome, Replaying
from clearppo.train.replay.step import Learner
from clearppo.train.shortage import memory_told

Tell = Callable[[str, int, int], None]
"""Is told what goes on: a phase, and how many of how many iterations are done."""
JUDGING = frozenset({
    "kl_coef", "kl_estimator", "score_clip", "missing_eos_penalty", "missing_eos_score", "whiten_rewards",
    "unbiased_whitening",
})  # fmt: skip
"""The options by which rewards are made."""
_OF_RECIPE = (
    "kl_estimator", "score_clip", "missing_eos_penalty", "missing_eos_score", "estimator", "group_size", "gamma", "lam",
    "critic_lam",
)  # fmt: skip
"""What the record has of a Recipe."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Iteration `step`, learned again from `origin`, after `iterations` before it. `settings` are the options that were
    others the second time, with the values before and after. `cause` says why numbers may differ, where they do."""

    run: Path
    step: int
    origin: str
    iterations: int
    check: Check
    cause: str | None
    settings: Mapping[str, tuple[Any, Any]]
    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        """All of it, in plain values."""
        check, outcome = self.check, self.outcome
        return {
            "run": str(self.run),
            "step": self.step,
            "origin": self.origin,
            "iterations_before": self.iterations,
            "identical": check.identical,
            "compared": {
                "metrics": check.metrics,
                "recorded": check.recorded,
                "weights": check.weights,
                "memory": check.memory,
                "weights_of": check.weights_of,
            },
            "differences": [asdict(difference) for difference in check.differences],
            "cause": self.cause,
            "settings": {name: {"was": was, "is": now} for name, (was, now) in self.settings.items()},
            "as_it_was": dict(outcome.numbers),
            "changed": None if outcome.changed is None else dict(outcome.changed),
            "gradient": {part: asdict(found) for part, found in outcome.gradient.items()},
            "update": {part: asdict(found) for part, found in outcome.update.items()},
            "tokens": [asdict(token) for token in outcome.tokens],
        }


def replay(
    run_dir: Path,
    step: int,
    *,
    settings: Sequence[str] = (),
    checkpoint: str | None = None,
    tokens: int = 10,
    note: Callable[[str], None] = lambda _: None,
    tell: Tell = lambda *_: None,
) -> Replay:
    """Learn iteration `step` of a run of PPO again from what the run has kept, and see whether it is the same; with
    `settings` such as "cliprange=0.1" once more, from the same state, to see what they change.

    `checkpoint` is where to begin: a directory, or "start"; None: the newest before the iteration. The run's directory
    is only read. Raises ClearPPOError.
    """
    tell("reading", 0, 0)
    asked = _asked(run_dir, step, settings, checkpoint)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_still_there(asked.origin))
        stack.enter_context(_threads(asked.numbers.get("threads")))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clearppo-replay-")))
        stack.enter_context(memory_told(asked.config, lambda: "learning"))
        tell("loading", 0, 0)
        replaying = _replaying(asked, place, note=note)
        otherwise = _otherwise(asked, replaying.learner) if settings else None
        _require_room(place, replaying.learner, twice=otherwise is not None)
        for done, earlier in enumerate(asked.steps[:-1]):
            tell("learning", done, len(asked.steps))
            replaying.again(earlier)
        tell("learning", len(asked.steps) - 1, len(asked.steps))
        outcome = replaying.outcome(replaying.batch(step), asked.here, otherwise, count=tokens)
    return Replay(
        run=asked.kept.path,
        step=step,
        origin="the start of the run" if asked.origin is None else asked.origin.path.name,
        iterations=len(asked.steps) - 1,
        check=replaying.check,
        cause=None if replaying.check.identical else _cause(asked, replaying),
        settings=asked.different,
        outcome=outcome,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be done: the iterations that are learned, from where, by which options and by which `after` the second
    time, of which the `different` ones were set. `meta` is what the record says of the last, `numbers` what the last
    bits depend on."""

    kept: KeptRun
    origin: Checkpoint | None
    steps: list[int]
    config: PPOConfig
    after: PPOConfig
    different: Mapping[str, tuple[Any, Any]]
    meta: Mapping[str, Any]
    numbers: Mapping[str, Any]

    @property
    def here(self) -> tuple[Mapping[str, Any], Path] | None:
        """The state right before the iteration, if it is a checkpoint's."""
        there = self.origin is not None and self.origin.step == self.steps[-1] - 1
        return (self.origin.state, self.origin.path) if self.origin is not None and there else None


def _asked(run_dir: Path, step: int, settings: Sequence[str], checkpoint: str | None) -> _Asked:
    kept = KeptRun(run_dir)
    kept.require(step)
    origin = kept.origin(step, checkpoint)
    steps = kept.require_recorded(origin, step)
    given, config = _options(kept, steps)
    meta = Iteration(kept.recorded(step)).meta
    after, names = changed(given, settings) if settings else (config, {})
    different = _differences(config, after, names, meta)
    with _still_there(origin):
        numbers = kept.numbers(origin)
    return _Asked(
        kept=kept, origin=origin, steps=steps, config=config, after=after, different=different, meta=meta,
        numbers=numbers,
    )  # fmt: skip


def _options(kept: KeptRun, steps: Sequence[int]) -> tuple[Mapping[str, Any], PPOConfig]:
    """The options by which these iterations were learned. Raises ConfigError if no config.yaml has those that the
    record tells of."""
    metas = {step: Iteration(kept.recorded(step)).meta for step in steps}
    refused: list[ConfigError] = []
    for path in dict.fromkeys(kept.configs(steps[-1])):
        try:
            given = read_resolved(path)
            config = options_of(given)
        except ConfigError as error:
            refused.append(error)
            continue
        others = ((step, _others(config, meta)) for step, meta in metas.items())
        step, wrong = next(((step, found) for step, found in others if found), (0, []))
        if not wrong:
            return given, config
        refused.append(
            ConfigError(
                f"the options of these iterations are not known: by {path} {', '.join(wrong[:3])} in iteration {step}. "
                "The run went on with other options, or the file has changed. Begin later, with --checkpoint, if there "
                "is a later one."
            )
        )
    raise refused[0]


def _others(config: PPOConfig, meta: Mapping[str, Any]) -> list[str]:
    """The options that the record says otherwise, in words."""
    recipe, objective = ppo_recipe(config), asdict(ppo_objective(config))
    same = (
        "kl_estimator",
        "score_clip",
        "missing_eos_penalty",
        "missing_eos_score",
        "estimator",
        "group_size",
        "gamma",
    )
    is_now = {name: getattr(recipe, name) for name in (*same, "lam", "critic_lam")}
    is_now |= {"epochs": config.ppo.num_ppo_epochs, "num_mini_batches": config.ppo.num_mini_batches}
    is_now |= {"temperature": config.sampling.temperature}
    was = {name: meta[name] for name in is_now} | {f"objective.{name}": v for name, v in meta["objective"].items()}
    is_now |= {f"objective.{name}": value for name, value in objective.items()}
    return [
        f"{name} is {is_now[name]}, and was {was[name]}" for name in was.keys() & is_now if was[name] != is_now[name]
    ]


def _differences(
    config: PPOConfig, after: PPOConfig, names: Mapping[str, str], meta: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The options that were set, as they were in this iteration and as they are now. Raises ConfigError for one that is
    what it was, and for what the record does not hold."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in names:
        was, now = (_value(options, name) for options in (config, after))
        was = meta["kl_coef"] if name == "kl_coef" else was
        if was == now:
            raise same_as_before(name, now)
        found[name] = (was, now)
    if after.has_critic and not config.has_critic:
        raise ConfigError(
            "--set advantage_estimator=gae needs a critic's values, and this run has no critic. Set another estimator."
        )
    if after.kl.kl_estimator == "full" and config.kl.kl_estimator != "full":
        raise ConfigError(
            "--set kl_estimator=full needs the reference's whole distribution, which is not recorded. Use k1, k2 or k3."
        )
    return found


def _value(config: PPOConfig, name: str) -> Any:
    return next(getattr(part, name) for _, part in config if hasattr(part, name))


@contextlib.contextmanager
def _still_there(origin: Checkpoint | None) -> Iterator[None]:
    """A run that goes on removes its oldest checkpoints. Raises CheckpointError if this one went while it was read."""
    try:
        yield
    except OSError as error:
        if origin is None or origin.path.is_dir():
            raise
        raise CheckpointError(
            f"{origin.path} is gone: the run goes on, and keeps its newest checkpoints only. Try again, or copy one "
            "and name it as --checkpoint."
        ) from error


@contextlib.contextmanager
def _threads(count: object) -> Iterator[None]:
    """As many threads as the run had: the last bits of a sum depend on them."""
    before = torch.get_num_threads()
    if isinstance(count, int) and 0 < count <= 1024:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _replaying(asked: _Asked, place: Path, *, note: Callable[[str], None]) -> Replaying:
    """The learner in the state of the origin, built in the order in which a run builds it."""
    config, numbers, origin = asked.config, asked.numbers, asked.origin
    engine = make_engine(config.model.device, deterministic=config.run.deterministic)
    torch.manual_seed(config.run.seed)
    loaded = load_model(config.model, note=note)
    policy = make_policy_of(config, engine, loaded)
    tokens: int | Literal["auto"] | None = config.run.max_tokens_per_microbatch
    if tokens == "auto" and "max_tokens_per_microbatch" in numbers:
        tokens = numbers["max_tokens_per_microbatch"]
    passes = replace(
        make_passes(config, policy, engine, tokens=tokens, exact=True), first_is_old=asked.meta["first_is_old"]
    )
    padding, ptx = pad_id(loaded.tokenizer), None
    if config.ptx.ptx_coef:
        texts = load_demonstrations(str(config.ptx.ptx_dataset_name), flag="ptx_dataset_name")
        others = other_texts(config, texts, loaded.tokenizer, context_length(policy.actor.causal_lm))
        ptx = make_ptx(config, others, padding, engine.device)
    reference = None
    if any(_compares_whole(ppo_objective(options)) for options in (config, asked.after)):
        reference = make_reference(policy, **passes.portions)
    learner = Learner(
        policy=policy,
        engine=engine,
        optimiser=make_optimiser(config, policy),
        ema=EMA(policy.actor, config.run.ema_decay),
        generator=torch.Generator().manual_seed(config.run.seed),
        ptx=ptx,
        reference=reference,
        recipe=ppo_recipe(config),
        objective=ppo_objective(config),
        passes=passes,
    )
    if origin is not None:
        _require_same(origin, learner)
        learner.restore(origin.state, origin.path)
    return Replaying(
        kept=asked.kept,
        learner=learner,
        tokenizer=loaded.tokenizer,
        pad_id=padding,
        place=place,
        has_critic=config.has_critic,
        last=None if config.eval.load_best_model_at_end else asked.kept.last,
    )


def _compares_whole(objective: Objective) -> bool:
    """Whether the loss reads the reference's whole distribution."""
    return bool(objective.kl_loss_coef) and objective.kl_loss_estimator == "full"


def _require_same(origin: Checkpoint, learner: Learner) -> None:
    """Raises CheckpointError if the start model, or the texts of PPO-ptx, are others than the run read."""
    marks = origin.state["about"]["marks"]
    now = {"start model": policy_mark(learner.policy)}
    if learner.ptx is not None:
        now["texts of ptx_dataset_name"] = data_mark(learner.ptx.stream.texts)
    other = [name for name, mark in now.items() if marks.get(name, mark) != mark]
    if other:
        raise CheckpointError(
            f"the run read other {' and other '.join(other)}: what is there under this name has changed since. Put "
            "back what it read to replay it."
        )


def _otherwise(asked: _Asked, learner: Learner) -> Otherwise:
    """The learner with the other options, on the same policy."""
    after, names = asked.after, asked.different
    one_step = after.ppo.num_ppo_epochs * after.ppo.num_mini_batches == 1
    tokens = after.run.max_tokens_per_microbatch
    if "max_tokens_per_microbatch" not in names:
        tokens = learner.passes.micro_batch_tokens
    passes = make_passes(after, learner.policy, learner.engine, tokens=tokens, exact=True)
    ptx = learner.ptx
    if ptx is not None:
        options = after.ptx
        ptx = replace(ptx, coef=options.ptx_coef, batch_ratio=options.ptx_batch_ratio, reduction=options.ptx_reduction)
    other = replace(
        learner,
        optimiser=make_optimiser(after, learner.policy),
        ptx=ptx if after.ptx.ptx_coef else None,
        recipe=ppo_recipe(after),
        objective=ppo_objective(after),
        passes=replace(passes, first_is_old=asked.meta["first_is_old"] and one_step),
    )
    return Otherwise(
        learner=other,
        kl_coef=after.kl.kl_coef if "kl_coef" in names else None,
        judged=not JUDGING.isdisjoint(names),
    )


def _require_room(place: Path, learner: Learner, *, twice: bool) -> None:
    """Raises RunDirError if the disk has no room for what is put aside."""
    weights = sum(weight.numel() * weight.element_size() for weight in learner.learned.values())
    needed, free = weights * (6 if twice else 1), shutil.disk_usage(place).free
    if needed > free:
        raise RunDirError(
            f"{needed / 1e9:.1f} GB are put aside in {place.parent}, where {free / 1e9:.1f} GB are free. Make room, or "
            "name another directory in the environment variable TMPDIR."
        )


def _cause(asked: _Asked, replaying: Replaying) -> str:
    """Why an iteration may not be bit for bit what it was, in a sentence."""
    config, numbers = asked.config, asked.numbers
    passes, device = replaying.learner.passes, replaying.learner.engine.device
    now = {**machine(), "device": str(device), "max_tokens_per_microbatch": passes.micro_batch_tokens}
    other = [f"{name} was {was}, is {now[name]}" for name, was in numbers.items() if name in now and was != now[name]]
    if other:
        return f"Likely because of another machine or version: {'; '.join(other)}."
    if device.type != "cpu" and not config.run.deterministic:
        return "Likely because a GPU adds in an order that changes, unless the run has --deterministic true."
    if not numbers:
        return "Likely because of another machine or version than the run's; the run has not noted its own."
    return "The versions and the machine are those of the run, as far as is noted; a file of it may have been changed."
