"""Two runs' metrics.jsonl beside each other: where they part, and where they end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from clearppo.ui.metrics import Rows, number
from clearppo.ui.runs import Kind, Run

Row = Mapping[str, float | None]
Size = Literal["rounding", "real"]

ROUNDING = 1e-5
"""Two numbers no further apart than this share of the metric's own size may be the same sum in another order."""
NOISE = 1e-7
"""Nor are two that both are this near to each other: a mean that is 0 but for rounding has no size of its own."""
SET = frozenset({"lr", "episode", "epoch"})
"""Numbers that follow from the options alone: no rounding moves them."""
LONGEST_END, SHARE_OF_END = 10, 4
"""The end of a run are its last ten rows, or the last quarter where that is less."""

HEADLINES: Mapping[Kind, tuple[str, ...]] = {
    "ppo": (
        "objective/scores", "eval/score", "eval/win_rate", "objective/rlhf_reward", "objective/kl",
        "completions/mean_length", "completions/clipped_ratio", "policy/entropy_avg", "policy/clipfrac_avg",
        "critic/vf_explained_var",
    ),
    "sft": ("loss", "eval/loss", "eval/perplexity", "grad_norm"),
    "reward": ("loss", "accuracy", "margin", "eval/loss", "eval/accuracy", "eval/margin"),
}  # fmt: skip
"""The metrics whose end is shown, where a run has them; of PPO each held-out source too."""
DRAWN: Mapping[Kind, tuple[str, ...]] = {
    "ppo": ("objective/scores", "objective/kl", "completions/mean_length"),
    "sft": ("loss", "eval/loss"),
    "reward": ("loss", "eval/accuracy"),
}
"""The metrics that are drawn."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric that differs at a step. `size` is the distance as a share of the metric's largest value in both runs;
    None where one of the two is no number."""

    metric: str
    a: float | None
    b: float | None
    size: float | None
    kind: Size


@dataclass(frozen=True, kw_only=True)
class Parting:
    """A step at which rows differ, and how, the largest difference first."""

    step: int
    kind: Size
    differences: Sequence[Difference]


@dataclass(frozen=True, kw_only=True)
class End:
    """The mean and the standard deviation of a metric over the last `n` rows up to the last common step; `spread` None
    for a single row. `apart`: the means are further apart than both deviations together; None where there are none."""

    metric: str
    n: int
    a: float
    b: float
    spread_a: float | None
    spread_b: float | None
    apart: bool | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What two metrics.jsonl have in common. `first` is the first step that differs, `first_real` the first that does
    by more than rounding; `compared` counts the pairs of numbers. `last_a` and `last_b` are the last steps."""

    steps: Sequence[int]
    metrics: Sequence[str]
    only_a: Sequence[str]
    only_b: Sequence[str]
    last_a: int
    last_b: int
    compared: int
    first: Parting | None
    first_real: Parting | None


def rows_of(run: Run) -> dict[int, dict[str, float | None]]:
    """metrics.jsonl by step, what was measured at one step together."""
    found: dict[int, dict[str, float | None]] = {}
    for row in Rows("metrics.jsonl", run.file).news()[0]:
        step = row.pop("step")
        found.setdefault(step, {}).update({name: number(value) for name, value in row.items()})
    return dict(sorted(found.items()))


def compare_numbers(a: Mapping[int, Row], b: Mapping[int, Row]) -> Numbers:
    """Both files, row by row."""
    steps = sorted(a.keys() & b.keys())
    names_a, names_b = _names(a), _names(b)
    common = [name for name in names_a if name in names_b]
    sizes = {name: _largest(name, a, b) for name in common}
    first: Parting | None = None
    first_real: Parting | None = None
    for parting in _partings(steps, a, b, sizes):
        first = first or parting
        if parting.kind == "real":
            first_real = parting
            break
    return Numbers(
        steps=steps,
        metrics=common,
        only_a=[name for name in names_a if name not in names_b],
        only_b=[name for name in names_b if name not in names_a],
        last_a=max(a, default=0),
        last_b=max(b, default=0),
        compared=sum(len(a[step].keys() & b[step].keys()) for step in steps),
        first=first,
        first_real=first_real,
    )


def headlines(kind: Kind, a: Mapping[int, Row], b: Mapping[int, Row]) -> list[str]:
    """The metrics of HEADLINES that both runs have, held-out sources behind the held-out score."""
    both = [name for name in _names(a) if name in _names(b)]
    sources = [name for name in both if name.startswith("eval/rewards/")]
    found: list[str] = []
    for name in HEADLINES[kind]:
        found += [name] if name in both else []
        found += sources if name == "eval/score" else []
    return found


def end_of(metric: str, a: Mapping[int, Row], b: Mapping[int, Row]) -> End | None:
    """How both runs end, up to the last step that both have; None if they have no such step."""
    steps = sorted(step for step in a.keys() & b.keys() if _both(a[step].get(metric), b[step].get(metric)))
    if not steps:
        return None
    n = max(1, min(LONGEST_END, len(steps) // SHARE_OF_END))
    of_a, of_b = ([value for step in steps[-n:] if (value := rows[step][metric]) is not None] for rows in (a, b))
    spreads = (_spread(of_a), _spread(of_b))
    mean_a, mean_b = fmean(of_a), fmean(of_b)
    apart = None if None in spreads else abs(mean_a - mean_b) > sum(spread or 0.0 for spread in spreads)
    return End(metric=metric, n=n, a=mean_a, b=mean_b, spread_a=spreads[0], spread_b=spreads[1], apart=apart)


def _partings(
    steps: Sequence[int], a: Mapping[int, Row], b: Mapping[int, Row], sizes: Mapping[str, float]
) -> Iterator[Parting]:
    for step in steps:
        found = [
            _difference(name, a[step][name], b[step][name], sizes[name])
            for name in sizes
            if name in a[step] and name in b[step] and a[step][name] != b[step][name]
        ]
        if found:
            found.sort(key=lambda d: (d.kind != "real", -(math.inf if d.size is None else d.size)))
            yield Parting(step=step, kind=found[0].kind, differences=found)


def _difference(metric: str, a: float | None, b: float | None, size: float) -> Difference:
    if a is None or b is None:
        return Difference(metric=metric, a=a, b=b, size=None, kind="real")
    distance = abs(a - b)
    small = distance <= ROUNDING * size or distance <= NOISE
    kind: Size = "rounding" if small and metric not in SET else "real"
    return Difference(metric=metric, a=a, b=b, size=distance / size, kind=kind)


def _names(rows: Mapping[int, Row]) -> dict[str, None]:
    """Every metric of a run, in the order in which they came."""
    return dict.fromkeys(name for row in rows.values() for name in row)


def _largest(metric: str, *runs: Mapping[int, Row]) -> float:
    """The largest size of a metric in these runs; 1 if it never is anything but 0."""
    values = (row.get(metric) for rows in runs for row in rows.values())
    return max((abs(value) for value in values if value is not None), default=0.0) or 1.0


def _both(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
