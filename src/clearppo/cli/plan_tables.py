"""A plan on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clearppo.plan.after import Beside
from clearppo.plan.memory import GIB, ROLES
from clearppo.plan.result import Plan, an, duration, gib

SHOWN_CHANGES = 12


def show_plan(plan: Plan) -> None:
    """All of it."""
    console = _console()
    for name, value in plan.facts:
        console.print(Text(f"{name:<12} {value}"), soft_wrap=True)
    for line in plan.layout:
        console.print(Text(f"{'layout':<12} {line}"), soft_wrap=True)
    if plan.flags:
        console.print(Text(f"{'options':<12} {plan.flags}"), soft_wrap=True)
    if plan.host_bytes:
        console.print(Text(f"{'host':<12} {gib(plan.host_bytes)} in the memory of each machine"), soft_wrap=True)
    console.print()
    console.print(_memory(plan))
    console.print()
    seconds = ", ".join(f"{phase} {duration(value)}" for phase, value in plan.seconds.items())
    console.print(Text(f"{an(plan.round).capitalize()}: {seconds}"), soft_wrap=True)
    if plan.changes:
        console.print()
        console.print(_changes(plan))
    if plan.largest:
        sizes = ", ".join(f"--{name} {size}" if size else f"no --{name}" for name, size in plan.largest.items())
        console.print(Text(f"\nThe largest that fits, each by itself: {sizes}"), soft_wrap=True)
    for line in plan.assumptions:
        console.print(Text(f"assumed: {line}", style="dim"), soft_wrap=True)
    style = "bold" if plan.fits else "bold red"
    console.print(Text(f"\n{plan.sentence[0].upper()}{plan.sentence[1:]}.", style=style), soft_wrap=True)


def show_beside(plan: Mapping[str, Any], rows: Sequence[Beside]) -> None:
    """Planned against measured."""
    table = _table("", "planned GiB", "measured GiB", "planned s", "measured s")
    for row in rows:
        table.add_row(
            row.phase, _gib(row.planned_bytes), _gib(row.measured_bytes), _seconds(row.planned_seconds),
            _seconds(row.measured_seconds),
        )  # fmt: skip
    console = _console()
    console.print(table)
    whole = rows[-1]
    if whole.planned_bytes and whole.measured_bytes:
        off = whole.measured_bytes / whole.planned_bytes - 1
        console.print(Text(f"\nThe measured peak is {off:+.0%} of the planned one.".replace("+0%", "0%")))
    else:
        console.print(Text("\nNo memory was measured."))


def _memory(plan: Plan) -> Table:
    phases = list(plan.table.phases)
    table = _table("GiB", *phases)
    for role in ROLES:
        cells = [plan.table.phases[phase].get(role, 0.0) for phase in phases]
        if any(cells):
            table.add_row(role, *(_cell(cell) for cell in cells))
    peak = plan.peak_phase
    totals = [Text(f"{plan.table.total(p) / GIB:.2f}", style="bold" if p == peak else "") for p in phases]
    table.add_section()
    table.add_row("in all", *totals)
    return table


def _changes(plan: Plan) -> Table:
    table = _table("what would change it", "peak GiB", "saves", "s", "saves", "what is learned")
    for change in plan.changes[:SHOWN_CHANGES]:
        table.add_row(
            change.flags,
            f"{change.peak / GIB:.2f}",
            _saved(plan.peak_bytes, change.peak),
            f"{change.seconds:.3g}",
            _saved(plan.seconds_per_iteration, change.seconds),
            "the same" if change.same else "other",
        )
    return table


def _saved(before: float, after: float) -> str:
    share = 1 - after / before if before else 0.0
    return "" if abs(share) < 0.005 else f"{share:.0%}"


def _cell(n: float) -> str:
    if not n:
        return ""
    return f"{n / GIB:.2f}" if n >= 0.005 * GIB else "0.00"


def _gib(n: float | None) -> str:
    return "" if n is None else f"{n / GIB:.2f}"


def _seconds(n: float | None) -> str:
    return "" if n is None else f"{n:.3g}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 120), no_color=True)
