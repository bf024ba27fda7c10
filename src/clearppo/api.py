"""The front door in Python: the same as `clearppo ppo`, without a command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearppo.config import PPOConfig, load_config
from clearppo.models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class PPOResult:
    """What a run gives back: where its files are, the metrics of every iteration, the trained policy, its tokenizer."""

    output_dir: Path
    history: list[dict[str, float]]
    policy: Policy
    tokenizer: Any


def ppo(
    *, recipe: str | None = None, config_path: str | Path | None = None, console: bool = False, **options: Any
) -> PPOResult:
    """Train with PPO. `options` are the options of `clearppo ppo` by name; `reward_funcs` may hold Python functions.

        import clearppo

        def score(prompts, completions, **columns):
            return [completion.count("!") for completion in completions]

        clearppo.ppo(model_name_or_path="smollm2-135m-instruct", dataset_name="prompts.jsonl",
                     reward_funcs=[score], output_dir="runs/first")

    `console` shows the progress that the command line shows. Raises ClearPPOError with one clear sentence.
    """
    path = None if config_path is None else Path(config_path)
    return train_ppo(load_config(recipe=recipe, config_path=path, flags=options), console=console)


def train_ppo(config: PPOConfig, *, console: bool = False) -> PPOResult:
    """Build and run what `config` says."""
    from clearppo.build import build_ppo

    if not console:
        return _trained(build_ppo(config))
    from clearppo.console import console_listener

    with console_listener() as listener:
        return _trained(build_ppo(config, listener=listener))


def _trained(run: Any) -> PPOResult:
    history = run.train()
    return PPOResult(output_dir=run.run_dir.path, history=history, policy=run.policy, tokenizer=run.tokenizer)
