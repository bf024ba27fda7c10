"""All trackers of a run as one: what is told to it is told to each, and nobody waits."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from clearppo.config import CommandConfig, dump_config, values
from clearppo.config.kinds import qualified_name
from clearppo.errors import StopRequested
from clearppo.train.listener import Summary
from clearppo.train.tracking.channel import WAITING, Channel
from clearppo.train.tracking.tracker import Ended, Plain, TrackedRun, Tracker

LAST_WAIT = 10.0
"""Seconds that the end of a run waits for all its trackers together."""
TABLE_ROWS = 64
"""Rows of a table that trackers are told of; samples.jsonl has all."""


class Trackers:
    """Tells every tracker of a run; without any it does nothing.

    Open while `running` is; what is told to it at other times is lost. Never raises what a tracker raises.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker] = (),
        *,
        name: str = "",
        project: str = "",
        limit: int = WAITING,
        last_wait: float = LAST_WAIT,
    ) -> None:
        self._trackers = trackers
        self._name, self._project = name, project
        self._limit, self._last_wait = limit, last_wait
        self._channels: list[Channel] = []
        self._note: Callable[[str], None] = _nobody
        self._step = 0
        self._resumed = False
        # Not from the seeded generators: two runs with one seed are two runs, and chance in training is not touched.
        self._key = secrets.token_hex(6)

    def state(self) -> dict[str, Any]:
        """What the run's trackers need to go on with it after a kill: the last step they were told, and its key."""
        # Without trackers no key: it is by chance, and two runs with one seed shall leave the same bytes.
        return {"step": self._step, **({"key": self._key} if self._trackers else {})}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the run that `state` is of; to trackers that it did not have, the run is new. While the run is
        open it goes back to that state's step."""
        self._step = int(state["step"])
        if "key" in state:
            self._key, self._resumed = str(state["key"]), True
        self._tell(lambda tracker: partial(tracker.rewind, self._step))

    @contextmanager
    def running(
        self, config: CommandConfig, summary: Summary | None = None, *, note: Callable[[str], None]
    ) -> Iterator[None]:
        """The trackers' threads, while a run goes on. `note` is told, from the run's own thread, what a person should
        know of them. The end waits for them `last_wait` seconds at most, and not at all where it is to be at once."""
        if not self._trackers:
            yield
            return
        self._note = note
        self._channels = [Channel(tracker, limit=self._limit) for tracker in self._trackers]
        run = self._tracked(config, summary)
        for channel in self._channels:
            channel.open(run)
        ended: Ended = "failed"
        wait = self._last_wait
        try:
            yield
            ended = "finished"
        except KeyboardInterrupt as error:
            # A second Ctrl-C, and one that nobody asked to wait, ends at once.
            ended, wait = "stopped", wait if isinstance(error, StopRequested) and not error.at_once else 0.0
            raise
        finally:
            self._close(ended, wait)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step, counted from 1."""
        self._step = step
        told = dict(values)
        self._tell(lambda tracker: partial(tracker.metrics, step, told))

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table of a step; of a long one its first rows."""
        told = [tuple(row) for row in rows[:TABLE_ROWS]]
        self._tell(lambda tracker: partial(tracker.table, name, step, tuple(columns), told))

    def summary(self, values: Mapping[str, float | str]) -> None:
        """What is known of the whole run."""
        told = dict(values)
        self._tell(lambda tracker: partial(tracker.summary, told))

    def _tell(self, call_of: Callable[[Tracker], Callable[[], object]]) -> None:
        for channel in self._channels:
            channel.put(call_of(channel.tracker))
        self._pass_on()

    def _pass_on(self) -> None:
        for channel in self._channels:
            for note in channel.notes():
                self._note(note)

    def _close(self, ended: Ended, wait: float) -> None:
        until = time.monotonic() + wait
        for channel in self._channels:
            channel.end(ended)
        for channel in self._channels:
            channel.wait(until)
        self._pass_on()
        self._channels, self._note = [], _nobody

    def _tracked(self, config: CommandConfig, summary: Summary | None) -> TrackedRun:
        options = {name: plain(value) for name, value in values(config).items()}
        return TrackedRun(
            key=self._key,
            name=self._name,
            project=self._project,
            command=config.command,
            after=self._step,
            resumed=self._resumed,
            options=options,
            config=dump_config(config),
            about="" if summary is None else about(summary),
        )


def plain(value: object) -> Plain:
    """An option's value as a tracker takes it; a function by its name."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [item if isinstance(item, str | int | float | bool | None) else qualified_name(item) for item in value]
    return qualified_name(value)


def about(summary: Summary) -> str:
    """What a run is to do, in Markdown."""
    facts = "".join(f"- {name}: {value}\n" for name, value in summary.facts)
    notes = "".join(f"- note: {note}\n" for note in summary.notes)
    return f"{summary.objective}\n\n{facts}{notes}"


def _nobody(text: str) -> None:
    """Nobody is told."""
