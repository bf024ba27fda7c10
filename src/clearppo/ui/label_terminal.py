"""Labelling in a terminal: the desk's items as panels, decisions by single keys, or by letters and Enter in a pipe."""

import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clearppo.data.labels import ALL_BAD, BETTER, TIE
from clearppo.errors import ClearPPOError
from clearppo.ui.label_agreement import Agreement
from clearppo.ui.label_desk import Desk, Shown

NARROWEST = 44
"""Columns of a panel below which answers stand beneath each other."""
HELP = "{choices} choose   t tie   b all bad   n note   u undo   s skip   q quit"
END = "\x04"  # Ctrl-D


def label_here(desk: Desk, labeller: str, console: Console, keyboard: "Keyboard") -> None:
    """Show items and take decisions until nothing is left or the labeller quits."""
    note = ""
    while (shown := desk.show(labeller)) is not None:
        console.print(_table(shown, note))
        start = time.monotonic()
        while True:
            console.print(Text(_status(desk, labeller, len(shown.answers)), style="dim"))
            key = keyboard.key().lower()
            if key in ("", "q", END):
                _leave(desk, labeller, console)
                return
            if key == "n":
                note = keyboard.line("note: ")
                continue
            try:
                said = _act(desk, labeller, shown, key, note, time.monotonic() - start)
            except ClearPPOError as error:
                console.print(Text(str(error), style="bold red"))
                continue
            if said is not None:
                note, words = said
                console.print(Text(words, style="green"))
                break
            console.print(Text(f"{key!r} is none of the keys.", style="yellow"))
    console.print(Text("Every item has your decision.", style="green"))
    _leave(desk, labeller, console)


def _act(desk: Desk, labeller: str, shown: Shown, key: str, note: str, seconds: float) -> tuple[str, str] | None:
    """Do what a key says: the note that stands after it, and words for what was done; None for a key that is none."""
    verdicts = {"t": (TIE, None), "b": (ALL_BAD, None)}
    verdicts |= {str(place + 1): (BETTER, place) for place in range(len(shown.answers))}
    if key in verdicts:
        verdict, place = verdicts[key]
        desk.decide(labeller, shown.item, verdict, place, note=note, seconds=seconds, nonce=uuid4().hex)
        return "", verdict if place is None else f"answer {key} is better"
    if key == "u":
        taken = desk.undo(labeller, nonce=uuid4().hex)
        return (taken.note, f"taken back: {taken.verdict}") if taken else (note, "nothing to take back")
    if key == "s":
        desk.skip(labeller, shown.item)
        return "", "skipped; it comes again at the end"
    return None


def _table(shown: Shown, note: str) -> RenderableType:
    turns = [{"role": "prompt", "content": shown.prompt}] if isinstance(shown.prompt, str) else shown.prompt
    above = [
        Panel(Text(printable(turn["content"])), title=str(turn["role"]), title_align="left", border_style="dim")
        for turn in turns
        if turn["content"]
    ]
    answers = [
        Panel(Text(printable(answer)), title=f"answer {place}", title_align="left", border_style="cyan")
        for place, answer in enumerate(shown.answers, start=1)
    ]
    noted = [Text(f"note: {printable(note)}", style="dim")] if note else []
    return Group(Text(""), *above, _Beside(answers), *noted)


class _Beside:
    """Panels beside each other where there is room, or beneath."""

    def __init__(self, panels: list[Panel]) -> None:
        self.panels = panels

    def __rich_console__(self, console: Console, options: object) -> Iterator[RenderableType]:
        width = console.width // len(self.panels)
        if width < NARROWEST:
            yield from self.panels
        else:
            yield Columns(self.panels, width=width - 1, padding=(0, 1), equal=True)


def _status(desk: Desk, labeller: str, n_answers: int) -> str:
    progress = desk.progress(labeller)
    parts = [f"{progress.labelled} of {progress.items} labelled, {progress.mine} by you"]
    if progress.seconds is not None:
        parts.append(f"{progress.seconds:.0f} s each")
    if progress.skipped:
        parts.append(f"{progress.skipped} skipped")
    if (equal := desk.agreement().equal) is not None:
        parts.append(f"agreement {equal:.0%}")
    choices = " ".join(map(str, range(1, n_answers + 1)))
    return f"{' · '.join(parts)}\n{HELP.format(choices=choices)}"


def _leave(desk: Desk, labeller: str, console: Console) -> None:
    found = desk.agreement()
    console.print(Text(f"{desk.progress(labeller).mine} decisions by {labeller}."))
    if found.pairs:
        console.print(*agreement_tables(found), sep="\n")


def agreement_tables(found: Agreement) -> list[RenderableType]:
    """What `clearppo label --agreement` prints."""
    people = Table("labeller", title="decisions", title_justify="left")
    for name in ("decisions", "ties", "all bad", "first shown was chosen", "seconds each"):
        people.add_column(name, justify="right")
    for person in found.people:
        numbers = [f"{person.n_decisions}", *(_percent(x) for x in (person.ties, person.all_bad, person.first))]
        people.add_row(
            Text(printable(person.labeller)), *numbers, "–" if person.seconds is None else f"{person.seconds:.1f}"
        )
    tables: list[RenderableType] = [people]
    if found.pairs:
        pairs = Table("labellers", title="agreement", title_justify="left")
        for name in ("items of both", "equal", "Cohen's kappa"):
            pairs.add_column(name, justify="right")
        for pair in found.pairs:
            names = Text(printable(" and ".join(pair.labellers)))
            pairs.add_row(names, f"{pair.n_items}", _percent(pair.equal), _number(pair.kappa))
        tables.append(pairs)
    shared = f"{found.n_items} items were decided by two or more people"
    if found.n_items:
        shared += f": {_percent(found.equal)} of their decisions are equal, Krippendorff's alpha {_number(found.alpha)}"
    return [*tables, Text(f"{shared}.")]


class Keyboard:
    """Where decisions come from. Within `with`, a terminal gives each key as it is pressed and shows none, and Ctrl-C
    still interrupts; of a pipe, and on Windows, it is the first letter of each line."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> "Keyboard":
        if sys.stdin.isatty() and sys.platform != "win32":
            import termios  # Windows has none

            self._before = termios.tcgetattr(sys.stdin.fileno())
            self._single()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines()

    def key(self) -> str:
        """A key; at the end of the input nothing, which quits."""
        if self._before is not None:
            return sys.stdin.read(1)
        line = sys.stdin.readline()
        return (line.strip() or "?")[0] if line else ""

    def line(self, prompt: str) -> str:
        """A line of text, shown as it is typed."""
        self._lines()
        sys.stdout.write(prompt)
        sys.stdout.flush()
        try:
            return sys.stdin.readline().strip()
        finally:
            self._single()

    def _single(self) -> None:
        if self._before is not None:
            import termios
            import tty

            tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)  # what was typed already is kept

    def _lines(self) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)


def printable(text: str) -> str:
    """Without the control characters that would drive the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.2f}"
