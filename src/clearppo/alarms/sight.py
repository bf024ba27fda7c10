"""What a rule sees in one iteration."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One thing that a rule has looked at: whether its condition `holds`, and the numbers that say so.

    An alarm is over only when `value` is back inside `limit` by `margin`: numbers that stay near their limit do not
    ring again and again. `source` is the source of scores, or of a held-out measure, that it is about. `sentence` is
    what is said if it holds, and `patience` how many iterations in a row it must, where that is not the rule's own
    number.
    """

    holds: bool
    metric: str
    value: float
    limit: float
    start: float | None
    sentence: str
    margin: float = 0.0
    source: str | None = None
    patience: int | None = None

    @property
    def calm(self) -> bool:
        """Whether an alarm that is on has nothing to say any more."""
        return not self.holds and abs(self.value - self.limit) >= self.margin


def said(value: float) -> str:
    """A number in a sentence: three digits, without an exponent where people would write none."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
