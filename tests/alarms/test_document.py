"""docs/alarms.md says of each rule and each action what the code says."""

import re
from pathlib import Path

from clearppo.alarms import ACTIONS, RULES
from clearppo.train.alarms import LOWERED_RATE, RAISED_KL
from clearppo.train.faults import MOST_RETURNS

TEXT = (Path(__file__).parents[2] / "docs" / "alarms.md").read_text(encoding="utf-8")


def cells(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without the head."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_is_that_of_the_rules() -> None:
    expected = [
        [
            f"`{rule.name}`",
            ", ".join(m.replace("<source>", "SOURCE") if "<" in m else f"`{m}`" for m in rule.metrics),
            rule.rings,
            str(rule.patience),
        ]
        for rule in RULES.values()
    ]
    assert cells("The rules") == expected
    assert "thirteen rules" in TEXT
    assert len(RULES) == 13


def test_the_actions_are_those_that_there_are() -> None:
    table = {row[0].strip("`"): row[1] for row in cells("Actions")}
    assert tuple(table) == ACTIONS
    assert f"multiplied by {RAISED_KL}" in table["raise_kl"]
    assert "halved" in table["lower_lr"]
    assert LOWERED_RATE == 0.5
    assert "three times at most" in table["rollback"]
    assert MOST_RETURNS == 3


def test_the_line_has_the_fields_of_an_event() -> None:
    (line,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    names = re.findall(r'"(\w+)":', line)
    assert names == [
        "step", "alarm", "state", "metric", "value", "limit", "start", "source", "sentence", "advice", "action",
    ]  # fmt: skip
