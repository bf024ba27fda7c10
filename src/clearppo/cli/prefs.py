"""`clearppo prefs`: comparisons from a model's answers and somebody or something that judges them."""

from pathlib import Path
from typing import Any

from clearppo.cli.command import schema_command
from clearppo.cli.guide import Guide
from clearppo.config import PrefsConfig, load_config

GUIDE = Guide(
    schema=PrefsConfig,
    introduction="Make comparisons: sample several answers to each prompt from a model and have them compared by a "
    "Python function, a reward model, a judge behind a URL, or people. Writes a .jsonl file that clearppo reward "
    "reads, or clearppo label where people compare.",
    examples=(
        (
            "compared by a function of yours",
            "clearppo prefs --model_name_or_path runs/sft --dataset_name prompts.jsonl \\",
            "               --labeller label.py:score --output_file comparisons.jsonl",
        ),
        (
            "compared by a server",
            "clearppo prefs --config prefs.yaml --judge_url http://127.0.0.1:8000/score --num_completions 8",
        ),
        (
            "compared by you",
            "clearppo prefs --model_name_or_path runs/sft --dataset_name prompts.jsonl --for_human \\",
            "               --num_completions 2 --output_file answers.jsonl",
            "clearppo label answers.jsonl",
        ),
    ),
    config="YAML in sections, as below: `sampling:` and under it `num_completions: 8`.",
)


def run(recipe: str | None, config: Path | None, flags: dict[str, Any]) -> None:
    """Make comparisons as the options say."""
    loaded = load_config(PrefsConfig, recipe=recipe, config_path=config, flags=flags)

    from clearppo.api import make_prefs

    make_prefs(loaded, console=True)


prefs = schema_command(GUIDE, run, "Make comparisons from a model's own answers.")
