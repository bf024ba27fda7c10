"""What a person sees of a run: a progress bar in a terminal, plain lines in a log file."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from clearppo.train.listener import Listener, SampleRow, Summary, Table, headline

PHASES = {
    "loading": "loading",
    "sampling": "sampling 采样",
    "feedback": "feedback 反馈",
    "learning": "learning 学习",
    "evaluating": "evaluating 评估",
    "normalising": "normalising",
    "saving": "saving",
}


@contextlib.contextmanager
def console_listener(console: Console | None = None) -> Iterator[Listener]:
    """A listener that suits the terminal: live where it can redraw a line, plain lines on dumb ones and in files."""
    console = console or Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        # A log file has no width: tables should not be broken at 80 columns.
        yield PlainConsole(Console(highlight=False, width=max(console.width, 140), no_color=True, file=console.file))
        return
    live = LiveConsole(console)
    try:
        yield live
    finally:
        live.close()


class PlainConsole:
    """One line an iteration."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.n_iterations = self.done = 0
        self.round, self.headline = "iteration", headline
        self.began = time.monotonic()

    def started(self, summary: Summary, n_iterations: int) -> None:
        self.n_iterations, self.done = n_iterations, summary.done
        self.round, self.headline = summary.round, summary.headline
        self.began = time.monotonic()
        announce(self.console, summary)

    def phase(self, name: str) -> None:
        if name in ("loading", "normalising", "saving"):
            self.console.print(f"{PHASES.get(name, name)} ...")

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None:
        left = (time.monotonic() - self.began) / max(step - self.done, 1) * (self.n_iterations - step)
        self.console.print(f"{self.round} {step}/{self.n_iterations}  {self.headline(metrics)}  {_clock(left)} left")

    def samples(self, step: int, rows: Sequence[SampleRow]) -> None:
        self.console.print(sample_table(step, rows))

    def table(self, table: Table) -> None:
        self.console.print(result_table(table))

    def note(self, text: str) -> None:
        self.console.print(escape(text))

    def finished(self) -> None:
        self.console.print(f"done in {_clock(time.monotonic() - self.began)}")


class LiveConsole:
    """A bar with the phase, the iteration, the time left and the numbers that one watches."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.fields[phase]:<13}"),
            BarColumn(bar_width=None if console.width > 100 else 12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("run", total=None, phase="loading", numbers="")
        self.headline = headline
        self.progress.start()

    def started(self, summary: Summary, n_iterations: int) -> None:
        announce(self.console, summary)
        self.headline = summary.headline
        self.progress.reset(self.task, total=n_iterations, completed=summary.done)

    def phase(self, name: str) -> None:
        self.progress.update(self.task, phase=PHASES.get(name, name), refresh=True)

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None:
        self.progress.update(self.task, completed=step, numbers=self.headline(metrics))

    def samples(self, step: int, rows: Sequence[SampleRow]) -> None:
        self.console.print(sample_table(step, rows))

    def table(self, table: Table) -> None:
        self.console.print(result_table(table))

    def note(self, text: str) -> None:
        self.console.print(escape(text))

    def finished(self) -> None:
        self.close()

    def close(self) -> None:
        self.progress.stop()


def announce(console: Console, summary: Summary) -> None:
    """The objective really optimised in one line, the models, the sizes, and what the user should know."""
    console.print(f"[bold]objective[/bold]  {escape(summary.objective)}", soft_wrap=True)
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in summary.models[0]:
        table.add_column(name, justify="right" if name in ("parameters", "trainable") else "left", overflow="fold")
    for row in summary.models:
        table.add_row(*(escape(cell) for cell in row.values()))
    console.print(table)
    for name, value in summary.facts:
        console.print(f"{name:<14} {escape(value)}", soft_wrap=True)
    for note in summary.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)


def sample_table(step: int, rows: Sequence[SampleRow]) -> RichTable:
    """A few answers of an iteration, with their score and how far they are from the reference."""
    table = RichTable(title=f"answers in iteration {step}", title_justify="left", title_style="bold", show_lines=True)
    table.add_column("prompt", ratio=2)
    table.add_column("answer", ratio=3)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("KL", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(shortened(row.prompt)), escape(shortened(row.completion)), f"{row.score:+.2f}", f"{row.kl:+.1f}"
        )
    return table


def result_table(table: Table) -> RichTable:
    """Results, numbers on the right of their columns."""
    shown = RichTable(
        title=escape(table.title),
        title_justify="left",
        title_style="bold",
        header_style="dim",
        show_header=any(table.columns),
    )
    for place, name in enumerate(table.columns):
        shown.add_column(escape(name), justify="right" if place and table.numbers else "left")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    return shown


def shortened(text: str, limit: int = 240) -> str:
    """One line of at most `limit` characters, control characters gone (a model's answer must not drive a terminal)."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
