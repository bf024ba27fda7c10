"""What is known about an option: all its commands' declarations, and the recipes that set it."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from clearppo.catalogue.options import of
from clearppo.catalogue.options.allowed import in_chinese
from clearppo.config import ALIASES, SCHEMAS, CommandConfig, Leaf, RLHFConfig, leaves, list_recipes, recipe_text
from clearppo.config.kinds import spelled

COMMANDS: Mapping[str, type[CommandConfig]] = {**SCHEMAS, RLHFConfig.command: RLHFConfig}


@cache
def option_names() -> tuple[str, ...]:
    """Every option of every command, in the order of the help, PPO's first."""
    schemas = [COMMANDS["ppo"], *COMMANDS.values()]
    return tuple(dict.fromkeys(name for schema in schemas for name in leaves(schema)))


def declarations(name: str) -> dict[str, Leaf]:
    """The option in each command that has it."""
    return {command: leaves(schema)[name] for command, schema in COMMANDS.items() if name in leaves(schema)}


def option_title(name: str, language: str) -> str:
    """Whose option it is."""
    commands = [f"clearppo {command}" for command in declarations(name)]
    return ("、" if language == "zh" else ", ").join(commands)


def option_rows(name: str, language: str) -> dict[str, Any]:
    """All that the schemas and the recipes say. Where commands differ, each is said by itself."""
    declared = declarations(name)
    zh = language == "zh"
    said = {command: (zh and of(command, name)) or leaf.description for command, leaf in declared.items()}
    allowed = {command: in_chinese(leaf.allowed) if zh else leaf.allowed for command, leaf in declared.items()}
    return {
        "brief": _each(said),
        "default": _each({command: _default(leaf, zh) for command, leaf in declared.items()}),
        "allowed": _each(allowed),
        "condition": _each({command: _condition(leaf, zh) for command, leaf in declared.items()}),
        "recipes": _recipes(name),
        "section": _each({command: leaf.section for command, leaf in declared.items()}),
        "similar": [alias for alias, known in ALIASES.items() if known == name],
    }


def recipes_that_set(name: str) -> list[tuple[str, str, str]]:
    """The built-in recipes that set an option: recipe, command, and the value as one would type it."""
    return [
        (recipe, command, spelled(options[name]))
        for recipe in list_recipes()
        for command, options in _options_of(recipe).items()
        if name in options
    ]


def _recipes(name: str) -> list[str]:
    """One line for each value that recipes give it."""
    told: dict[tuple[str, str], list[str]] = {}
    for recipe, command, value in recipes_that_set(name):
        told.setdefault((command, value), []).append(recipe)
    return [f"{command}: {value} ({', '.join(recipes)})" for (command, value), recipes in sorted(told.items())]


@cache
def _options_of(recipe: str) -> Mapping[str, Mapping[str, Any]]:
    """A recipe's options by command."""
    tree = yaml.safe_load(recipe_text(recipe)) or {}
    return {
        command: {name: value for section in sections.values() for name, value in (section or {}).items()}
        for command, sections in tree.items()
        if command in COMMANDS and isinstance(sections, dict)
    }


def _each(said: Mapping[str, str]) -> str | list[str]:
    """What commands say of an option: once if all say the same, else for each of those that do."""
    told: dict[str, list[str]] = {}
    for command, text in said.items():
        told.setdefault(text, []).append(command)
    if len(told) == 1:
        return next(iter(told))
    return [f"{', '.join(commands)}: {text}" for text, commands in told.items() if text]


def _default(leaf: Leaf, zh: bool) -> str:
    if leaf.required:
        return "必须给出" if zh else "required"
    if leaf.default == []:
        return "空" if zh else "empty"
    return spelled(leaf.default)


def _condition(leaf: Leaf, zh: bool) -> str:
    words = " and ".join(condition.condition() for condition in leaf.conditions)
    return in_chinese(words) if zh else words
