"""From a configuration to a run that is looked at and never begins: built as ever, in a directory of nobody's."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clearppo.build.output import Output, Place, TrainConfig, keep_inputs
from clearppo.build.plan import plan_run
from clearppo.build.ppo import build_ppo
from clearppo.build.scoring import close_sources
from clearppo.build.steps import build_reward, build_sft
from clearppo.config import PPOConfig, SFTConfig
from clearppo.data import load_comparisons
from clearppo.engines.base import Engine
from clearppo.errors import ClearPPOError, ConfigError
from clearppo.feedback.scorer import WeightedScorer
from clearppo.plan.result import Plan
from clearppo.rundir import RunDir, holds_run
from clearppo.train.checkpoint import Checkpoints
from clearppo.train.doctor import machine
from clearppo.train.doctor.examine import Pairs, examine
from clearppo.train.doctor.finding import Diagnosis, Finding
from clearppo.train.doctor.supervised import step_findings
from clearppo.train.listener import Listener, Silence


@dataclass(frozen=True, kw_only=True)
class Measured(Output):
    """An output directory in which nothing will be written: what would be needed is noted instead of required."""

    needed: list[int] = field(default_factory=list)

    def require_space(self, config: TrainConfig, *, result: int, checkpoint: int) -> None:
        self.needed.append(self.space(config, result=result, checkpoint=checkpoint)[0])


def diagnose(
    config: TrainConfig,
    *,
    pairs: str | None = None,
    listener: Listener | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Look at the run that `config` describes; its output directory is neither made nor touched nor locked. `pairs` is
    a file of held-out comparisons, `tell` hears what is being done.

    Raises ClearPPOError where the run itself would before its first step, for whatever is no finding.
    """
    if pairs is not None and not isinstance(config, PPOConfig):
        raise ConfigError("--pairs is for --step ppo: step reward holds comparisons out itself. Leave it out.")
    held_out = None if pairs is None else Pairs(comparisons=load_comparisons(pairs, flag="pairs"), source=pairs)
    outputs: list[Measured] = []

    @contextlib.contextmanager
    def nowhere(
        config: TrainConfig, inputs: Mapping[str, object], listener: Listener, engine: Engine
    ) -> Iterator[Output]:
        keep_inputs(config, inputs)
        run_dir = RunDir(Path(scratch) / "run")
        checkpoints = Checkpoints(run_dir, limit=None, note=listener.note)
        outputs.append(Measured(run_dir=run_dir, checkpoints=checkpoints, resume=None))
        yield outputs[0]

    listener = listener or Silence()
    tell("planning memory and time")
    plan = _planned(config)  # first, because models that are loaded take what is free
    tell("loading the models")
    with tempfile.TemporaryDirectory(prefix="clearppo-doctor-") as scratch:
        found, rounds = _looked_at(config, held_out, listener, nowhere, tell)
    found.add(_disk(config, outputs[0].needed[0]))
    if isinstance(plan, str):
        found.leave_out(["memory", "time"], plan)
    else:
        noun = "iteration" if isinstance(config, PPOConfig) else "step"
        found.add(machine.memory(plan), machine.duration(plan, rounds, noun))
    return found


def _planned(config: TrainConfig) -> Plan | str:
    """The plan, or why there is none."""
    try:
        return plan_run(config)
    except ClearPPOError as error:
        return str(error)


def _looked_at(
    config: TrainConfig, pairs: Pairs | None, listener: Listener, place: Place, tell: Callable[[str], None]
) -> tuple[Diagnosis, int]:
    """What is found, and how many iterations or steps the run has."""
    if isinstance(config, PPOConfig):
        run = build_ppo(config, listener=listener, place=place)
        try:
            return examine(run, pairs=pairs, tell=tell), run.recipe.n_iterations
        finally:
            if isinstance(run.scorer, WeightedScorer):
                close_sources(run.scorer.sources)
    if isinstance(config, SFTConfig):
        steps = build_sft(config, listener=listener, place=place)
    else:
        steps = build_reward(config, listener=listener, place=place)
    tell("reading texts and templates")
    found = Diagnosis(step=config.command)
    rows = steps.learned, steps.held_out
    found.add(*step_findings(config, steps.tokenizer, steps.network, *rows, steps.summary.objective))
    return found, steps.course.n_steps


def _disk(config: TrainConfig, needed: int) -> Finding:
    path = Path(config.run.output_dir).expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    held = ""
    if path.is_dir() and not config.run.overwrite_output_dir and config.run.resume_from_checkpoint is None:
        run = holds_run(path)
        held = f"output_dir = {config.run.output_dir} already holds a run ({run})." if run else ""
    return machine.disk(
        needed, shutil.disk_usage(there).free, config.run.output_dir, held=held,
        refused=not there.is_dir() or not os.access(there, os.W_OK), checkpoints=bool(config.run.save_steps),
    )  # fmt: skip
