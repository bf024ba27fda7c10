"""Labelling in a terminal: the desk's items as panels, decisions by single keys, or by letters and Enter in a pipe."""

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clearppo.data.checks import counted
from clearppo.data.labels import ALL_BAD, BETTER, TIE
from clearppo.errors import ClearPPOError, DataError
from clearppo.ui.label_agreement import Agreement
from clearppo.ui.label_desk import Desk, Shown, labeller_name
from clearppo.ui.label_results import Duel

NARROWEST = 44
"""Columns of a panel below which answers stand beneath each other."""
HELP = "{choices} choose   t tie   b all bad   n note   u undo   s skip   q quit"
END = "\x04"  # Ctrl-D
CUT = "cut off at the length limit"
ESCAPE = "\x1b"
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?|[\x00-\x08\x0a-\x1f\x7f]", re.S)
"""What a terminal sends for an arrow, a function key, or Alt or Ctrl and another one."""
UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)")
QUIET = 0.03
"""Seconds after which what comes is another key: of one key all characters come at once."""
SLOW = 0.5
"""The same within a sequence that has no end yet, as over a slow line."""
LONGEST = 20_000
"""Characters of a text that are drawn: a screen of millions takes minutes."""


def label_here(
    desk: Desk, labeller: str, console: Console, keyboard: "Keyboard", *, output: str, following: str
) -> None:
    """Show items and take decisions until nothing is left or the labeller quits; then say where the decisions are
    (`output`), what they make of the writers, and which command learns from them (`following`)."""
    note = ""
    while (shown := desk.show(labeller)) is not None:
        console.print(_table(shown, note))
        start = time.monotonic()
        while True:
            console.print(Text(_status(desk, labeller, len(shown.answers)), style="dim"))
            key = keyboard.key().lower()
            if key in ("", "q", END):
                _leave(desk, labeller, console, output, following)
                return
            if key == "n":
                note = keyboard.line("note: ") or ""
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
            named = repr(key) if len(key) == 1 and key != ESCAPE else "That"
            console.print(Text(f"{named} is none of the keys.", style="yellow"))
    console.print(Text("Every item has your decision.", style="green"))
    _leave(desk, labeller, console, output, following)


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
        Panel(Text(_drawn(turn["content"])), title=str(turn["role"]), title_align="left", border_style="dim")
        for turn in turns
        if turn["content"]
    ]
    answers = [
        Panel(
            Text(_drawn(answer)),
            title=f"answer {place}",
            title_align="left",
            subtitle=CUT if cut else None,
            subtitle_align="left",
            border_style="cyan",
        )
        for place, (answer, cut) in enumerate(zip(shown.answers, shown.cut, strict=True), start=1)
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
    if (equal := desk.recent_agreement().equal) is not None:
        parts.append(f"agreement {equal:.0%}")
    choices = " ".join(map(str, range(1, n_answers + 1)))
    return f"{' · '.join(parts)}\n{HELP.format(choices=choices)}"


def _leave(desk: Desk, labeller: str, console: Console, output: str, following: str) -> None:
    found, progress = desk.agreement(), desk.progress(labeller)
    place = f", in {output}" if progress.mine else ""
    console.print(Text(f"{counted(progress.mine, 'decision')} by {labeller}{place}."))
    if found.pairs:
        console.print(*agreement_tables(found), sep="\n")
    for part in result_tables(desk.results()):
        console.print(part)
    if progress.labelled:
        console.print(Text(f"Next: {following}"), soft_wrap=True)


def result_tables(found: Sequence[Duel]) -> list[RenderableType]:
    """Who is preferred to whom, how often, and how sure that is; nothing if the answers have not two known writers."""
    compared = [duel for duel in found if duel.n_prompts]
    said: list[RenderableType] = []
    if compared:
        table = Table("answers of", title="results", title_justify="left")
        for name in ("prompts", "wins", "ties", "all\nbad", "losses", "win\nrate", "95%\ninterval"):
            table.add_column(name, justify="right", no_wrap=True)
        for duel in compared:
            counts = (duel.n_prompts, duel.wins, duel.ties, duel.all_bad, duel.losses)
            interval = f"{_percent(duel.low)}–{_percent(duel.high)}"
            names = Text(printable("\nagainst ".join(duel.sources)), overflow="fold")
            table.add_row(names, *map(str, counts), _percent(duel.rate), interval)
        said += [table, Text('A tie and "all bad" count half a win; each prompt counts once.')]
    return [*said, *(Text(printable(_verdict(duel))) for duel in found)]


def _verdict(duel: Duel) -> str:
    first, second = duel.sources
    left_out = f" {counted(duel.n_uneven, 'decision')} between unequal numbers of their answers left out." * bool(
        duel.n_uneven
    )
    if not duel.n_prompts:
        return f"{first} and {second}: no decision compares as many answers of one as of the other.{left_out}"
    wins = f"it wins {_percent(duel.rate)} (95% interval {_percent(duel.low)} to {_percent(duel.high)})"
    if duel.is_settled:
        return f"{first} is preferred to {second}: {wins}.{left_out}"
    return f"{first} against {second}: {wins}, so it cannot be told yet which is preferred.{left_out}"


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
    were = "was" if found.n_items == 1 else "were"
    shared = f"{counted(found.n_items, 'item')} {were} decided by two or more people"
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
        """A key; at the end of the input nothing, which quits.

        What a terminal sends at once, for an arrow or from a paste, is one thing: its characters are no keys.
        """
        if self._before is not None:
            return _at_once(sys.stdin.fileno()).decode(errors="replace")
        line = sys.stdin.readline()
        return (line.strip() or "?")[0] if line else ""

    def line(self, prompt: str) -> str | None:
        """A line of text, shown as it is typed; None at the end of the input."""
        self._lines()
        sys.stdout.write(prompt)
        sys.stdout.flush()
        try:
            line = sys.stdin.readline()
        finally:
            self._single()
            self._forget()
        return SEQUENCE.sub("", line).strip() if line else None

    def _single(self) -> None:
        if self._before is not None:
            import termios
            import tty

            tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)  # what was typed already is kept

    def _forget(self) -> None:
        """What was pasted after the end of a line is no key."""
        if self._before is not None:
            import termios

            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    def _lines(self) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)


def ask_name(console: Console, keyboard: Keyboard) -> str:
    """The labeller's name; who sits at a terminal is asked again for one that is none. Else raises DataError."""
    while True:
        typed = keyboard.line("your name: ")
        try:
            return labeller_name(typed or "")
        except DataError as error:
            if typed is None or not sys.stdin.isatty():  # the next line of a pipe is a key
                raise
            console.print(Text(str(error), style="bold red"))


def _at_once(handle: int) -> bytes:
    """All that a terminal sends until it is quiet."""
    burst = os.read(handle, 4096)
    while burst:
        patience = SLOW if UNFINISHED.fullmatch(burst) else QUIET
        if not select.select([handle], [], [], patience)[0]:
            break
        more = os.read(handle, 4096)
        if not more:
            break
        burst = (burst + more)[:4096]
    return burst


def _drawn(text: str) -> str:
    """A text as it goes to the screen: its beginning, if it is enormous."""
    left = len(text) - LONGEST
    if left <= 0:
        return printable(text)
    said = "1 more character is" if left == 1 else f"{left:,} more characters are"
    return f"{printable(text[:LONGEST])}\n[{said} not drawn]"


def printable(text: str) -> str:
    """Without the control characters that would drive the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.2f}"
