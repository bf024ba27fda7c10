"""The three steps in a row: each begins with the files of the one before, and is skipped if they are there already."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearppo.api import RUNNERS, check_inputs, company, sharing
from clearppo.config import CommandConfig, Pipeline, PPOConfig, RewardModelConfig, SFTConfig, load_pipeline, values
from clearppo.config.changes import SILENT
from clearppo.config.kinds import qualified_name, spelled
from clearppo.config.pipeline import as_typed
from clearppo.disk import absent_directories, remove_empty
from clearppo.engines.environment import is_first, require_launched
from clearppo.errors import ClearPPOError, RunDirError

RECORD = "pipeline.json"
SILENT_HERE = SILENT | {"output_file", "overwrite_output_file"}
"""Options that have no part in what a step's result is."""
READ = frozenset({
    "model_name_or_path", "dataset_name", "eval_dataset_name", "eval_reward_funcs", "eval_reward_model_path",
    "reference_dataset_name", "ptx_dataset_name", "reward_model_path", "value_model_path", "reward_funcs", "labeller",
})  # fmt: skip
"""Options that name what a step reads. The value of another may happen to be a file's name too: kl_estimator = k1."""
SMALL = 64 * 2**20  # bytes of a file that are read to tell whether it has changed; of a larger one its size and time


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of a step: `made` now, or `kept` from before; what its runner gave back; seconds."""

    step: str
    output: str
    kept: bool
    result: Any
    seconds: float


def rlhf(
    *,
    recipe: str | None = None,
    config_path: str | Path | None = None,
    console: bool = False,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[StepResult]:
    """SFT, reward model, PPO. `options` are those of `clearppo rlhf` by name; `steps` holds options of the steps:

        clearppo.rlhf(model_name_or_path="smollm2-135m-instruct", demonstrations="demonstrations.jsonl",
                      comparisons="comparisons.jsonl", prompts="prompts.jsonl", output_dir="runs/rlhf",
                      steps={"ppo": {"kl_coef": 0.02}})

    Raises ClearPPOError with one clear sentence.
    """
    of_steps = {f"{step}.{name}": value for step, given in (steps or {}).items() for name, value in given.items()}
    path = None if config_path is None else Path(config_path)
    pipeline = load_pipeline(recipe=recipe, config_path=path, flags={**options, **of_steps})
    return run_pipeline(pipeline, console=console)


def run_pipeline(
    pipeline: Pipeline, *, console: bool = False, tell: Callable[[str], None] = lambda _: None
) -> list[StepResult]:
    """Run every step whose output is not there yet. `tell` is given a line for each step.

    A step's output is kept if the same settings made it from the same inputs; pipeline.json in output_dir remembers
    that. An output that other settings made is an error, unless `overwrite_output_dir`. A step that was never finished
    goes on from its newest checkpoint, or is made again if it was begun with other settings. Before any step runs:
    raises RunDirError, naming what differs, and ClearPPOError for data, functions and models that cannot be read.
    """
    require_launched(pipeline.options.launch)
    tell = tell if is_first() else lambda _: None
    with company():
        first = next(iter(pipeline.steps.values()))
        plan = sharing(first)(lambda: _plan(pipeline))
        return [_step(step, pipeline, plan[step], console, tell) for step in pipeline.steps]


def _plan(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """What becomes of each step: its settings and their mark, and whether it is kept or goes on."""
    record = _record(pipeline)
    settings: dict[str, dict[str, str]] = {}
    marks: dict[str, str] = {}
    for step, config in pipeline.steps.items():
        settings[step] = _settings(config, pipeline, marks)
        marks[step] = _digest(settings[step])
        if not pipeline.options.overwrite_output_dir:
            record.require_same(step, settings[step], pipeline.outputs[step])
    for step, config in pipeline.steps.items():
        if not record.holds(step, marks[step]):
            with _said_of(step):
                check_inputs(config, set(pipeline.outputs.values()))
    return {
        step: {
            "settings": settings[step],
            "mark": marks[step],
            "kept": record.holds(step, marks[step]) and Path(pipeline.outputs[step]).expanduser().exists(),
            "goes_on": not pipeline.options.overwrite_output_dir and record.was_killed(step, settings[step]),
        }
        for step in pipeline.steps
    }


def _step(
    step: str, pipeline: Pipeline, planned: Mapping[str, Any], console: bool, tell: Callable[[str], None]
) -> StepResult:
    """Run a step, or keep what there is of it. Of several processes the first keeps the record."""
    output, config, goes_on = pipeline.outputs[step], pipeline.steps[step], planned["goes_on"]
    if planned["kept"]:
        tell(f"step {step}: kept, the same settings made {output}")
        return StepResult(step=step, output=output, kept=True, result=None, seconds=0.0)
    tell(f"step {step}: {output}{' (goes on from where it was stopped)' * goes_on}")
    began = time.monotonic()
    record = _record(pipeline) if is_first() else None
    with _said_of(step), record.begun(step, planned["settings"], output) if record else nullcontext():
        result = RUNNERS[step](_going_on(config) if goes_on else config, console=console)
    if record:
        record.write(step, planned["settings"], planned["mark"], finished=True)
    return StepResult(step=step, output=output, kept=False, result=result, seconds=time.monotonic() - began)


def _record(pipeline: Pipeline) -> "_Record":
    return _Record(Path(pipeline.options.output_dir).expanduser())


def _going_on(config: CommandConfig) -> CommandConfig:
    """The same step, from its newest checkpoint on; afresh if it has none, or never has any."""
    if not isinstance(config, SFTConfig | RewardModelConfig | PPOConfig):
        return config
    run = config.run.model_copy(update={"resume_from_checkpoint": "auto", "overwrite_output_dir": False})
    return config.model_copy(update={"run": run})


@contextmanager
def _said_of(step: str) -> Iterator[None]:
    """Errors say which step they are about, and spell its flags as they are typed here."""
    try:
        yield
    except ClearPPOError as error:
        error.args = (f"step {step}: {as_typed(step, str(error))}",)
        raise


class _Record:
    """pipeline.json: for each step its settings, and whether it was finished."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / RECORD
        self.made = absent_directories(directory)
        self.steps: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.directory.exists() and not self.directory.is_dir():
            raise RunDirError(f"output_dir = {self.directory} is a file. Give a directory.")
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8"))["steps"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirError(
                f"{self.file} cannot be read ({error}), so nobody knows what made the steps beside it. "
                "Use another --output_dir, or delete the file and the steps."
            ) from error

    def holds(self, step: str, mark: str) -> bool:
        entry = self.steps.get(step, {})
        return bool(entry.get("finished")) and entry.get("mark") == mark

    def was_killed(self, step: str, settings: Mapping[str, str]) -> bool:
        """Whether the step was begun with these settings, and not finished."""
        entry = self.steps.get(step)
        return entry is not None and not entry.get("finished") and entry.get("settings") == settings

    def require_same(self, step: str, settings: Mapping[str, str], output: str) -> None:
        """Raises RunDirError if other settings made the step's output, or nobody knows what did."""
        entry = self.steps.get(step)
        if entry is None:
            if _holds_something(Path(output).expanduser()):
                raise RunDirError(
                    f"step {step}: {output} is there, and this pipeline did not make it. Use another --output_dir, or "
                    "--overwrite_output_dir true to replace it."
                )
            return
        before: dict[str, str] = entry["settings"]
        changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if entry.get("finished") and changed:
            name = changed[0]
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise RunDirError(
                f"step {step}: {output} was made with {name} = {before.get(name, 'not set')}, and now it is "
                f"{settings.get(name, 'not set')}{more}. Use another --output_dir, or --overwrite_output_dir true to "
                "make it again."
            )

    @contextmanager
    def begun(self, step: str, settings: Mapping[str, str], output: str) -> Iterator[None]:
        """Note that the step is not finished while it runs. If it fails before it has changed its output, the record
        is as it was before."""
        before, state = self.steps.get(step), _state(output)
        self.write(step, settings, "", finished=False)
        try:
            yield
        except BaseException:
            if _state(output) == state:
                self._restore(step, before)
            raise

    def write(self, step: str, settings: Mapping[str, str], mark: str, *, finished: bool) -> None:
        """Note what made the step's output, or is making it."""
        self.steps[step] = {"finished": finished, "mark": mark, "settings": dict(settings)}
        self._save()

    def _restore(self, step: str, entry: dict[str, Any] | None) -> None:
        del self.steps[step]
        if entry is not None:
            self.steps[step] = entry
        if self.steps:
            self._save()
        else:
            self.file.unlink(missing_ok=True)
            remove_empty(self.made)

    def _save(self) -> None:
        text = json.dumps({"version": 1, "steps": self.steps}, indent=2, ensure_ascii=False) + "\n"
        beside = self.file.with_name(f".{RECORD}.part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            beside.write_text(text, encoding="utf-8")
            beside.replace(self.file)
        except OSError as error:
            raise RunDirError(
                f"output_dir = {self.directory} cannot be written ({error.strerror}). Use another --output_dir."
            ) from error


def _settings(config: CommandConfig, pipeline: Pipeline, marks: Mapping[str, str]) -> dict[str, str]:
    """All that determines a step's output, as text: its options, and the state of what it reads."""
    sources = {output: step for step, output in pipeline.outputs.items() if step in marks}
    settings: dict[str, str] = {}
    for name, value in values(config).items():
        if name in SILENT_HERE:
            continue
        settings[name] = qualified_name(value) if callable(value) else spelled(value)
        text = settings[name]
        if text in sources:
            settings[name] = f"step {sources[text]} ({marks[sources[text]][:12]})"
        elif name in READ and isinstance(value, str | list) and (mark := _state(value)):
            settings[f"content of {name}"] = mark
    return settings


def _state(value: Any) -> str:
    """A mark of the files that an option names; "" if it names none."""
    names = [value] if isinstance(value, str) else [item for item in value if isinstance(item, str)]
    found = [Path(os.path.expanduser(name.rpartition(":")[0] if ".py:" in name else name)) for name in names]
    files = [file for path in found for file in _files(path)]
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} ".encode())
        digest.update(file.read_bytes() if status.st_size <= SMALL else str(status.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        return sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []
    except OSError:  # a name that no file can have: a hub name, or text
        return []


def _holds_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _digest(settings: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
