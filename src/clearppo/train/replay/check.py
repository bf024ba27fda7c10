"""Whether an iteration that was learned again is, number for number, the one that a run has kept."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clearppo.models.whole import InShards, whole
from clearppo.record import Iteration
from clearppo.train.weights import same_bits, stored_weights

MADE_AGAIN = ("advantages", "returns", "ratios", "advantage")
"""The columns of the record that learning again makes; the others are what it is made from."""
_OF_LEARNING = ("loss/", "policy/")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A number that is another: of which iteration, where it stands, what the run had, and what it is now."""

    step: int
    what: str
    was: float | None
    now: float | None

    def __str__(self) -> str:
        was, now = ("absent" if value is None else repr(value) for value in (self.was, self.now))
        apart = f" (apart by {abs(self.was - self.now):.1e})" if self.was is not None and self.now is not None else ""
        return f"{self.what} of iteration {self.step} was {was} and is {now}{apart}"


@dataclass(kw_only=True)
class Check:
    """What was compared so far, and what differs. `weights_of` says where the weights stand that were compared."""

    metrics: int = 0
    recorded: int = 0
    weights: int = 0
    memory: int = 0
    weights_of: str | None = None
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def identical(self) -> bool:
        return not self.differences

    def metrics_of(self, step: int, was: Mapping[str, float], now: Mapping[str, float]) -> None:
        """An iteration's row of metrics.jsonl, and the same measured again. A number that only one of them has counts
        where learning measures it; others may be of another version, or of an evaluation."""
        for name in now.keys() | was.keys():
            both = name in now and name in was
            if both or name.startswith(_OF_LEARNING):
                self.metrics += 1
                self._note(step, name, was.get(name), now.get(name))

    def record_of(self, step: int, was: Path, now: Path) -> None:
        """An iteration's file of the record, and the one that was written of it now. Raises RecordError."""
        before, after = (Iteration(path).columns(*MADE_AGAIN) for path in (was, now))
        for name in MADE_AGAIN:
            old, new = before[name].combine_chunks(), after[name].combine_chunks()
            self.recorded += _count(old)
            if not old.equals(new):
                place, left, right = _first(old.to_pylist(), new.to_pylist())
                self.differences.append(Difference(step=step, what=f"{name}{place}", was=left, now=right))

    def weights_after(
        self, step: int, learned: Mapping[str, nn.Parameter], state: Mapping[str, Any], directory: Path, *, of: str
    ) -> None:
        """All weights that learn, against those that a checkpoint, or a finished run, holds in this directory."""
        self.weights_of = of
        for name, stored in stored_weights(state, directory):
            was, now = whole(stored), learned[name].detach().cpu()
            self.weights += was.numel()
            if not same_bits(now, was):
                self._note(step, *_first_weight(name, was, now))

    def memory_after(self, step: int, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """What the optimiser remembers of each weight, and the running average: the `late` parts of two states."""
        before, after = dict(_tensors(was)), dict(_tensors(now))
        for name, value in before.items():
            again = after[name].detach().cpu()
            self.memory += value.numel()
            if not same_bits(again, value):
                self._note(step, *_first_weight(name, value, again))

    def _note(self, step: int, what: str, was: float | None, now: float | None) -> None:
        if was != now and not (was is not None and now is not None and math.isnan(was) and math.isnan(now)):
            self.differences.append(Difference(step=step, what=what, was=was, now=now))


def _tensors(tree: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a tree, each with the way to it."""
    match tree:
        case torch.Tensor() | InShards():
            yield place, whole(tree)
        case Mapping():
            for name, part in tree.items():
                yield from _tensors(part, f"{place}/{name}" if place else str(name))
        case list():
            for i, part in enumerate(tree):
                yield from _tensors(part, f"{place}/{i}")
        case _:
            pass


def _first_weight(name: str, was: torch.Tensor, now: torch.Tensor) -> tuple[str, float, float]:
    """The cell in which two tensors differ most, in words, and its values."""
    apart = (was.double() - now.double()).abs().flatten()
    cell = int(apart.argmax())
    n = int((was != now).sum())
    return f"{name} ({n} of {was.numel()} differ)", float(was.flatten()[cell]), float(now.flatten()[cell])


def _count(column: Any) -> int:
    """The numbers in a column, in its lists, or in the lists of its lists."""
    while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
        column = column.flatten()
    return len(column) - column.null_count


def _first(was: Any, now: Any, place: str = "") -> tuple[str, float | None, float | None]:
    """The first cell in which two nested lists differ, its place, and both values."""
    if isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            return f"{place} (length)", float(len(was)), float(len(now))
        for i, (left, right) in enumerate(zip(was, now, strict=True)):
            if left != right:
                return _first(left, right, f"{place}[{i}]")
    left, right = (value if isinstance(value, float) else None for value in (was, now))
    return place, left, right
