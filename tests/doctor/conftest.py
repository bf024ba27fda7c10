"""A user's files, as whole runs have them."""

from tests.e2e.conftest import clearppo, files, model, reward_model

__all__ = ["clearppo", "files", "model", "reward_model"]
