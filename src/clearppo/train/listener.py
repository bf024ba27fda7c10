"""Who watches a run: the console, a notebook, nobody."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


def headline(metrics: Mapping[str, float]) -> str:
    """The numbers that one watches in a run of PPO."""
    return (
        f"reward {metrics['objective/scores']:+.3f}  KL {metrics['objective/kl']:.2f} nats  "
        f"length {metrics['completions/mean_length']:.0f}  {metrics['tokens_per_second']:.0f} tok/s"
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run is about to do, for people: the objective in one line, a table of facts, and notes.

    `round` is what one round of its loop is called, `headline` puts a round's numbers that one watches into a line.
    `done` rounds were done before, by a run that this one goes on with.
    """

    objective: str
    facts: Sequence[tuple[str, str]]
    models: Sequence[Mapping[str, str]]
    notes: Sequence[str]
    round: str = "iteration"
    headline: Callable[[Mapping[str, float]], str] = headline
    done: int = 0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of results as people see it. The first column is words; so are the others unless `numbers`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True


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

    def table(self, table: Table) -> None: ...

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

    def table(self, table: Table) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finished(self) -> None:
        pass
