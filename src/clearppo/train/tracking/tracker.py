"""The socket of the trackers. A plug calls its package in here and nowhere else; it may raise whatever that raises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Ended = Literal["finished", "failed", "stopped"]
"""How a run ended: by itself, by an error, or because somebody stopped it."""
Plain = str | int | float | bool | None | list[str | int | float | bool | None]
"""What an option's value is to a tracker."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run when it begins.

    `key` is the run's own name among all runs, the same when it goes on after a kill, and fit for a file's name.
    `after` is the last step that was taken before, 0 for a new run; `resumed` says that it is none. `options` are the
    resolved configuration, flat; `config` is the same as YAML; `about` says in Markdown what the run is to do.
    """

    key: str
    name: str
    project: str
    command: str
    after: int
    resumed: bool
    options: Mapping[str, Plain]
    config: str
    about: str

    @property
    def unique_name(self) -> str:
        """The name with a part of the key, for those who tell runs apart by their names."""
        return f"{self.name}-{self.key[:4]}"


@runtime_checkable
class Tracker(Protocol):
    """Told of one run, from one thread: `open` first, `close` last. Steps count from 1 and may come twice."""

    @property
    def name(self) -> str:
        """The tracker's name, as in --report_to."""
        ...

    def open(self, run: TrackedRun) -> str | None:
        """Begin the run, or go on with it. Returns where a person can look at it, in a sentence, if there is more to
        say than its name."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; they may be nan and infinite."""
        ...

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table of a step: sample answers, results."""
        ...

    def summary(self, values: Mapping[str, float | str]) -> None:
        """What is known of the whole run: results of its end, the best checkpoint."""
        ...

    def rewind(self, after: int) -> None:
        """The run goes back: what follows are the steps after `after`, once more."""
        ...

    def close(self, ended: Ended) -> None:
        """The run has ended; what is not written yet is written now."""
        ...
