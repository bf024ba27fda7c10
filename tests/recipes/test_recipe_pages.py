"""docs/recipes/NAME.md says what config/recipes/NAME.yaml says: every key, every value, and a test for each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearppo.config import list_recipes, recipe_text

REPO = Path(__file__).resolve().parents[2]
PAGES = REPO / "docs" / "recipes"
NAMES = [name for name in list_recipes() if name != "quickstart"]
HEADER = ["detail", "key and value", "source", "test"]
WORDS = {"whole step", "trains", "page"}

each = pytest.mark.parametrize("name", NAMES)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def settings(name: str) -> dict[str, dict[str, Any]]:
    """The options of each step of a recipe, by their names."""
    steps = yaml.safe_load(recipe_text(name))
    return {
        step: {option: value for section in sections.values() for option, value in section.items()}
        for step, sections in steps.items()
    }


def rows(name: str) -> dict[str, list[list[str]]]:
    """The rows of the table below each heading that names a step in backticks."""
    found: dict[str, list[list[str]]] = {}
    step = ""
    for line in page(name).splitlines():
        if line.startswith("#"):
            step = (re.findall(r"\(`(\w+)`\)", line) or [""])[0]
        elif line.startswith("|") and step:
            found.setdefault(step, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_recipe_has_its_page() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == NAMES


@each
def test_the_page_and_the_recipe_say_the_same(name: str) -> None:
    written = {}
    for step, table in rows(name).items():
        assert table[0] == HEADER, (step, table[0])
        spans = [span for row in table[2:] for span in re.findall(r"`([^`]+: [^`]+)`", row[1])]
        assert len({span.partition(":")[0] for span in spans}) == len(spans), f"{step}: a key stands twice"
        written[step] = {key: value for span in spans for key, value in yaml.safe_load(span).items()}
    assert written == settings(name)


@each
def test_every_line_names_its_tests(name: str) -> None:
    cases = {case["id"] for case in json.loads((REPO / "tests/golden/golden.json").read_text())["cases"]}
    for table in rows(name).values():
        for detail, _, source, test in table[2:]:
            assert detail
            assert source
            named = {word.strip() for word in test.split(",")}
            assert named <= WORDS | cases, test
    for path in re.findall(r"`(tests/[\w/.]+)`", page(name)):
        assert (REPO / path).exists(), path


@each
def test_a_page_has_its_parts(name: str) -> None:
    headings = re.findall(r"^## (.*)$", page(name), re.M)
    assert headings[-2:] == ["Where we differ, and why", "Pitfalls"]
    assert re.search(rf"clearppo (?:ppo|rlhf) --recipe {name}\b", page(name))


@each
def test_commands_of_a_page_take_parts_that_the_recipe_has(name: str) -> None:
    for step, recipe in re.findall(r"clearppo (\w+) --recipe ([\w-]+)", page(name)):
        assert recipe == name
        assert step == "rlhf" or step in settings(name), f"clearppo {step} --recipe {name}"


@each
def test_a_recipe_points_to_its_page(name: str) -> None:
    assert f"# Page: docs/recipes/{name}.md\n" in recipe_text(name).replace(". Page:", ".\n# Page:")
