"""Who watches a run: the console, a notebook, nobody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run is about to do, for people: the objective in one line, a table of facts, and notes."""

    objective: str
    facts: Sequence[tuple[str, str]]
    models: Sequence[Mapping[str, str]]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One answer as people see it."""

    prompt: str
    completion: str
    score: float
    kl: float


@runtime_checkable
class Listener(Protocol):
    """Told of every event of a run, in order. A listener never changes a run."""

    def started(self, summary: Summary, n_iterations: int) -> None: ...

    def phase(self, name: str) -> None: ...

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def samples(self, step: int, rows: Sequence[SampleRow]) -> None: ...

    def note(self, text: str) -> None: ...

    def finished(self) -> None: ...


class Silence:
    """Nobody watches."""

    def started(self, summary: Summary, n_iterations: int) -> None:
        pass

    def phase(self, name: str) -> None:
        pass

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def samples(self, step: int, rows: Sequence[SampleRow]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finished(self) -> None:
        pass
