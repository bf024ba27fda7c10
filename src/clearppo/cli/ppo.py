"""`clearppo ppo`: one flag for every option of the schema, a YAML file, a recipe."""

from pathlib import Path
from typing import Any

from clearppo.cli.command import schema_command
from clearppo.cli.guide import Guide
from clearppo.cli.launching import launch_elsewhere
from clearppo.config import PPOConfig, load_config

GUIDE = Guide(
    schema=PPOConfig,
    introduction="Train a language model with PPO. It answers prompts, the answers are scored, and it learns to answer "
    "so that the scores rise without leaving the reference model too far behind. Needed are a model, prompts, a source "
    "of scores and a directory for the results.",
    examples=(
        (
            "your prompts, your reward",
            "clearppo ppo --model_name_or_path Qwen/Qwen3-0.6B --dataset_name prompts.jsonl \\",
            "             --reward_funcs reward.py:score --output_dir runs/first",
        ),
        ("a config file; flags win over it", "clearppo ppo --config ppo.yaml --kl_coef 0.1"),
        ("the article's PPO as a start", "clearppo ppo --recipe article --config ppo.yaml"),
        ("LoRA and a trained reward model", "clearppo ppo --config ppo.yaml --use_peft --reward_model_path rm/"),
    ),
    config="YAML in sections, as below: `kl:` and under it `kl_coef: 0.05`. It may name its recipe at the top: "
    "`recipe: article`.",
)


def run(recipe: str | None, config: Path | None, flags: dict[str, Any]) -> None:
    """Train with PPO as the options say."""
    loaded = load_config(PPOConfig, recipe=recipe, config_path=config, flags=flags)
    launch_elsewhere(loaded, recipe, config, flags)

    from clearppo.api import train_ppo  # torch comes with it: only now, when the options are known to be good

    train_ppo(loaded, console=True)


ppo = schema_command(GUIDE, run, "Train a language model with PPO.")
