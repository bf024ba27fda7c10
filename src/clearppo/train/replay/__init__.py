"""Learning once more from what a run has kept: a batch that it could not learn from, or a recorded iteration."""

from clearppo.train.replay.fault import replay

__all__ = ["replay"]
