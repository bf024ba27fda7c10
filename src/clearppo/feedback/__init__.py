"""反馈, feedback: scores for responses, and the rewards that equations (1) and (2) make of them.

The plugs, `function`, `model` and `http`, are imported by build/ only.
"""

from clearppo.feedback.judge import KLEstimator, judge
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import FakeScorer, Scorer, Scores, WeightedScorer

__all__ = ["FakeScorer", "KLEstimator", "Reference", "Scorer", "Scores", "WeightedScorer", "judge"]
