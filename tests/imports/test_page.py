"""docs/from-other-tools.md: every name in it is there, on our side and on TRL's."""

import re
from pathlib import Path
from typing import Any

from clearppo.config import ALIASES, SCHEMAS, leaves
from clearppo.foreign.found import STATUSES
from clearppo.foreign.imports import RULES
from tests.imports import trl_names

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from-other-tools.md").read_text(encoding="utf-8")
OURS = {option for schema in SCHEMAS.values() for option in leaves(schema)}


def rows(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is this."""
    (body,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_what_is_named_here_is_an_option_of_ours() -> None:
    for first in ("in TRL", "in OpenRLHF", "in verl", "in step 3 of DeepSpeed-Chat", "in LlamaFactory"):
        tables = [rows(first)] if first != "in TRL" else []
        for table in tables:
            named = [span for row in table for span in spans(row[1]) if not span.startswith("clearppo ")]
            assert [name for name in named if name not in OURS] == []


def test_names_of_trl_are_trls() -> None:
    names, habits = re.findall(r"^\| in TRL \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    known = {name for rules in RULES.values() for name in rules}
    for line in names.splitlines():
        theirs, ours, _ = line.strip("|").split("|", 2)
        assert [name for name in spans(theirs) if name not in known] == []
        assert [name for name in spans(ours) if name not in OURS] == []
    assert habits
    idle = {name for row in rows("setting") for name in spans(row[0])}
    assert idle <= {*trl_names.PPO, *trl_names.TRAINING}


def test_every_metric_of_trl_is_spoken_of() -> None:
    assert sorted(name for row in rows("metric") for name in spans(row[0])) == sorted(trl_names.METRICS)


def test_every_status_is_spoken_of() -> None:
    said = {word.strip() for row in rows("it says") for word in row[0].split(",")}
    assert said == set(STATUSES) - {"same"}


def test_all_aliases_are_there() -> None:
    assert {alias: spans(row[1])[0] for row in rows("name") for alias in spans(row[0])} == dict(ALIASES)


def test_the_wrapper_for_verl_gives_scores() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    scope: dict[str, Any] = {"compute_score": lambda source, text, truth, info: {"score": text == truth}}
    exec(block.replace("from my_rewards import compute_score\n", ""), scope)
    truths = [{"ground_truth": "a"}, {"ground_truth": "b"}]
    assert scope["verl_score"](["a", "c"], data_source=["x", "x"], reward_model=truths, prompts=[]) == [1.0, 0.0]
