"""学习 Learning: from rewards to advantages to a better policy."""

from clearppo.learning.credit import credit
from clearppo.learning.ppo import Objective, Passes, learn
from clearppo.learning.ptx import Ptx, TextStream
from clearppo.learning.watch import Watch

__all__ = ["Objective", "Passes", "Ptx", "TextStream", "Watch", "credit", "learn"]
