"""Help: written from the schema, complete, readable at any usual width."""

from typing import Any

import pytest

from clearppo.cli.help import ppo_help
from clearppo.config import ALIASES, leaves, list_recipes, sections


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_option_stands_there_with_its_description_default_and_condition(run: Any) -> None:
    text = words(run("ppo", "--help").stdout.partition("\nGeneral\n")[2])
    for leaf in leaves().values():
        at = text.index(f" --{leaf.name} ")
        entry = text[at : text.index(leaf.description, at) + len(leaf.description)]
        assert entry.count("default: ") + entry.count("(required)") == 1
        assert ("only with" in entry) == bool(leaf.conditions)
        assert all(choice in entry for choice in leaf.kind.choices)


def test_aliases_are_not_shown(run: Any) -> None:
    text = run("ppo", "--help").stdout
    assert not [alias for alias in ALIASES if f"--{alias} " in text]


def test_it_has_sections_examples_and_recipes(run: Any) -> None:
    text = run("ppo", "-h").stdout
    assert text.startswith("Usage: clearppo ppo")
    assert text.index("\nExamples\n") < text.index("\n  --config FILE\n") < text.index("--model_name_or_path TEXT")
    for section, model in sections().items():
        assert f"\n{section}  {words(model.__doc__ or '')[:20]}" in text
    for recipe in list_recipes():
        assert recipe in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_too_wide(width: int) -> None:
    text = ppo_help(width=width, color=False)
    assert max(map(len, text.splitlines())) <= max(width, 82)  # the examples stay whole, so that they can be copied
    assert [line for line in text.splitlines() if len(line) > width and not line.startswith("  clearppo")] == []
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_colour_changes_nothing_but_colour() -> None:
    import click

    assert "\x1b[" not in ppo_help(width=100, color=False)
    coloured = ppo_help(width=100, color=True)
    assert "\x1b[" in coloured
    stripped = [line.rstrip() for line in click.unstyle(coloured).splitlines()]
    assert stripped == ppo_help(width=100, color=False).splitlines()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_front_page(arguments: list[str], run: Any) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    for command in ("quickstart", "ppo", "chat", "recipes", "env", "Examples:"):
        assert command in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
