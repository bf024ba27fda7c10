"""Trackers: programs for watching experiments, told of a run from threads of their own. None can slow or stop it."""

from clearppo.train.tracking.tracker import Ended, TrackedRun, Tracker
from clearppo.train.tracking.trackers import Trackers

__all__ = ["Ended", "TrackedRun", "Tracker", "Trackers"]
