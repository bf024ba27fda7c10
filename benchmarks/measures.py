"""Accuracy on pairs and its uncertainty: alone, and of two scorers on the same pairs. Standard library only."""

import math
from collections.abc import Sequence

Z = 1.959964  # 97.5 % point of the normal distribution


def correct(differences: Sequence[float]) -> list[float]:
    """For each score(better) - score(worse): 1 if the better one scores higher, 0 if lower, 1/2 if both are equal."""
    return [1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences]


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in `n` independent trials (Wilson 1927)."""
    if n < 1:
        raise ValueError(f"n = {n}: an interval needs at least one trial.")
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy(differences: Sequence[float]) -> dict[str, float]:
    """`accuracy` of pairs given as score(better) - score(worse), its 95 % interval `low` to `high`, and `n`."""
    n = len(differences)
    low, high = wilson(share := sum(correct(differences)) / max(n, 1), n)
    return {"accuracy": share, "low": low, "high": high, "n": n}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Accuracy of ours minus theirs, with a 95 % interval `low` to `high` that uses that the pairs are the same.

    Both arguments are score(better) - score(worse), pair by pair in one order. The interval is the normal one of the
    mean of correct(ours) - correct(theirs): what both get right, or both wrong, adds no uncertainty.
    """
    n = len(ours)
    if n != len(theirs):
        raise ValueError(f"{n} pairs of ours, {len(theirs)} of theirs: the same pairs are needed.")
    if n < 2:
        raise ValueError(f"n = {n}: an interval needs at least two pairs.")
    gains = [a - b for a, b in zip(correct(ours), correct(theirs), strict=True)]
    mean = sum(gains) / n
    half = Z * math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (n - 1) / n)
    return {"difference": mean, "low": mean - half, "high": mean + half, "n": n}


def mean(values: Sequence[float]) -> dict[str, float]:
    """The `mean` and its 95 % interval `low` to `high`, normal approximation; at least two values."""
    n = len(values)
    if n < 2:
        raise ValueError(f"n = {n}: an interval needs at least two values.")
    centre = sum(values) / n
    half = Z * math.sqrt(sum((value - centre) ** 2 for value in values) / (n - 1) / n)
    return {"mean": centre, "low": centre - half, "high": centre + half, "n": n}
