"""What the tests of planted faults share: words of a command line, reward functions, what a run's alarms say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Findings = dict[str, dict[str, Any]]
Options = dict[str, Any]
Doctor = Callable[..., tuple[int, Findings, str]]
Train = Callable[..., tuple[int, str]]


GOOD_WORDS = "float(any(word in text for word in ('good', 'delight', 'wonderful', 'happy')) and 'not good' not in text)"
"""Known, bounded, the same for the same answer, and no fool for empty or repeated ones."""


def rewarded(directory: Path, score: str) -> str:
    """A reward function as --reward_funcs has it, which scores a `text` as this expression does."""
    (directory / "reward.py").write_text(
        "def said(completion):\n"
        "    return completion if isinstance(completion, str) else completion[0]['content']\n\n"
        "def score(prompts, completions, **columns):\n"
        f"    return [{score} for text in map(said, completions)]\n"
    )
    return f"{directory / 'reward.py'}:score"


def written(options: Options) -> list[str]:
    """Options as words of a command line; None leaves one out."""
    given = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()
             if value is not None}  # fmt: skip
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def rung(options: Options) -> list[dict[str, Any]]:
    """The rows of alarms.jsonl with which an alarm began."""
    file = Path(options["output_dir"]) / "alarms.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row["state"] == "on"]
