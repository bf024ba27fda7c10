"""TensorBoard: event files in a directory, through torch's own writer."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.train.tracking.tracker import Ended, TrackedRun


class TensorBoardTracker:
    """Writes event files to a directory of this run, which `place` makes of it.

    After a kill, and wherever a run goes back, a new file says from which step on it replaces the ones before.
    """

    name = "tensorboard"

    def __init__(self, place: Callable[[TrackedRun], Path]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported at once: a broken package is known before the run

        self._make = SummaryWriter
        self._place = place
        self._directory = Path()
        self._writer: Any = None

    def open(self, run: TrackedRun) -> str:
        self._directory = self._place(run)
        self.rewind(run.after)
        self._writer.add_text("run/config", f"```yaml\n{run.config}```", run.after)
        if run.about:
            self._writer.add_text("run/about", run.about, run.after)
        self._writer.flush()
        return f"tensorboard --logdir {self._directory}"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what was told before a kill is there after it

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        self._writer.add_text(name, markdown(columns, rows), step)
        self._writer.flush()

    def summary(self, values: Mapping[str, float | str]) -> None:
        self._writer.add_text("run/summary", markdown(("", ""), list(values.items())))
        self._writer.flush()

    def rewind(self, after: int) -> None:
        if self._writer is not None:
            self._writer.close()
        _wait_for_a_later_name(self._directory)
        self._writer = self._make(log_dir=str(self._directory), purge_step=after + 1)

    def close(self, ended: Ended) -> None:
        if self._writer is not None:
            self._writer.close()


def _wait_for_a_later_name(directory: Path) -> None:
    """TensorBoard reads event files in the order of their names, which begin with the second they were made in: of two
    files of one second the later may be read first, and what it replaces would replace it."""
    seconds = [file.name.split(".")[3] for file in directory.glob("events.out.tfevents.*")]
    newest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    if 0 < (left := newest + 1 - time.time()) <= 1:
        time.sleep(left)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table in Markdown; a cell's own bars and line ends are made harmless."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", " ⏎ ")
