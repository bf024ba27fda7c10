"""Rules about the sources of scores: constant, suddenly another, or pleased where a held-out measure is not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from clearppo.alarms.history import History, finite, spread
from clearppo.alarms.sight import Sight, said

FEWEST_ANSWERS = 8
"""Fewer answers may be equal by chance."""
WON = "eval/win_rate"
RAW = "objective/raw_scores"


def reward_constant(history: History) -> Iterator[Sight]:
    """At once, but for a constant 0 or 1: a check that is passed or failed may say the same of a whole batch."""
    n = history.facts.batch_size
    if n < FEWEST_ANSWERS:
        return
    for source in history.sources("/std"):
        metric = f"rewards/{source}/std"
        value, mean = history.now(metric), history.now(f"rewards/{source}/mean")
        if value is None or mean is None:
            continue
        limit = 1e-6 * abs(mean)
        yield Sight(
            holds=value <= limit,
            metric=metric,
            value=value,
            limit=limit,
            start=history.start(metric),
            source=source,
            sentence=f"{source} gives each of {n} answers the same score, {said(mean)}: nothing can be learned from it",
            patience=max(3, math.ceil(128 / n)) if mean in (0.0, 1.0) else None,
        )


def reward_jump(history: History) -> Iterator[Sight]:
    """Two iterations in a row on the same side, far from the three before: further than an answer's own spread, than a
    batch's chance, and than the steps that this source has taken so far."""
    for source in history.sources("/mean"):
        metric = f"rewards/{source}/mean"
        lately, before = history.last(metric, 2), history.last(metric, 10, skip=2)
        stds = history.last(f"rewards/{source}/std", 10, skip=2)
        if history.now(metric) is None or len(lately) < 2 or len(before) < 5 or not stds:
            continue
        base, std = median(before[-3:]), median(stds)
        room = max(1.5 * std, 6 * std / math.sqrt(history.facts.batch_size), 6 * spread(before), 1e-6 * abs(base))
        nearest = min(lately, key=lambda value, base=base: abs(value - base))
        one_side = (lately[0] - base) * (lately[1] - base) > 0
        limit = base + math.copysign(room, nearest - base)
        yield Sight(
            holds=one_side and abs(nearest - base) > room,
            metric=metric,
            value=nearest,
            limit=limit,
            start=base,
            source=source,
            sentence=f"the mean of {source} has gone from {said(base)} to {said(lately[1])} between two iterations",
        )


def held_out_apart(history: History) -> Iterator[Sight]:
    """Looks at the evaluation after the iteration before the newest: win rates against the start model, whose noise is
    known, of what is not optimised against what is."""
    if len(history.rows) < 2 or history.rows[-2].get(WON) is None or history.facts.held_out < 2:
        return
    rows = history.rows[:-1]
    room = max(0.1, 2 * math.sqrt(0.5 / history.facts.held_out))
    names = [name for name in rows[-1] if name.startswith(f"{WON}/")]
    for metric, optimised in [*((name, WON) for name in names), (WON, RAW)]:
        course = [(i, value) for i, row in enumerate(rows) if (value := finite(row.get(metric))) is not None]
        if not course or course[-1][0] != len(rows) - 1:
            continue
        value = course[-1][1]
        at, best = max(course, key=lambda measured: measured[1])
        was, now = _level(rows[: at + 1], optimised), _level(rows, optimised)
        name = None if metric == WON else metric.removeprefix(f"{WON}/")
        what = f"the held-out measure {name}" if name else "the optimised score on held-out prompts"
        yield Sight(
            holds=value < best - room and was is not None and now is not None and now >= was,
            metric=metric,
            value=value,
            limit=best - room,
            start=best,
            margin=0.2 * room,
            source=name,
            sentence=f"{what} has fallen, but what is optimised has not: its win rate against the start model is "
            f"{value:.0%}, and was {best:.0%} after iteration {at + 1}",
        )


def _level(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    """Where an optimised number stands at the end of the rows: the evaluation's as it is, training's over 5 batches."""
    if name == WON:
        return finite(rows[-1].get(name))
    known = [value for row in rows[-5:] if (value := finite(row.get(name))) is not None]
    return sum(known) / len(known) if known else None
