"""Decisions, items and stores for the tests of labelling."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clearppo.data.candidates import Candidate
from clearppo.data.labels import Decision, item_id
from clearppo.ui.label_store import LabelStore


def decision(
    item: str = "i", labeller: str = "ann", verdict: str = "better", choice: int | None = 0, **more: Any
) -> Decision:
    """A decision between two answers, or `completions`."""
    told = {"prompt": "Q", "completions": ("yes", "no"), "order": (0, 1), **more}
    return Decision(
        item=item, labeller=labeller, verdict=verdict, choice=choice if verdict == "better" else None, **told
    )


def candidates(count: int, n_answers: int = 2) -> list[Candidate]:
    """Items "Q0", "Q1", ... with answers "a0.0", "a0.1", ..."""
    made = []
    for number in range(count):
        answers = tuple(f"a{number}.{place}" for place in range(n_answers))
        made.append(Candidate(item=item_id(f"Q{number}", answers), prompt=f"Q{number}", completions=answers))
    return made


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_rows(path: Path, rows: Sequence[Any]) -> str:
    """A JSON-lines file of these rows; its name."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    """An open file of decisions."""
    opened = LabelStore.open(tmp_path / "labels.jsonl")
    yield opened
    opened.close()
