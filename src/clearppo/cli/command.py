"""The commands whose options are a schema's: one flag for every option, a YAML file, a recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from clearppo.cli.guide import Guide
from clearppo.config import CommandConfig, Leaf, leaves, list_from_text, unknown_option
from clearppo.errors import ConfigError


class SchemaCommand(click.Command):
    """A command whose help is written from the schema, and whose mistakes are answered with the nearest valid name."""

    def __init__(self, *args: Any, guide: Guide, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guide = guide

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            schema = self.guide.schema
            raise unknown_option(schema, error.option_name.lstrip("-"), "config", "recipe", "help") from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from clearppo.cli.help import command_help  # rich is needed for this only

        formatter.write(command_help(self.guide))


def schema_command(
    guide: Guide,
    run: Callable[[str | None, Path | None, dict[str, Any]], None],
    summary: str,
    cls: type[SchemaCommand] = SchemaCommand,
) -> SchemaCommand:
    """The command of a schema; `run` is given the recipe's name, the config file and the flags."""

    def callback(config: Path | None, recipe: str | None, stray: tuple[str, ...], **given: Sequence[str]) -> None:
        if stray:
            raise ConfigError(_stray(guide.schema, stray[0]))
        run(recipe, config, flags_from(guide.schema, given))

    general = [
        click.Option(["--config"], type=click.Path(path_type=Path), metavar="FILE", help="A YAML file with sections."),
        click.Option(["--recipe"], metavar="NAME", help="A built-in recipe to start from."),
        click.Argument(["stray"], nargs=-1),
    ]
    return cls(
        guide.schema.command, guide=guide, params=[*general, *schema_options(guide.schema)], callback=callback,
        help=summary,
    )  # fmt: skip


def schema_options(schema: type[CommandConfig]) -> list[click.Parameter]:
    """One click option for each option of the schema, and a hidden one for each alias."""
    options: list[click.Parameter] = []
    for leaf in leaves(schema).values():
        options.append(_option(leaf, leaf.name, hidden=False))
        options += [_option(leaf, alias, hidden=True) for alias in leaf.aliases]
    return options


def flags_from(schema: type[CommandConfig], given: dict[str, Sequence[str]]) -> dict[str, Any]:
    """What load_config takes, from what click gathered: the flags that were given, lists put together.

    Raises ConfigError for a flag given twice that is no list.
    """
    flags: dict[str, Any] = {}
    kinds = {name: leaf.kind for leaf in leaves(schema).values() for name in (leaf.name, *leaf.aliases)}
    for name, texts in given.items():
        if len(texts) == 1:
            flags[name] = texts[0]
        elif texts and kinds[name].is_list:
            flags[name] = [item for text in texts for item in list_from_text(name, text)]
        elif texts:
            raise ConfigError(f"--{name} is given twice: {' and '.join(texts)}. Give it only once.")
    return flags


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


def _stray(schema: type[CommandConfig], word: str) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"{word} stands alone. A config file is given with --config {word}."
    if word.replace("-", "_") in leaves(schema):
        return f"{word} stands alone. Did you mean --{word}?"
    return f"{word} stands alone, and belongs to no option. Write --OPTION VALUE, with quotes where a value has spaces."
