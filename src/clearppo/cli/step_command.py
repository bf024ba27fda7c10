"""Commands that look at the configuration of another: `clearppo NAME [CONFIG] [--step STEP] [the step's options]`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from clearppo.cli.command import flags_from, schema_options
from clearppo.config import SCHEMAS, CommandConfig, unknown_option
from clearppo.errors import ConfigError

STEPS = ("ppo", "sft", "reward")

Run = Callable[[str, str | None, Path | None, dict[str, Any], dict[str, Any]], int | None]
"""Given the step, the recipe, the config file, the step's flags and the command's own options."""


class StepCommand(click.Command):
    """A command that takes every option of the step that `--step` names. Its help shows its own options only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = _step_of(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            own = [name.lstrip("-") for option in self.params for name in option.opts]
            raise unknown_option(_schema(ctx), error.option_name.lstrip("-"), *own, "help") from None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        mine = super().get_params(ctx)
        if __name__ not in ctx.meta:
            return mine
        taken = {name for option in mine for name in option.opts}
        of_step = [option for option in schema_options(_schema(ctx)) if not taken & set(option.opts)]
        return [*mine, *of_step]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        step = ctx.meta.pop(__name__, STEPS[0])
        super().format_options(ctx, formatter)
        with formatter.section("And"):
            formatter.write_text(f"every option of the step: see clearppo {step} --help.")


def step_command(name: str, run: Run, summary: str, own: Sequence[click.Parameter], epilog: str = "") -> StepCommand:
    """The command; where one of its `own` options has the name of a step's, it takes its place."""

    def callback(**given: Any) -> int | None:
        step: str = given.pop("step")
        place: Path | None = given.pop("place")
        config: Path | None = given.pop("config")
        recipe: str | None = given.pop("recipe")
        if place is not None and config is not None:
            raise ConfigError(f"{place} and --config {config} both name a config file. Give only one of them.")
        mine = {option.name: given.pop(option.name) for option in own if option.name is not None}
        return run(step, recipe, config or place, flags_from(SCHEMAS[step], given), mine)

    general: list[click.Parameter] = [
        click.Argument(["place"], required=False, type=click.Path(path_type=Path), metavar="[CONFIG]"),
        click.Option(["--config"], type=click.Path(path_type=Path), metavar="FILE", hidden=True),
        click.Option(["--recipe"], metavar="NAME", help="A built-in recipe to start from."),
        click.Option(["--step"], type=click.Choice(STEPS), default=STEPS[0], show_default=True, help="Which command."),
    ]
    return StepCommand(name, params=[*general, *own], callback=callback, help=summary, epilog=epilog)


def _schema(ctx: click.Context) -> type[CommandConfig]:
    return SCHEMAS[ctx.meta[__name__]]


def _step_of(args: Sequence[str]) -> str:
    """The step that the command line names, before the rest of it can be read; a wrong one is click's to refuse."""
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == "--step":
            named = value if equals else next(iter(args[place + 1 :]), "")
            return named if named in STEPS else STEPS[0]
    return STEPS[0]
