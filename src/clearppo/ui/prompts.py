"""Prompts and their answers through time, from the record (training) and from evaluation/ (held-out prompts)."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearppo.errors import RecordError
from clearppo.record import Iteration, iteration_path, steps
from clearppo.record.schema import prompt_id, prompt_of
from clearppo.rundir import EVALUATION
from clearppo.ui.runs import Run

ANSWER = ("row", "completion", "score", "kl", "length", "finish_reason")
"""What is told of an answer."""


@dataclass
class _Read:
    """What is kept of a file: how many answers to each prompt it has, and when it was written."""

    stamp: tuple[int, int]
    counts: Counter[str]


@dataclass
class Archive:
    """The prompts of a run. Files are read once, and again if they change. Safe to use from several threads."""

    run: Run
    _texts: dict[str, Any] = field(default_factory=dict)
    _read: dict[Path, _Read] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prompts(self, query: str, offset: int, limit: int) -> dict[str, Any]:
        """A page of the prompts in which `query` stands, or whose id it is, the most often answered ones first."""
        with self._lock:
            self._refresh()
            rows = self._rows()
            wanted = query.casefold()
            matching = [row for row in rows if wanted in plain(row["prompt"]).casefold() or wanted == row["prompt_id"]]
            matching.sort(key=lambda row: (-row["n"], plain(row["prompt"])))
            return {"total": len(rows), "matching": len(matching), "prompts": matching[offset : offset + limit]}

    def prompt(self, wanted: str) -> dict[str, Any] | None:
        """A prompt with all its answers, the earliest first; None: it has none."""
        with self._lock:
            self._refresh()
            if wanted not in self._texts:
                return None
            holding = [path for path, read in self._read.items() if read.counts[wanted]]
        answers: list[dict[str, Any]] = []
        for path in holding:
            training = path.suffix == ".parquet"
            step, found = _step(path), _recorded(path, wanted) if training else _measured(path, wanted)
            answers += [{"source": "training" if training else "evaluation", "step": step, **row} for row in found]
        answers.sort(key=lambda answer: (answer["step"], answer["source"], answer["row"]))
        return {"prompt_id": wanted, "prompt": self._texts[wanted], "answers": answers}

    def _rows(self) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for path, read in sorted(self._read.items(), key=lambda item: _step(item[0])):
            step, source = _step(path), "n_training" if path.suffix == ".parquet" else "n_evaluation"
            for key, n in read.counts.items():
                row = rows.setdefault(
                    key,
                    {"prompt_id": key, "prompt": self._texts[key], "n": 0, "n_training": 0, "n_evaluation": 0}
                    | {"first": step},
                )
                row["n"] += n
                row[source] += n
                row["last"] = step
        return list(rows.values())

    def _refresh(self) -> None:
        files = list(_files(self.run))
        for path in self._read.keys() - set(files):
            del self._read[path]
        for path in files:
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
                if path not in self._read or self._read[path].stamp != stamp:
                    found = _texts_of(path)
                    self._texts |= {key: text for key, text in found if key not in self._texts}
                    self._read[path] = _Read(stamp, Counter(key for key, _ in found))
            except (
                OSError,
                RecordError,
                ValueError,
                RecursionError,
            ):  # gone, or damaged, as opening that iteration says
                self._read.pop(path, None)


def evaluated(run: Run) -> list[int]:
    """The steps at which a run was measured."""
    return sorted(_step(path) for path in _evaluations(run))


def evaluation_rows(run: Run, step: int) -> list[dict[str, Any]] | None:
    """Every answer of a measurement; None: there was none at this step."""
    path = run.file(EVALUATION, f"step-{step}.jsonl")
    return None if path is None else _lines(path)


def plain(prompt: Any) -> str:
    """A prompt as one text: a conversation's messages below each other."""
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    return str(prompt)


def _files(run: Run) -> Iterable[Path]:
    if run.directory("record"):
        paths = (iteration_path(run.path, step) for step in steps(run.path))
        yield from (path for path in paths if run.file("record", path.name))
    yield from _evaluations(run)


def _evaluations(run: Run) -> list[Path]:
    directory = run.directory(EVALUATION)
    files = directory.glob("step-*.jsonl") if directory else ()
    return [path for path in files if _named(path) and run.file(EVALUATION, path.name)]


def _named(path: Path) -> bool:
    number = path.stem.removeprefix("step-")
    return number.isascii() and number.isdecimal() and str(int(number)) == number


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _texts_of(path: Path) -> list[tuple[str, Any]]:
    """The prompt of every answer in a file, with its id."""
    if path.suffix != ".parquet":
        return [(prompt_id(row["prompt"]), row["prompt"]) for row in _lines(path)]
    columns = Iteration(path).columns("prompt_id", "prompt").to_pydict()
    known: dict[str, Any] = {}
    for key, cell in zip(columns["prompt_id"], columns["prompt"], strict=True):
        if key not in known:
            known[key] = prompt_of(cell, key)
    return [(key, known[key]) for key in columns["prompt_id"]]


def _recorded(path: Path, wanted: str) -> list[dict[str, Any]]:
    try:
        rows = Iteration(path).columns("prompt_id", *ANSWER).to_pylist()
    except RecordError:  # gone since: a run that makes room
        return []
    return [{name: row[name] for name in ANSWER} for row in rows if row["prompt_id"] == wanted]


def _measured(path: Path, wanted: str) -> list[dict[str, Any]]:
    return [
        {"row": place} | {name: row.get(name) for name in ANSWER if name != "row"}
        for place, row in enumerate(_lines(path))
        if prompt_id(row["prompt"]) == wanted
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without those that are none."""
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return rows
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and "prompt" in row:
            rows.append(row)
    return rows
