"""PPO for language models from human feedback: small, exact, fast.

clearppo.ppo(...)          train, with the options of `clearppo ppo` by name
clearppo.core              the mathematics, for notebooks
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearppo.api import PPOResult, ppo
    from clearppo.config import PPOConfig, load_config
    from clearppo.errors import ClearPPOError

__all__ = ["ClearPPOError", "PPOConfig", "PPOResult", "load_config", "ppo"]

_HOMES = {
    "ClearPPOError": "clearppo.errors",
    "PPOConfig": "clearppo.config",
    "PPOResult": "clearppo.api",
    "load_config": "clearppo.config",
    "ppo": "clearppo.api",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `clearppo --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clearppo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
