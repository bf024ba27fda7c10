"""`clearppo ppo --help` and its kin, written from the schemas."""

import os
import shutil
import sys
from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from clearppo.cli.guide import Guide
from clearppo.config import Leaf, leaves, list_recipes, sections
from clearppo.config.kinds import Kind, spelled

HOW_TO_GIVE = (
    "Any option below can stand in the config file, under its section, or on the command line, where hyphens are as "
    "good as underscores. A recipe is overridden by the file, and the file by the command line. A list is written a,b "
    'or \'["a", "b"]\', or its option is repeated; none switches an option off where that is said. An option that is '
    "unknown, or that would have no effect, is an error."
)


def command_help(guide: Guide, width: int | None = None, color: bool | None = None) -> str:
    """The help of a command: examples, how options are given, then every option by section.

    By default as wide as the terminal, between 60 and 120 columns, and in colour where stdout is a terminal.
    """
    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if width is None:
        width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    buffer = StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(Text(f"Usage: clearppo {guide.schema.command} [--config FILE] [--recipe NAME] [--OPTION VALUE]...\n"))
    console.print(Text(guide.introduction))
    _print_examples(console, guide)
    console.print(Text(HOW_TO_GIVE))
    _print_general(console, guide)
    for section, model in sections(guide.schema).items():
        _print_heading(console, section, " ".join((model.__doc__ or "").split()))
        for leaf in leaves(guide.schema).values():
            if leaf.section == section:
                _print_leaf(console, leaf)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _print_examples(console: Console, guide: Guide) -> None:
    _print_heading(console, "Examples")
    for comment, *lines in guide.examples:
        console.print(Text(f"  # {comment}", style="dim"))
        for line in lines:
            console.print(Text(f"  {line}"), no_wrap=True, overflow="ignore", crop=False)  # stays copyable
    console.print()


def _print_general(console: Console, guide: Guide) -> None:
    _print_heading(console, "General")
    _print_option(console, "--config", "FILE", "", guide.config)
    recipes = f"A built-in set of options to start from: {', '.join(list_recipes())}. See clearppo recipes."
    _print_option(console, "--recipe", "NAME", "", recipes)
    _print_option(console, "-h, --help", "", "", "This text.")


def _print_heading(console: Console, title: str, sentence: str = "") -> None:
    heading = Text("\n")
    heading.append(title, style="bold yellow")
    heading.append(f"  {sentence}" if sentence else "")
    console.print(heading)


def _print_leaf(console: Console, leaf: Leaf) -> None:
    notes = ["required" if leaf.required else f"default: {_default(leaf)}"]
    notes += [f"only with {condition.condition()}" for condition in leaf.conditions]
    _print_option(console, f"--{leaf.name}", metavar(leaf.kind), ", ".join(notes), leaf.description)


def _default(leaf: Leaf) -> str:
    return "empty" if leaf.default == [] else spelled(leaf.default)


def _print_option(console: Console, name: str, value: str, note: str, description: str) -> None:
    line = Text(f"  {name}", style="bold")
    if value:
        line.append(f" {value}", style="not bold cyan")
    if note and len(line) + len(note) + 4 <= console.width:
        line.append(f"  ({note})", style="not bold dim")
        note = ""
    console.print(line)
    if note:
        console.print(Padding(Text(f"({note})", style="dim"), (0, 0, 0, 6)))
    console.print(Padding(Text(description), (0, 0, 0, 6)))


def metavar(kind: Kind) -> str:
    """What stands for the value: k1|k2|k3|full, INT, TEXT,..."""
    words = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}
    found = [f"{words[kind.item]},..."] if kind.item else []
    found += [words[kind.scalar]] if kind.scalar else []
    return "|".join([*found, *kind.choices])
