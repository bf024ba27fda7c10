"""学习 Learning: from rewards to advantages to a better policy."""

from clearppo.learning.credit import credit
from clearppo.learning.ppo import Objective, Passes, learn

__all__ = ["Objective", "Passes", "credit", "learn"]
