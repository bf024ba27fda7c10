"""Explanations on the screen: panels in a terminal, plain lines elsewhere, or JSON."""

import json
import os
import shutil
import sys
from collections.abc import Sequence

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clearppo.ui.explain import KINDS, Explanation, explanation, names, title
from clearppo.ui.explain_find import Found, Thing
from clearppo.ui.explain_labels import SHORT, label


def print_found(found: Found, query: str, language: str, *, as_json: bool) -> None:
    """Print what a query means."""
    explained = [explanation(kind, name, language) for kind, name in found.exact]
    if as_json:
        near = [_listed(thing, language) for thing in found.near]
        content = {"query": query, "because": found.because, "found": [it.to_json() for it in explained], "near": near}
        click.echo(json.dumps(content, ensure_ascii=False, indent=2))
        return
    console = _console()
    for it in explained:
        _print(console, it, language)
    if found.because:
        console.print(Text(f"({found.because})", style="dim"))
    if found.near:
        console.print(Text(label("near" if explained else "which", language), style="bold"))
        _print_names(console, found.near, language)


def print_list(language: str, *, as_json: bool) -> None:
    """Print everything that can be explained, by kind."""
    things = list(names())
    if as_json:
        click.echo(json.dumps([_listed(thing, language) for thing in things], ensure_ascii=False, indent=2))
        return
    console = _console()
    for kind in KINDS:
        of_kind = [thing for thing in things if thing[0] == kind]
        console.print(Text(f"\n{label(kind, language)} ({len(of_kind)})", style="bold yellow"))
        if kind == "option":
            console.print(Text("  " + " ".join(name for _, name in of_kind)))
        else:
            _print_names(console, of_kind, language, kinds=False)


def _console() -> Console:
    terminal = sys.stdout.isatty()
    colour = terminal and "NO_COLOR" not in os.environ
    width = max(40, min(110, shutil.get_terminal_size((100, 24)).columns)) if terminal else 100
    return Console(
        width=width,
        force_terminal=terminal,
        color_system="standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def _print(console: Console, it: Explanation, language: str) -> None:
    """One explanation: in a frame on a terminal; without, its lines can be searched and copied."""
    heading = f"{it.name}  {it.title}  ({label(it.kind, language)})"
    if not console.is_terminal:
        console.print(Text(heading))
        for name, told in it.rows.items():
            called = label(name, language)
            first, *others = _lines(name, told)
            console.print(Text(f"  {called}: {first}" if called else f"  {first}"), soft_wrap=True)
            for line in others:
                console.print(Text(f"    {line}"), soft_wrap=True)
        console.print()
        return
    body = Table.grid(padding=(0, 2))
    body.add_column(style="cyan", no_wrap=True)
    body.add_column(overflow="fold")
    for name, told in it.rows.items():
        called = label(name, language)
        for number, line in enumerate(_lines(name, told)):
            body.add_row(called if not number else "", Text(line, style="bold" if name == "formula" else ""))
    console.print(
        Panel(body, title=Text(heading, style="bold"), title_align="left", box=box.ROUNDED, border_style="dim")
    )


def _lines(name: str, told: str | Sequence[str]) -> list[str]:
    if isinstance(told, str):
        return [told]
    return [", ".join(told)] if name in SHORT else list(told)


def _print_names(console: Console, things: Sequence[Thing], language: str, *, kinds: bool = True) -> None:
    """Names with a few words each, in two columns."""
    width = max(cell_len(name) for _, name in things)
    for kind, name in things:
        said = title(kind, name, language)
        line = Text(f"  {name}{' ' * (width - cell_len(name))}  ", style="bold")
        line.append(f"{label(kind, language)}: {said}" if kinds else said, style="not bold")
        console.print(line, soft_wrap=True)


def _listed(thing: Thing, language: str) -> dict[str, str]:
    kind, name = thing
    return {"kind": kind, "name": name, "title": title(kind, name, language)}
