"""`clearppo sft`: the first step, supervised fine-tuning."""

from pathlib import Path
from typing import Any

from clearppo.cli.command import schema_command
from clearppo.cli.guide import Guide
from clearppo.cli.launching import launch_elsewhere
from clearppo.config import SFTConfig, load_config

GUIDE = Guide(
    schema=SFTConfig,
    introduction="Fine-tune a language model on demonstrations: texts that show what a good answer looks like. Needed "
    "are a model, demonstrations and a directory for the result, which PPO starts from.",
    examples=(
        (
            "your demonstrations",
            "clearppo sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name demonstrations.jsonl \\",
            "             --output_dir runs/sft",
        ),
        ("three passes, with LoRA", "clearppo sft --config sft.yaml --num_train_epochs 3 --use_peft"),
    ),
    config="YAML in sections, as below: `optim:` and under it `learning_rate: 2.0e-5`. A file of all steps, as "
    "`clearppo rlhf` takes it, is read at `sft:`.",
)


def run(recipe: str | None, config: Path | None, flags: dict[str, Any]) -> None:
    """Fine-tune as the options say."""
    loaded = load_config(SFTConfig, recipe=recipe, config_path=config, flags=flags)
    launch_elsewhere(loaded, recipe, config, flags)

    from clearppo.api import train_sft

    train_sft(loaded, console=True)


sft = schema_command(GUIDE, run, "Fine-tune a language model on demonstrations.")
