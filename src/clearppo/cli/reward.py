"""`clearppo reward`: the second step, a reward model from comparisons."""

from pathlib import Path
from typing import Any

from clearppo.cli.command import schema_command
from clearppo.cli.guide import Guide
from clearppo.cli.launching import launch_elsewhere
from clearppo.config import RewardModelConfig, load_config

GUIDE = Guide(
    schema=RewardModelConfig,
    introduction="Train a reward model from comparisons, and report whether it is good enough for PPO. Needed "
    "are a language model to start from (best the fine-tuned one), comparisons and a directory for the result, which "
    "AutoModelForSequenceClassification loads.",
    examples=(
        (
            "your comparisons",
            "clearppo reward --model_name_or_path runs/sft --dataset_name comparisons.jsonl \\",
            "                --output_dir runs/reward",
        ),
        (
            "other words that ask for the judgement",
            "clearppo reward --config reward.yaml --judgement_template '{conversation} The mood of this text is'",
        ),
    ),
    config="YAML in sections, as below: `rm:` and under it `rm_loss: pairwise`. A file of all steps (`clearppo rlhf`)"
    " is read at `reward:`.",
)


def run(recipe: str | None, config: Path | None, flags: dict[str, Any]) -> None:
    """Train a reward model as the options say."""
    loaded = load_config(RewardModelConfig, recipe=recipe, config_path=config, flags=flags)
    launch_elsewhere(loaded, recipe, config, flags)

    from clearppo.api import train_reward

    train_reward(loaded, console=True)


reward = schema_command(GUIDE, run, "Train a reward model from comparisons.")
