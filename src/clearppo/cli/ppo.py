"""`clearppo ppo`: one flag for every option of the schema, a YAML file, a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clearppo.config import Leaf, leaves, list_from_text, load_config, unknown_option
from clearppo.errors import ConfigError


def _spellings(name: str) -> list[str]:
    """--kl_coef and --kl-coef."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _option(leaf: Leaf, name: str, *, hidden: bool) -> click.Option:
    """The flag `name`, the leaf's own or an alias of it.

    Values stay text: load_config reads them as it reads YAML. `multiple` lets us see a flag that is given twice.
    """
    bare = {"is_flag": False, "flag_value": "true"} if leaf.kind.is_bool else {}  # --use_peft means --use_peft true
    return click.Option(
        [*_spellings(name), name], multiple=True, help=leaf.description, hidden=hidden, show_default=False, **bare
    )


def schema_options() -> list[click.Parameter]:
    """One click option for each option of the schema, and a hidden one for each alias."""
    options: list[click.Parameter] = []
    for leaf in leaves().values():
        options.append(_option(leaf, leaf.name, hidden=False))
        options += [_option(leaf, alias, hidden=True) for alias in leaf.aliases]
    return options


def flags_from(given: dict[str, Sequence[str]]) -> dict[str, Any]:
    """What load_config takes, from what click gathered: the flags that were given, lists put together.

    Raises ConfigError for a flag given twice that is no list.
    """
    flags: dict[str, Any] = {}
    kinds = {name: leaf.kind for leaf in leaves().values() for name in (leaf.name, *leaf.aliases)}
    for name, texts in given.items():
        if len(texts) == 1:
            flags[name] = texts[0]
        elif texts and kinds[name].is_list:
            flags[name] = [item for text in texts for item in list_from_text(name, text)]
        elif texts:
            raise ConfigError(f"--{name} is given twice: {' and '.join(texts)}. Give it only once.")
    return flags


class PPOCommand(click.Command):
    """A command whose help is written from the schema, and whose mistakes are answered with the nearest valid name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_option(error.option_name.lstrip("-"), "config", "recipe", "help") from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from clearppo.cli.help import ppo_help

        formatter.write(ppo_help())


@click.command(
    cls=PPOCommand,
    params=[
        click.Option(["--config"], type=click.Path(path_type=Path), metavar="FILE", help="A YAML file with sections."),
        click.Option(["--recipe"], metavar="NAME", help="A built-in recipe to start from."),
        *schema_options(),
    ],
)
@click.argument("stray", nargs=-1)
def ppo(config: Path | None, recipe: str | None, stray: tuple[str, ...], **given: Sequence[str]) -> None:
    """Train a language model with PPO."""
    if stray:
        raise ConfigError(_stray(stray[0]))
    loaded = load_config(recipe=recipe, config_path=config, flags=flags_from(given))

    from clearppo.api import train_ppo  # torch comes with it: only now, when the options are known to be good

    train_ppo(loaded, console=True)


def _stray(word: str) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"{word} stands alone. A config file is given with --config {word}."
    if word.replace("-", "_") in leaves():
        return f"{word} stands alone. Did you mean --{word}?"
    return f"{word} stands alone, and belongs to no option. Write --OPTION VALUE, with quotes where a value has spaces."
