"""The command `clearppo`: which commands there are, and what an error looks like."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from clearppo.cli.lazy import LazyCommand, LazyGroup
from clearppo.errors import ClearPPOError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

COMMANDS = {
    "quickstart": LazyCommand(
        "clearppo.cli.quickstart:quickstart", "Watch a small model get better by PPO, in minutes."
    ),
    "ppo": LazyCommand("clearppo.cli.ppo:ppo", "Train a language model with PPO."),
    "chat": LazyCommand("clearppo.cli.chat:chat", "Talk to a model in the terminal."),
    "recipes": LazyCommand("clearppo.cli.recipes:recipes", "List the built-in recipes, or show one."),
    "env": LazyCommand("clearppo.cli.env:env", "Print versions and hardware, for bug reports."),
}


class FrontDoor(LazyGroup):
    """The outermost group: whatever goes wrong in a way we understand leaves it as one sentence and an exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run and exit: 0 for success, 2 for the user's mistake and 3 for training gone wrong (a
        sentence on stderr), 130 for Ctrl-C.

        What is not a ClearPPOError is a bug of ours and keeps its traceback. `standalone_mode=False` raises and
        returns, as with any click command.
        """
        if not standalone_mode:
            return super().main(args, *more, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ?, and the run goes on
        try:
            result = super().main(args, *more, standalone_mode=False, **{"prog_name": "clearppo", **extra})
        except ClearPPOError as error:
            _fail(str(error), error.exit_code)
        except click.UsageError as error:
            _fail(_usage_sentence(error), error.exit_code)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted.", INTERRUPTED)
        sys.exit(result if isinstance(result, int) else 0)


def _fail(sentence: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {sentence}", err=True)
    sys.exit(exit_code)


def _usage_sentence(error: click.UsageError) -> str:
    """click's message in our words: what is wrong, and the mend."""
    if isinstance(error, click.NoSuchOption):
        near = sorted(error.possibilities or (), key=lambda name: "-" in name.lstrip("-"))
        command = error.ctx.command_path if error.ctx else "clearppo"
        hint = f"Did you mean {near[0]}?" if near else f"See {command} --help for all options."
        return f"Unknown option {error.option_name}. {hint}"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name} needs a value. Write {error.option_name} VALUE."
    return error.format_message()


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    try:
        number = version("clearppo")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    click.echo(f"clearppo {number}")
    ctx.exit()


@click.group(
    name="clearppo",
    cls=FrontDoor,
    invoke_without_command=True,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  clearppo quickstart\n  clearppo ppo --help\n"
    "  clearppo ppo --config ppo.yaml --learning_rate 1e-6\n  clearppo recipes show article",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """PPO for language models, from human (or any other) feedback.

    A policy answers prompts (sampling), the answers are scored and charged for their distance from the reference
    (feedback), and the policy learns from that (learning). `clearppo quickstart` shows all of it on a small model;
    `clearppo ppo` does it to yours.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
