"""The command `clearppo`: which commands there are, and what an error looks like."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from clearppo.cli.lazy import LazyCommand, LazyGroup
from clearppo.engines.environment import hush, speaks
from clearppo.errors import ClearPPOError, ShortOfMemoryError, StopRequested

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

COMMANDS = {
    "quickstart": LazyCommand(
        "clearppo.cli.quickstart:quickstart", "Watch a small model get better in three steps, in minutes."
    ),
    "sft": LazyCommand("clearppo.cli.sft:sft", "Step 1: fine-tune a language model on demonstrations."),
    "reward": LazyCommand("clearppo.cli.reward:reward", "Step 2: train a reward model from comparisons."),
    "ppo": LazyCommand("clearppo.cli.ppo:ppo", "Step 3: train a language model with PPO."),
    "rlhf": LazyCommand("clearppo.cli.rlhf:rlhf", "All three steps in a row, from one model and three files."),
    "doctor": LazyCommand("clearppo.cli.doctor:doctor", "Before a run: check its model, data and reward."),
    "plan": LazyCommand("clearppo.cli.plan:plan", "What a run will take: memory, time, what would save most."),
    "prefs": LazyCommand("clearppo.cli.prefs:prefs", "Make comparisons from a model's own answers."),
    "label": LazyCommand("clearppo.cli.label:label", "Compare answers yourself, in the browser or the terminal."),
    "serve-reward": LazyCommand("clearppo.cli.serve_reward:serve_reward", "Serve a reward model to runs, by HTTP."),
    "vllm-serve": LazyCommand("clearppo.cli.vllm_serve:vllm_serve", "Serve a model with vLLM, for runs to sample by."),
    "view": LazyCommand("clearppo.cli.view:view", "Look at runs in the browser: curves, answers, every token."),
    "report": LazyCommand("clearppo.cli.report:report", "Write what a run did as one page, to send or to print."),
    "compare": LazyCommand("clearppo.cli.compare:compare", "Compare two runs: options, data, first difference, end."),
    "replay": LazyCommand("clearppo.cli.replay:replay", "Learn one recorded iteration again, as it was or otherwise."),
    "chat": LazyCommand("clearppo.cli.chat:chat", "Talk to a model in the terminal."),
    "explain": LazyCommand("clearppo.cli.explain:explain", "Say what a metric, an option, an alarm or an error means."),
    "recipes": LazyCommand("clearppo.cli.recipes:recipes", "List the built-in recipes, or show one."),
    "import-config": LazyCommand(
        "clearppo.cli.import_config:import_config", "Turn settings of TRL's PPO, SFT or reward model into ours."
    ),
    "env": LazyCommand("clearppo.cli.env:env", "Print versions and hardware, for bug reports."),
}


class FrontDoor(LazyGroup):
    """The outermost group: whatever goes wrong in a way we understand leaves it as one sentence and an exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run and exit: 0 for success, 2 for the user's mistake and 3 for training gone wrong (a
        sentence on stderr), 130 for Ctrl-C (SIGINT), 143 for the SIGTERM by which schedulers end a training run.

        What is not a ClearPPOError is a bug of ours and keeps its traceback. `standalone_mode=False` raises and
        returns, as with any click command.
        """
        if not standalone_mode:
            return super().main(args, *more, standalone_mode=False, **extra)
        hush()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ?, and the run goes on
        try:
            result = super().main(args, *more, standalone_mode=False, **{"prog_name": "clearppo", **extra})
        except ClearPPOError as error:
            _fail(str(error), error.exit_code, lost=getattr(error, "lost", None))
        except click.UsageError as error:
            _fail(_usage_sentence(error), error.exit_code)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt) as ended:
            stop = ended.__cause__ if isinstance(ended, click.Abort) else ended  # click makes an Abort of either
            if isinstance(stop, StopRequested):
                _fail(str(stop), stop.exit_code)
            _fail("interrupted.", INTERRUPTED)
        except (MemoryError, RuntimeError) as error:
            from clearppo.train.shortage import OTHERWISE, is_shortage

            if not is_shortage(error):
                raise
            _fail(f"out of memory. {OTHERWISE}", ShortOfMemoryError.exit_code)
        sys.exit(result if isinstance(result, int) else 0)


def _fail(sentence: str, exit_code: int, *, lost: int | None = None) -> NoReturn:
    """Say it and exit. Of several processes the first one says it, or if that is `lost` the next."""
    if (beginning := speaks(lost)) is not None:
        click.echo(f"{beginning}{sentence}", err=True)
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
    epilog="\b\nExamples:\n  clearppo quickstart\n  clearppo rlhf --help\n"
    "  clearppo ppo --config ppo.yaml --learning_rate 1e-6\n  clearppo recipes show instructgpt",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Language models trained from human (or any other) feedback: fine-tuning, reward model, PPO.

    Step 1, sft: a language model imitates demonstrations. Step 2, reward: a reward model learns from comparisons of
    answers. Step 3, ppo: the model answers prompts (sampling), its answers are scored and charged for their distance
    from the start model (feedback), and it learns from that (learning). `clearppo rlhf` runs all three on your files;
    `clearppo quickstart` shows them on a small model.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
