"""The most telling answers of a run's last recorded iteration, token by token, for a report."""

from pathlib import Path
from typing import Any

import pyarrow.compute

from clearppo.record.read import Iteration, iteration_path, steps

pc: Any = pyarrow.compute
"""Its functions are made when it is imported, so that type checkers do not know them."""
SHOWN = 300  # tokens of an answer that are shown at most
GLOSSED = 90  # tokens of an answer up to which each has its number below it
LISTED = 40  # rows of the table of numbers at most
COLUMNS = ("log_probs", "ref_log_probs", "kls", "rewards", "values", "returns", "advantages", "ratio")
FAINT, STRONG = 0.1, 1.0  # opacity of a colour at an advantage just beside 0 and at the scale's end


def telling_answers(directory: Path) -> dict[str, Any] | None:
    """The answers with the highest and the lowest score, the largest KL and the largest advantage of a token.

    {"step", "limit", "answers": [{"picks", "prompt", "tokens", "table", ...}]}; one answer may be several of them.
    None: the run has no record. Raises RecordError.
    """
    recorded = steps(directory)
    if not recorded:
        return None
    iteration = Iteration(iteration_path(directory, recorded[-1]))
    rows: dict[int, list[str]] = {}
    for pick, row in _picks(iteration).items():
        rows.setdefault(row, []).append(pick)
    answers = [(picks, iteration.answer(row)) for row, picks in rows.items()]
    sizes = [abs(a) for _, answer in answers for a in answer["advantages"] or () if a is not None]
    limit = max(sizes, default=0.0)
    return {
        "step": recorded[-1],
        "limit": limit,
        "answers": [_shown(answer, picks, limit) for picks, answer in answers],
    }


def _picks(iteration: Iteration) -> dict[str, int]:
    """Row numbers by what they are picked for; what no row has a number for is left out."""
    table = iteration.scalars
    found = {
        "high": _place(table["score"], pc.max(table["score"])),
        "low": _place(table["score"], pc.min(table["score"])),
        "kl": _place(table["kl"], pc.max(table["kl"])),
    }
    lists = iteration.columns("advantages")["advantages"].combine_chunks()
    sizes = pc.abs(pc.list_flatten(lists))
    token = _place(sizes, pc.max(sizes))
    if token is not None:
        found["advantage"] = pc.list_parent_indices(lists)[token].as_py()
    return {pick: row for pick, row in found.items() if row is not None}


def _place(column: Any, value: Any) -> int | None:
    """Where the value stands first; None: there is no number."""
    return pc.index(column, value).as_py() if value.is_valid else None


def _shown(answer: dict[str, Any], picks: list[str], limit: float) -> dict[str, Any]:
    """An answer as the page shows it."""
    texts = [_visible(text) for text in answer["tokens"]]
    advantages: list[float | None] = answer["advantages"] or [None] * len(texts)
    numbers = {name: answer[name] for name in COLUMNS if name != "ratio" and answer.get(name)}
    read = [epoch for epoch in answer["ratios"] or () if epoch]
    if read:
        numbers["ratio"] = read[-1]
    columns = [name for name in COLUMNS if any(value is not None for value in numbers.get(name, ()))]
    listed = _listed(advantages, len(texts))
    return {
        "picks": picks,
        "row": answer["row"],
        "prompt": answer["prompt"],
        "score": answer["score"],
        "kl": answer["kl"],
        "length": answer["length"],
        "tokens": [
            {"mark": mark, "text": text, "advantage": a, "strength": _strength(a, limit)}
            for (mark, text), a in zip(texts[:SHOWN], advantages[:SHOWN], strict=True)
        ],
        "glossed": len(texts) <= GLOSSED and any(a is not None for a in advantages),
        "columns": columns,
        "table": [(j, "".join(texts[j]), [numbers[name][j] for name in columns]) for j in listed],
    }


def _strength(advantage: float | None, limit: float) -> float:
    """How opaque the token's colour is: 0 without an advantage."""
    if not advantage or not limit:
        return 0.0
    return round(FAINT + (STRONG - FAINT) * min(1.0, abs(advantage) / limit), 3)


def _listed(advantages: list[float | None], n: int) -> list[int]:
    """The places of the tokens in the table, in their order."""
    if n <= LISTED:
        return list(range(n))
    return sorted(sorted(range(n), key=lambda j: -abs(advantages[j] or 0.0))[:LISTED])


def _visible(text: str) -> tuple[str, str]:
    """A token's white space in front, as marks that can be seen, and the rest."""
    marks = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
    seen = "".join(marks.get(character, character) for character in text)
    rest = seen.lstrip("·↵⇥␍")
    return seen[: len(seen) - len(rest)], rest
