"""How often a score agrees with a comparison, and how sure that number is; and the other statistics of a report.

Plain numbers in, plain numbers out. Intervals are of 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """`value` is the share of pairs that are right. [low, high] is the wider one of the two intervals.

    `wilson` takes the pairs as independent. Pairs of one prompt are not: they share a prompt and answers. `clustered`
    takes prompts as independent instead; it is Wilson's interval for n_pairs / design_effect pairs.
    """

    value: float
    low: float
    high: float
    n_pairs: int
    n_prompts: int
    wilson: tuple[float, float]
    clustered: tuple[float, float]
    design_effect: float


def wilson(share: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share among n; n need not be whole. Never outside 0 to 1, nor of width 0."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def agreement(right: Sequence[Sequence[bool]]) -> Agreement:
    """From what was right in the pairs of each prompt. Prompts without a pair do not count.

    The variance over prompts k with m_k pairs and c_k right ones is G / (G - 1) * sum (c_k - value * m_k)^2 / n^2
    (linearisation, G prompts); it over value * (1 - value) / n is the design effect. Where all pairs are right, or
    none, that is 0 / 0, and the pairs of a prompt are taken as one. With few prompts Student's t replaces 1.96; with
    one there is nothing to see of the spread between prompts, and the interval is 0 to 1.

    Raises ValueError if there is no pair.
    """
    groups = [list(map(bool, group)) for group in right if len(group)]
    n, n_groups = sum(map(len, groups)), len(groups)
    if n == 0:
        raise ValueError("there is no pair, so the share of right ones is not defined")
    value = sum(map(sum, groups)) / n
    plain = wilson(value, n)
    effect, clustered = n / n_groups, (0.0, 1.0)
    if n_groups > 1:
        if 0 < value < 1:
            squares = sum((sum(group) - value * len(group)) ** 2 for group in groups)
            effect = n_groups / (n_groups - 1) * squares / n / (value * (1 - value))
        # A design effect of almost 0 happens by chance with few prompts; no sample is worth that much more than its n.
        clustered = wilson(value, n / max(effect, 0.1), student(n_groups - 1))
    wider = max(plain, clustered, key=lambda interval: interval[1] - interval[0])
    return Agreement(
        value=value, low=wider[0], high=wider[1], n_pairs=n, n_prompts=n_groups,
        wilson=plain, clustered=clustered, design_effect=effect,
    )  # fmt: skip


def student(degrees: int) -> float:
    """Student's t's 97.5 % point: Cornish and Fisher's expansion; within 1 % from 3 degrees on, too small below."""
    z, v = Z, degrees
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The linear correlation of two lists; None if one of them does not vary."""
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    var_x = math.fsum((a - mean_x) ** 2 for a in x)
    var_y = math.fsum((b - mean_y) ** 2 for b in y)
    if var_x == 0 or var_y == 0:
        return None
    both = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return max(-1.0, min(1.0, both / math.sqrt(var_x) / math.sqrt(var_y)))


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of ranks, ties sharing their mean rank; None if one of the lists does not vary."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            result[i] = (start + 1 + end) / 2
        start = end
    return result


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the sorted values lies, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Pairs whose likelier side was given a probability in [low, high]: what was predicted, and how often it came."""

    low: float
    high: float
    n_pairs: int
    predicted: float
    observed: float


def calibration(differences: Sequence[float], edges: Sequence[float]) -> tuple[tuple[CalibrationBin, ...], float]:
    """Bins of the predicted probability of the side that the model prefers, and the expected calibration error.

    A difference d is score of the better answer minus that of the worse one, in logits: the model says that the one it
    prefers wins with probability sigmoid(|d|), and it does if d > 0; d = 0 counts one half. The error is the mean over
    pairs of |predicted - observed| of their bin. Bins without a pair are left out.
    """
    bins: list[CalibrationBin] = []
    said = [(1 / (1 + math.exp(-min(abs(d), 700.0))), 1.0 if d > 0 else 0.5 if d == 0 else 0.0) for d in differences]
    for number, (low, high) in enumerate(pairwise(edges)):
        last = number == len(edges) - 2
        inside = [(p, came) for p, came in said if low <= p and (p < high or last)]
        if inside:
            predicted = math.fsum(p for p, _ in inside) / len(inside)
            observed = math.fsum(came for _, came in inside) / len(inside)
            bins.append(CalibrationBin(low=low, high=high, n_pairs=len(inside), predicted=predicted, observed=observed))
    error = math.fsum(b.n_pairs * abs(b.predicted - b.observed) for b in bins) / len(differences)
    return tuple(bins), error


def histogram(values: Sequence[float], n_bins: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(n_bins + 1 edges, n_bins counts) of bins of equal width from the smallest value to the largest."""
    low, high = min(values), max(values)
    width = (high - low) / n_bins or 1.0
    counts = [0] * n_bins
    for value in values:
        counts[min(int((value - low) / width), n_bins - 1)] += 1
    return tuple(low + width * i for i in range(n_bins + 1)), tuple(counts)
