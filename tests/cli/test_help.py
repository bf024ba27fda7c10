"""Help: written from the schema, complete, readable at any usual width."""

from typing import Any

import pytest

from clearppo.cli.guide import Guide
from clearppo.cli.help import command_help
from clearppo.cli.ppo import GUIDE
from clearppo.cli.prefs import GUIDE as PREFS
from clearppo.cli.reward import GUIDE as REWARD
from clearppo.cli.sft import GUIDE as SFT
from clearppo.config import ALIASES, PPOConfig, leaves, list_recipes, sections


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("guide", [GUIDE, SFT, REWARD, PREFS], ids=lambda guide: guide.schema.command)
def test_every_option_stands_there_with_its_description_default_and_condition(guide: Guide, run: Any) -> None:
    text = run(guide.schema.command, "--help").stdout.partition("\nGeneral\n")[2]
    for leaf in leaves(guide.schema).values():
        at = text.index(f"\n  --{leaf.name} ")
        entry = words(text[at:].split("\n  --", 2)[1])
        assert leaf.description in entry
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
    for section, model in sections(PPOConfig).items():
        assert f"\n{section}  {words(model.__doc__ or '')[:20]}" in text
    for recipe in list_recipes():
        assert recipe in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_too_wide(width: int) -> None:
    text = command_help(GUIDE, width=width, color=False)
    assert max(map(len, text.splitlines())) <= max(width, 82)  # the examples stay whole, so that they can be copied
    assert [line for line in text.splitlines() if len(line) > width and not line.startswith("  clearppo")] == []
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_colour_changes_nothing_but_colour() -> None:
    import click

    assert "\x1b[" not in command_help(GUIDE, width=100, color=False)
    coloured = command_help(GUIDE, width=100, color=True)
    assert "\x1b[" in coloured
    stripped = [line.rstrip() for line in click.unstyle(coloured).splitlines()]
    assert stripped == command_help(GUIDE, width=100, color=False).splitlines()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_front_page(arguments: list[str], run: Any) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    for command in ("quickstart", "ppo", "chat", "recipes", "env", "Examples:"):
        assert command in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
