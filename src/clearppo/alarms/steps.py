"""Rules about learning itself: its steps, its critic, and whether it means the policy that sampled."""

from collections.abc import Iterator
from statistics import median

from clearppo.alarms.history import History, spread
from clearppo.alarms.sight import Sight, said

EXPLAINED, CLIPPED = "critic/vf_explained_var", "policy/clipfrac_avg"
MISMATCH, GRADIENT = "sampling/log_prob_difference", "policy/grad_norm"
MOVED, MOVED_FAR = "policy/approxkl_avg", 10.0
"""Healthy updates move the policy by hundredths of a nat a token, the first ones by a few tenths."""
LOOKED, KNOWS_NOTHING = 8, 8
"""Iterations that a critic is judged by, and those before them in which it may know nothing yet."""


def critic_useless(history: History) -> Iterator[Sight]:
    """Judged by the median: in a batch of nearly equal rewards the explained variance may be anything below 0. A critic
    that is getting better is left alone."""
    lately = history.last(EXPLAINED, LOOKED)
    before = history.last(EXPLAINED, LOOKED, skip=LOOKED)
    if history.now(EXPLAINED) is None or len(lately) < LOOKED or len(before) < KNOWS_NOTHING:
        return
    value, was = median(lately), median(before)
    limit = min(-0.3, 0.6 * was)
    yield Sight(
        holds=value < limit,
        metric=EXPLAINED,
        value=value,
        limit=limit,
        start=was,
        margin=0.1,
        sentence=f"the critic's values explain less of the returns than a constant would: explained variance "
        f"{said(value)} in the last {LOOKED} iterations, {said(was)} in the {LOOKED} before",
    )


def clipping_saturated(history: History) -> Iterator[Sight]:
    """A token that is clipped pushes no more: with too many of them a step is mostly noise. Where one update makes a
    whole other policy, that is said at once."""
    value, limit, moved = history.now(CLIPPED), 0.3, history.now(MOVED)
    if moved is not None and moved > MOVED_FAR:
        yield Sight(
            holds=True,
            metric=MOVED,
            value=moved,
            limit=MOVED_FAR,
            start=history.start(MOVED, after=history.facts.warmup),
            sentence=f"one update has moved the policy by {said(moved)} nats a token from the one that sampled",
            patience=1,
        )
        return
    if value is None:
        return
    yield Sight(
        holds=value > limit,
        metric=CLIPPED,
        value=value,
        limit=limit,
        start=history.start(CLIPPED, after=history.facts.warmup),
        margin=0.2 * limit,
        sentence=f"{value:.0%} of the tokens are clipped: the policy moves much further on a batch than the clip range "
        "allows",
    )


def sampler_mismatch(history: History) -> Iterator[Sight]:
    """In one precision both agree to rounding, with bfloat16 to some hundredths of a nat; so it stays."""
    value, start = history.now(MISMATCH), history.start(MISMATCH)
    if value is None:
        return
    limit = 0.3 if start is None else min(0.3, max(0.1, 3 * start))
    yield Sight(
        holds=value > limit,
        metric=MISMATCH,
        value=value,
        limit=limit,
        start=start,
        margin=0.2 * limit,
        sentence=f"sampling and learning disagree by {said(value)} nats a token about the same answers under the same "
        "weights",
    )


def gradient_spike(history: History) -> Iterator[Sight]:
    """Against the iterations just before, for gradients may grow slowly in a healthy run."""
    value = history.now(GRADIENT)
    before = history.last(GRADIENT, 20, skip=1, after=history.facts.warmup)
    if value is None or len(before) < 5:
        return
    usual = median(before)
    limit = max(5 * usual, usual + 10 * spread(before))
    yield Sight(
        holds=value > limit > 0,
        metric=GRADIENT,
        value=value,
        limit=limit,
        start=usual,
        sentence=f"the gradient's norm was {said(value)} in this iteration, and {said(usual)} in those before it",
    )
