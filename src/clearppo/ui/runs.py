"""Which runs there are below some folders, and what is known of each without reading its numbers.

A run's id is its path relative to the folder that was searched, "/" written as "~". Ids are looked up in the index that
the search made; nothing that a client sends is ever part of a path.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from clearppo.config import PPOConfig, load_config
from clearppo.config.objective import objective
from clearppo.errors import ClearPPOError, RunDirError
from clearppo.lock import is_locked
from clearppo.rundir import CHECKPOINT, OWN_DIRECTORIES

DEPTH = 5
"""So far below a folder runs are looked for."""
TAIL = 1 << 18
"""Bytes at the end of metrics.jsonl among which the last row is looked for."""
NEVER = {"node_modules", "site-packages", "__pycache__", *OWN_DIRECTORIES}
"""Folders in which no run is looked for."""

STEPS = ("sft", "reward", "ppo")
"""The folders of a pipeline's steps."""
NAMED = 8
"""Runs that a message names at most."""

Kind = Literal["ppo", "sft", "reward"]
State = Literal["running", "waiting", "finished", "stopped"]

_HEADER = re.compile(r"\A# The resolved configuration of a run, written by ClearPPO .*\n# .*?clearppo (\w+) ")
_LINE = re.compile(r"^ {4}((?:maximise|minimise) .*?)\s*$", re.MULTILINE)
"""The objective in a model card."""


@dataclass(frozen=True)
class Run:
    """A run's directory and what it is called."""

    id: str
    name: str
    path: Path
    kind: Kind

    def file(self, *parts: str) -> Path | None:
        """A file of the run, if it is there and no link leads out of the run's directory."""
        path = self.path.joinpath(*parts)
        return path if path.is_file() and path.resolve().is_relative_to(self.path.resolve()) else None

    def directory(self, name: str) -> Path | None:
        """The same of a directory directly below the run's."""
        path = self.path / name
        return path if path.is_dir() and not path.is_symlink() else None

    @property
    def step(self) -> int:
        """The last round of which there is a row."""
        file = self.file("metrics.jsonl")
        return last_step(file) if file else 0

    @property
    def state(self) -> State:
        """running: a process holds the directory's lock; waiting: it does, and no round is done yet."""
        if is_locked(self.path):
            return "running" if self.step else "waiting"
        return "finished" if self.file("finished.json") else "stopped"

    @property
    def n_steps(self) -> int | None:
        """How many rounds the run has from beginning to end, where that can be told."""
        for name in ("finished.json", "started.json"):
            if type(rounds := (self.json(name) or {}).get("rounds")) is int:
                return rounds
        section = self.options().get("run")
        numbers = section if isinstance(section, dict) else {}
        episodes, batch = numbers.get("total_episodes"), numbers.get("batch_size")
        if isinstance(episodes, int) and isinstance(batch, int) and batch > 0:
            return -(-episodes // batch)
        return None

    @property
    def updated(self) -> float:
        """When something was written last, in seconds since 1970."""
        names = ("metrics.jsonl", "timings.jsonl", "config.yaml", "finished.json")
        files = [file for name in names if (file := self.file(name))]
        return max(file.stat().st_mtime for file in files or [self.path])

    def json(self, *parts: str) -> dict[str, Any] | None:
        """A JSON file of the run; None if it is not there or no JSON object."""
        file = self.file(*parts)
        if file is None:
            return None
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def best(self) -> list[dict[str, Any]]:
        """The marks of best.json, each with `step`, `metric` and `value`, the earliest first; others are left out."""
        found = (self.json("best.json") or {}).get("best")
        kinds = {"step": int, "metric": str, "value": int | float}
        return [
            mark
            for mark in (found if isinstance(found, list) else [])
            if isinstance(mark, dict) and all(isinstance(mark.get(name), kind) for name, kind in kinds.items())
        ]

    def reward_report(self) -> dict[str, Any] | None:
        """reward_report.json; None if it is not there or another file of that name."""
        report = self.json("reward_report.json")
        return report if report is not None and report.get("schema") == "clearppo.reward_report" else None

    def config_text(self) -> str:
        """config.yaml, or nothing."""
        file = self.file("config.yaml")
        return _text(file) if file else ""

    def options(self) -> dict[str, Any]:
        """The options of config.yaml, in sections; those without effect are not among them."""
        return _options(self.config_text())

    def objective(self) -> str | None:
        """What the run optimises, in one line: as it said itself when it began, or in its model card; else by the
        options of PPO. None where none of these can be read."""
        said = (self.json("started.json") or {}).get("objective")
        if isinstance(said, str):
            return said
        if (card := self.file("README.md")) and (line := _LINE.search(_text(card))):
            return line[1]
        file = self.file("config.yaml")
        return _objective(file, self.config_text()) if self.kind == "ppo" and file else None

    def models(self) -> dict[str, str | None]:
        """Where the models are that the run has saved, by what they are; `final` None: there is none yet."""
        found: dict[str, str | None] = {"final": str(self.path) if _holds_model(self.path) else None}
        for name in ("value_model", "ema_model", "adapter", "interrupted"):
            if self.directory(name):
                found[name] = str(self.path / name)
        return found

    def summary(self) -> dict[str, Any]:
        """The run in a list of runs, but for what the record says of it."""
        return {
            "id": self.id,
            "name": self.name,
            "path": str(self.path),
            "kind": self.kind,
            "state": self.state,
            "step": self.step,
            "n_steps": self.n_steps,
            "updated": self.updated,
            "report": self.file("report.html") is not None,
            "reward_report": self.reward_report() is not None,
        }


@dataclass
class Index:
    """The runs in or below some folders. Safe to use from several threads."""

    roots: Sequence[Path]
    _runs: dict[str, Run] = field(default_factory=dict)
    _ids: dict[Path, str] = field(default_factory=dict)
    _rest: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def runs(self) -> list[Run]:
        """All runs, as they are on the disk now, by id. A long search is not repeated at once."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._rest or any(not run.path.is_dir() for run in self._runs.values()):
                self._search()
                now = time.monotonic()
                self._rest = now + 10 * (now - begun)
            return [self._runs[key] for key in sorted(self._runs)]

    def get(self, run_id: str) -> Run | None:
        """The run of this id, if the index has it."""
        with self._lock:
            return self._runs.get(run_id)

    def _search(self) -> None:
        found: dict[str, Run] = {}
        for root in self.roots:
            for path in find_runs(root):
                if (kind := kind_of(path)) is not None and path not in {run.path for run in found.values()}:
                    name = self._name(root, path)
                    key = self._id(path, name)
                    found[key] = Run(id=key, name=name, path=path, kind=kind)
        self._runs = found

    def _name(self, root: Path, path: Path) -> str:
        inside = path.relative_to(root)
        if inside == Path():
            return root.name or "/"
        several = len(self.roots) > 1
        return (Path(root.name) / inside if several else inside).as_posix()

    def _id(self, path: Path, name: str) -> str:
        """An id stays with its path, and no two paths have the same."""
        if path not in self._ids:
            wanted, taken, n = name.replace("/", "~"), set(self._ids.values()), 2
            key = wanted
            while key in taken:
                key, n = f"{wanted}-{n}", n + 1
            self._ids[path] = key
        return self._ids[path]


def open_index(folders: Sequence[Path]) -> Index:
    """The index of these folders. Raises RunDirError if one is not there, or there is no run in any."""
    roots = list(dict.fromkeys(Path(os.path.abspath(folder.expanduser())) for folder in folders))
    for root in roots:
        if not root.is_dir():
            what = "is a file" if root.exists() else "is not there"
            raise RunDirError(f"{root} {what}. Give the output_dir of a run, or a folder that holds runs.")
    index = Index([root.resolve() for root in roots])
    if not index.runs():
        where = " or ".join(str(root) for root in roots)
        raise RunDirError(
            f"there is no run in {where}, nor up to {DEPTH} folders below. Give the output_dir of a run: "
            "clearppo view RUN_DIR; clearppo quickstart makes one in minutes."
        )
    return index


def find_runs(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The runs in a folder and below it; links are not followed, hidden folders and checkpoints left out."""
    if kind_of(root) is not None:
        yield root
    if depth == 0:
        return
    try:
        with os.scandir(root) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:  # a folder that may not be read is none of the user's runs
        return
    for name in below:
        if not name.startswith((".", CHECKPOINT)) and name not in NEVER:
            yield from find_runs(root / name, depth - 1)


def named_below(directory: Path) -> str:
    """The runs and pipelines further below, to end a message for who gave the folder that they lie in; or nothing."""
    found: dict[Path, None] = {}
    for path in find_runs(directory):
        pipeline = path.name in STEPS and path.parent != directory and (path.parent / "pipeline.json").is_file()
        found[path.parent if pipeline else path] = None
    names = [str(path) for path in found]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; below it there are {', '.join(names[:NAMED])}{more}" if names else ""


def kind_of(path: Path) -> Kind | None:
    """What kind of run lies in a folder; None: no run that has begun."""
    config = path / "config.yaml"
    try:
        if not config.is_file():
            return None
        with config.open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(4096)
    except OSError:
        return None
    header = _HEADER.match(head)
    if header is None:
        return None
    kind = header[1]
    return kind if kind in ("ppo", "sft", "reward") else None


def last_step(file: Path) -> int:
    """The largest "step" among the last rows of a JSON-lines file; 0 if there is none."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL))
        lines = stream.read().split(b"\n")
    steps = [0]
    for line in lines[-4:-1]:  # behind the last line end there is nothing, or half a row
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is int:
            steps.append(step)
    return max(steps)


def _text(file: Path) -> str:
    """What a file reads, or nothing."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("model*.safetensors"))


class _Loader(yaml.SafeLoader):
    """YAML without references: a few lines of these can stand for more than any memory holds, and no run writes one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a reference (*name) in a run's config.yaml")
        return super().compose_node(parent, index)


@lru_cache(maxsize=256)
def _options(text: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=256)
def _objective(file: Path, text: str) -> str | None:
    """The objective of the configuration in `file`, which reads `text`."""
    try:
        return objective(load_config(PPOConfig, config_path=file)) if _options(text) else None
    except ClearPPOError:
        return None
