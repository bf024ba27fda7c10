"""How the numbers of an iteration's answers are spread: the small histograms above its table."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from clearppo.record import Iteration

COLUMNS = ("score", "kl", "reward", "advantage", "length")
N_BINS = 24


def overview(iteration: Iteration) -> dict[str, Any]:
    """Of all answers of an iteration: {"summary": histograms by column, "finish_reasons": counts, "unscored": n}.

    Answers without a number are in no histogram; a column that has none at all is left out.
    """
    stat = iteration.path.stat()
    return _overview(iteration.path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _overview(path: Path, _mtime_ns: int, _size: int) -> dict[str, Any]:
    table = Iteration(path).scalars
    columns = {name: table[name].drop_null().to_pylist() for name in COLUMNS}
    reasons = table["finish_reason"].to_pylist()
    return {
        "summary": {name: histogram(values, whole=name == "length") for name, values in columns.items() if values},
        "finish_reasons": {reason: reasons.count(reason) for reason in sorted({str(reason) for reason in reasons})},
        "unscored": table["score"].null_count,
    }


def histogram(values: Sequence[float], *, whole: bool) -> dict[str, Any]:
    """{"min", "max", "mean", "edges", "counts"}: equal bins from the least to the largest, both included; of whole
    numbers with whole edges."""
    low, high = min(values), max(values)
    if whole:
        width = max(1, -(-(high - low + 1) // N_BINS))
        edges = [low + width * i for i in range(int((high - low) // width) + 2)]
    else:
        n_bins = N_BINS if high > low else 1
        edges = [low + (high - low) * i / n_bins for i in range(n_bins)] + [high]
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = (value - low) / (edges[-1] - low) if edges[-1] > low else 0
        counts[min(int(place * len(counts)), len(counts) - 1)] += 1
    return {"min": low, "max": high, "mean": math.fsum(values) / len(values), "edges": edges, "counts": counts}
