"""Recipe < file < flags: gathering the options, and saying where a bad one stood."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from clearppo.config.command import CommandConfig, sections
from clearppo.config.leaves import canonical, leaves, nearest_leaf
from clearppo.config.messages import InertOptionError, OptionError, listed, lowered, nearest
from clearppo.config.schema import PPOConfig
from clearppo.config.yaml_file import Given, add, read_file, read_recipe
from clearppo.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=CommandConfig)
Schema = type[CommandConfig]


@overload
def load_config(
    *, recipe: str | None = None, config_path: Path | None = None, flags: Mapping[str, Any] | None = None
) -> PPOConfig: ...
@overload
def load_config(
    schema: type[ConfigT],
    *,
    recipe: str | None = None,
    config_path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    given: Mapping[str, Given] | None = None,
) -> ConfigT: ...
def load_config(
    schema: Schema = PPOConfig,
    *,
    recipe: str | None = None,
    config_path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    given: Mapping[str, Given] | None = None,
) -> CommandConfig:
    """The configuration of a command from a recipe, a YAML file and flags; a later one wins over an earlier one.

    `flags` are flat, by option name or alias; their values are text as typed on the command line, or Python values. The
    file has sections, and may name its recipe at the top; `recipe` given here wins. A file of all three steps, as
    recipes are, is read at this command's step. A recipe's value that has no effect beside what the user chose is left
    out silently; the user's own is an error. `given` are options that have been gathered already, by `read_step`.

    Raises ConfigError, in one sentence, for whatever does not make a configuration.
    """
    found = dict(given or {})
    found |= _gathered(schema, recipe, config_path, flags or {}, missing_ok=False)
    while True:
        try:
            return _build(schema, found)
        except OptionError as error:
            source = found.get(error.option)
            if isinstance(error, InertOptionError) and source and source.recipe:
                del found[error.option]
            else:
                raise ConfigError(f"{source.place if source else ''}{error}") from None


def read_step(
    schema: Schema, *, recipe: str | None, config_path: Path | None, flags: Mapping[str, Any]
) -> dict[str, Given]:
    """What a recipe, a file of all steps and flags give to one step; nothing, if they do not know it."""
    return _gathered(schema, recipe, config_path, flags, missing_ok=True)


def _gathered(
    schema: Schema, recipe: str | None, config_path: Path | None, flags: Mapping[str, Any], *, missing_ok: bool
) -> dict[str, Given]:
    from_file, named = read_file(schema, config_path, missing_ok=missing_ok) if config_path else ({}, None)
    name = recipe or named
    from_recipe = read_recipe(schema, name, missing_ok=missing_ok) if name else {}
    return {**from_recipe, **from_file, **_read_flags(schema, flags)}


def _build(schema: Schema, given: Mapping[str, Given]) -> CommandConfig:
    missing = [leaf for leaf in leaves(schema).values() if leaf.required and leaf.name not in given]
    if missing:
        words = [f"--{leaf.name} ({re.split(r'[:.](?:[ ]|$)', lowered(leaf.description))[0]})" for leaf in missing]
        raise ConfigError(
            f"Missing: {listed(words)}. Set {'it' if len(words) == 1 else 'them'} as a flag or in --config."
        )
    tree: dict[str, dict[str, object]] = {section: {} for section in sections(schema)}
    for name, source in given.items():
        tree[leaves(schema)[name].section][name] = source.value
    return schema.model_validate(tree)


def _read_flags(schema: Schema, flags: Mapping[str, Any]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for typed, value in flags.items():
        name = canonical(typed)
        if name not in leaves(schema):
            raise unknown_option(schema, typed)
        add(found, name, Given(value, f"--{typed}"))
    return found


def unknown_option(schema: Schema, typed: str, *more: str) -> ConfigError:
    """The error for an option that does not exist, with the nearest that does, in the schema or among `more`."""
    near = nearest(typed, more) or nearest_leaf(typed, schema)
    hint = f"Did you mean --{near}?" if near else f"See clearppo {schema.command} --help for all options."
    return ConfigError(f"Unknown option --{typed}. {hint}")
