"""`clearppo replay`: one recorded iteration, learned again; and what it would have been with other options."""

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from clearppo.cli.json_file import writable, write_json
from clearppo.config.replayable import SETTABLE

DIFFERENT = 1
"""The exit code where the iteration is not what it was."""
_EPILOG = "\b\nWhat --set takes, by the names of clearppo ppo:\n" + textwrap.fill(
    ", ".join(SETTABLE), width=96, initial_indent="  ", subsequent_indent="  "
)


@click.command(epilog=_EPILOG)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(min=1), required=True, help="The iteration, from 1.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Learn it once more with another option, such as clip=0.1 or learning_rate=1e-6. May be given several times.",
)
@click.option(
    "--checkpoint",
    default=None,
    metavar="DIR",
    help="Where to begin: a checkpoint, or `start`. Default: the newest in RUN_DIR before the iteration, or its start.",
)
@click.option("--tokens", type=click.IntRange(min=0), default=10, show_default=True, help="So many tokens are shown.")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Write all numbers as JSON to this file.")
def replay(
    run_dir: Path, step: int, settings: tuple[str, ...], checkpoint: str | None, tokens: int, output: Path | None
) -> int:
    """Learn iteration STEP of the PPO run in RUN_DIR again, from its checkpoint and its record, and see whether every
    number is what it was; with --set once more, to see what another option would have done.

    Nothing is sampled, nobody is asked for a score, and RUN_DIR is only read: the run may be going on. Iterations
    between the checkpoint and STEP are learned again first. Exit code 1 if a number is another.
    """
    target = writable(output, "output")
    from clearppo.build.replay import replay as replayed
    from clearppo.cli.replay_tables import show

    with _progress() as tell:
        found = replayed(
            run_dir.expanduser(), step, settings=settings, checkpoint=checkpoint, tokens=tokens, note=_note, tell=tell
        )  # fmt: skip
    show(found)
    write_json(target, found.as_json(), "output")
    return 0 if found.check.identical else DIFFERENT


def _note(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal, lines elsewhere; on stderr, so that what is found can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda phase, done, total: _note(f"{phase}{f' ({done} of {total})' if total else ''} ...")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total or None)
