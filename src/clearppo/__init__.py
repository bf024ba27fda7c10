"""PPO for language models from human feedback: small, exact, fast.

clearppo.sft(...)          step 1, with the options of `clearppo sft` by name
clearppo.reward(...)       step 2, with those of `clearppo reward`
clearppo.ppo(...)          step 3, with those of `clearppo ppo`
clearppo.rlhf(...)         all of them in a row, with those of `clearppo rlhf`
clearppo.prefs(...)        comparisons from a model's own answers, for step 2
clearppo.core              the mathematics, for notebooks
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearppo.api import PPOResult, RewardResult, SFTResult, ppo, prefs, reward, sft
    from clearppo.config import PPOConfig, load_config
    from clearppo.errors import ClearPPOError
    from clearppo.pipeline import rlhf

__all__ = [
    "ClearPPOError",
    "PPOConfig",
    "PPOResult",
    "RewardResult",
    "SFTResult",
    "load_config",
    "ppo",
    "prefs",
    "reward",
    "rlhf",
    "sft",
]

_HOMES = {
    "ClearPPOError": "clearppo.errors",
    "PPOConfig": "clearppo.config",
    "PPOResult": "clearppo.api",
    "RewardResult": "clearppo.api",
    "SFTResult": "clearppo.api",
    "load_config": "clearppo.config",
    "ppo": "clearppo.api",
    "prefs": "clearppo.api",
    "reward": "clearppo.api",
    "rlhf": "clearppo.pipeline",
    "sft": "clearppo.api",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `clearppo --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clearppo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
