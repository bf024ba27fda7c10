"""What people decided: a file of `clearppo label`, one decision a line, and the comparisons that it makes. No torch.

    {"item": "9c1f0d3a52e8b764", "prompt": ..., "completions": [...], "choice": 1, "verdict": "better",
     "labeller": "ann", "note": "", "order": [1, 0], "seconds": 8.2, "time": "2026-01-31T14:05:09+00:00", "nonce": ...,
     "sources": [["runs/sft"], ["runs/mine"]]}

`completions` are in the order of the file that was labelled and `choice` counts in them from 0; `order` is how they
were shown, and `sources` who wrote each (empty: not known; several: all wrote the same). Lines are never changed: a
later one of the same item and labeller takes the place of an earlier.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clearppo.data.checks import (
    check_encodable,
    check_index,
    check_object,
    check_prompt,
    check_text,
    columns_seen,
    counted,
)
from clearppo.data.comparison_formats import Comparison
from clearppo.data.files import Located, article
from clearppo.data.templates import Text
from clearppo.errors import DataError

BETTER, TIE, ALL_BAD, UNDONE = "better", "tie", "all bad", "undone"
VERDICTS = (BETTER, TIE, ALL_BAD, UNDONE)
"""What a line says. Undone: the labeller took the decision on this item back, and has made no other."""
COLUMNS = ("item", "prompt", "completions", "choice", "verdict", "labeller")
"""The columns by which such a file is known; the others are for people."""
MOST_SECONDS = 1e9
"""Thirty years. A whole number in JSON may be too large for a float."""
EXAMPLE = (
    '{"item": "9c1f", "prompt": "The film was", "completions": [" a delight.", " dull."], "choice": 0, '
    '"verdict": "better", "labeller": "ann"}'
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One line: what one person thought of the answers to one prompt. `choice` is set if the verdict is "better"."""

    item: str
    prompt: Text
    completions: tuple[str, ...]
    choice: int | None
    verdict: str
    labeller: str
    note: str = ""
    order: tuple[int, ...] = ()
    seconds: float = 0.0
    time: str = ""
    nonce: str = ""
    sources: tuple[tuple[str, ...], ...] = ()

    def line(self) -> str:
        """As it stands in the file, line end included."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False) + "\n"

    def same_as(self, other: "Decision") -> bool:
        """Whether both say the same of the same item."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("item", "labeller", "verdict", "choice", "note")
        )


def item_id(prompt: Text, completions: Sequence[str]) -> str:
    """By what an item is known: 16 hex digits that depend on its texts alone."""
    text = json.dumps([prompt, list(completions)], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_sources(value: Any, size: int) -> tuple[tuple[str, ...], ...] | None:
    """Who wrote each of `size` answers: for each a name or a list of names. None if `value` is something else."""
    if not isinstance(value, list | tuple) or len(value) != size:
        return None
    named = [[names] if isinstance(names, str) else names for names in value]
    if not all(isinstance(names, list | tuple) and all(map(_is_name, names)) for names in named):
        return None
    return tuple(tuple(dict.fromkeys(names)) for names in named)


def _is_name(value: Any) -> bool:
    # Half a surrogate pair is in no file.
    return isinstance(value, str) and bool(value.strip()) and value == value.encode(errors="replace").decode()


def is_labels(row: Any) -> bool:
    """Whether this row is a decision of `clearppo label`."""
    return isinstance(row, Mapping) and all(name in row for name in COLUMNS)


def read_decision(row: Any, place: str) -> Decision:
    """A row of a file of labels. Raises DataError, naming `place`, for one that is none."""
    row = check_object(row, place, EXAMPLE)
    if not is_labels(row):
        missing = next(name for name in COLUMNS if name not in row)
        raise DataError(f"{place}: no `{missing}` (columns seen: {columns_seen(row)}). Write {EXAMPLE}.")
    completions, verdict = row["completions"], row["verdict"]
    if not isinstance(completions, list | tuple) or len(completions) < 2:
        raise DataError(f"{place}: `completions` must be a list of two answers or more. Mend the row.")
    if verdict not in VERDICTS:
        raise DataError(f"{place}: `verdict` is {str(verdict)[:40]!r}; it must be one of {', '.join(VERDICTS)}.")
    if verdict != BETTER and row["choice"] is not None:
        raise DataError(f"{place}: `verdict` is {verdict}, and `choice` is {article(row['choice'])}. Write null.")
    order = row.get("order") or list(range(len(completions)))
    if not isinstance(order, list | tuple) or sorted(map(str, order)) != sorted(map(str, range(len(completions)))):
        raise DataError(f"{place}: `order` must hold each of 0 to {len(completions) - 1} once. Mend the row.")
    seconds = row.get("seconds") or 0.0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
        raise DataError(
            f"{place}: `seconds` is {str(seconds)[:40]}; it must be a number from 0 to {MOST_SECONDS:.0f}. "
            "Mend the row."
        )
    sources = read_sources(row["sources"], len(completions)) if row.get("sources") else ()
    if sources is None:
        raise DataError(f"{place}: `sources` must hold a list of names for each of the completions. Mend the row.")
    return Decision(
        item=check_text(row["item"], "item", place),
        prompt="" if row["prompt"] == "" else check_prompt(row["prompt"], place),
        completions=tuple(check_text(answer, "completions", place, may_be_blank=True) for answer in completions),
        choice=check_index(row["choice"], len(completions), "choice", place) if verdict == BETTER else None,
        verdict=verdict,
        labeller=check_text(row["labeller"], "labeller", place),
        order=tuple(map(int, order)),
        seconds=float(seconds),
        sources=sources,
        **{name: _words(row.get(name), name, place) for name in ("note", "time", "nonce")},
    )


def standing(decisions: Iterable[Decision]) -> dict[tuple[str, str], Decision]:
    """By (item, labeller), in the order of the file, the decisions that no later line replaces or takes back."""
    last: dict[tuple[str, str], Decision] = {}
    for decision in decisions:
        last.pop((decision.item, decision.labeller), None)
        if decision.verdict != UNDONE:
            last[decision.item, decision.labeller] = decision
    return last


def read_labels(
    located: Sequence[Located], source: str, note: Callable[[str], None] | None = None
) -> tuple[Comparison, ...]:
    """A comparison for each standing decision for an answer, one a labeller. `note` is told what made none.

    Raises DataError, naming `source` and the line, for one that is no decision, and if nobody decided for an answer.
    """
    decisions = [read_decision(row, f"{source} {where}") for where, row in located]
    places = {id(decision): where for decision, (where, _) in zip(decisions, located, strict=True)}
    kept = list(standing(decisions).values())
    compared = [_comparison(decision, places[id(decision)]) for decision in kept if decision.verdict == BETTER]
    different = [comparison for comparison in compared if comparison.pairs]
    said = _summary(kept, len(decisions), len(different), len(compared) - len(different))
    if not different:
        raise DataError(f"{source} holds no decision for an answer ({said}). Label more with clearppo label.")
    if note is not None:
        note(f"{source}: {said}")
    return tuple(different)


def _comparison(decision: Decision, where: str) -> Comparison:
    choice, answers = decision.choice, decision.completions
    assert choice is not None  # the verdict is "better"
    pairs = tuple((choice, other) for other in range(len(answers)) if answers[other] != answers[choice])
    return Comparison(
        prompt=decision.prompt,
        answers=answers,
        pairs=pairs,
        margins=(0.0,) * len(pairs),
        choice=choice,
        labels=None,
        where=where,
    )


def _summary(kept: Sequence[Decision], n_lines: int, n_compared: int, n_alike: int) -> str:
    """What became of the lines."""
    counts = Counter(decision.verdict for decision in kept)
    people = len({decision.labeller for decision in kept})
    parts = [
        f"{counted(len(kept), 'decision')} of {counted(people, 'labeller')}",
        f"{n_compared} for an answer",
        f'{counted(counts[TIE], "tie")} and {counts[ALL_BAD]} "all bad", which make no pair',
    ]
    if n_alike:
        parts.append(
            f"{n_alike} between answers that are all the same, which {'makes' if n_alike == 1 else 'make'} no pair"
        )
    if replaced := n_lines - len(kept):
        parts.append(f"{counted(replaced, 'line')} replaced or taken back by a later one")
    return "; ".join(parts)


def _words(value: Any, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: `{name}` is {article(value)}; it must be a string. Mend the row.")
    check_encodable(value, place)
    return value
