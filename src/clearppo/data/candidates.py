"""Answers that wait for somebody's judgement: from a file in any format of comparisons, judged or not. No torch."""

import difflib
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from clearppo.data.checks import check_object, columns_seen
from clearppo.data.comparison_formats import ANSWERS, PROMPT_COLUMNS
from clearppo.data.files import Located, Wanted, read_file
from clearppo.data.formats import detect, in_words, require_columns
from clearppo.data.labels import item_id
from clearppo.data.templates import Text, prompt_key
from clearppo.errors import DataError

EXAMPLE = '{"prompt": "The film was", "completions": [" a delight.", " dull."]}'
CANDIDATES = Wanted(
    noun="answers to compare",
    example=EXAMPLE,
    columns=tuple(dict.fromkeys([*(key for keys in ANSWERS for key in keys), *PROMPT_COLUMNS])),
    texts=frozenset({"chosen", "rejected", *PROMPT_COLUMNS, *(f"sample{number}" for number in range(100))}),
)
MOST = 4
"""Answers that a person is shown at once."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A prompt and two to four different answers to it, in the order of their file; `item` is known by its texts."""

    item: str
    prompt: Text
    completions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What the files hold. `n_repeated` items were there before; `n_alike` prompts have no two different answers; of
    `n_cut` the first four different ones are taken."""

    items: tuple[Candidate, ...]
    n_repeated: int
    n_alike: int
    n_cut: int


def read_source(name: str) -> list[Located]:
    """The rows of a local file of answers, or of prompts. Raises DataError if it cannot be read, or holds none."""
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
    if path.is_dir():
        raise DataError(f"{path} is a directory, not a file of {CANDIDATES.noun}. Give one of its files.")
    if not path.exists():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Give a file of answers, or of prompts."
        raise DataError(f"there is no file {path}. {hint}")
    located = read_file(path, CANDIDATES)
    if not located:
        raise DataError(f"{path} holds no {CANDIDATES.noun}. Write one object a line, such as {EXAMPLE}.")
    return located


def has_answers(located: Sequence[Located]) -> bool:
    """Whether the first row has answers, and not a prompt alone."""
    row = located[0][1]
    return isinstance(row, dict) and detect(row, list(ANSWERS)) is not None


def read_candidates(sources: Mapping[str, Sequence[Located]]) -> Candidates:
    """The answers of every row of these files, by name; what they say of which is better is not looked at.

    A row is an item. What several files say to one prompt is one item, too: the first answer of each file, then the
    second of each. Raises DataError, naming the file and the row, for one that is in another format than the first of
    its file, and if there is nothing to compare.
    """
    found: dict[Hashable, tuple[Text, list[Sequence[str]]]] = {}
    for source, located in sources.items():
        met: Counter[Hashable] = Counter()
        for prompt, answers in _read_answers(located, source):
            key = prompt_key(prompt)
            # Within a file a prompt may stand in several rows: the third row of one file joins the third of another.
            _, of_files = found.setdefault((key, met[key]), (prompt, []))
            met[key] += 1
            of_files.append(answers)
    items: dict[str, Candidate] = {}
    n_repeated = n_alike = n_cut = 0
    for prompt, of_files in found.values():
        turns = [answer for turn in zip_longest(*of_files) for answer in turn if answer is not None]
        different = distinct_answers(turns)
        if len(different) < 2:
            n_alike += 1
            continue
        n_cut += len(different) > MOST
        taken = tuple(different[:MOST])
        candidate = Candidate(item=item_id(prompt, taken), prompt=prompt, completions=taken)
        n_repeated += candidate.item in items
        items.setdefault(candidate.item, candidate)
    if not items:
        raise DataError(
            f"{' and '.join(sources)}: no two different answers to any of {n_alike} prompts, so nothing can be "
            "compared. Sample more answers, at a higher temperature."
        )
    return Candidates(items=tuple(items.values()), n_repeated=n_repeated, n_alike=n_alike, n_cut=n_cut)


def _read_answers(located: Sequence[Located], source: str) -> Iterator[tuple[Text, Sequence[str]]]:
    first_where, first = located[0]
    keys = detect(check_object(first, f"{source} {first_where}", EXAMPLE), list(ANSWERS))
    if keys is None:
        known = "; ".join(in_words(known) for known in ANSWERS)
        raise DataError(
            f"{source} {first_where}: no answers in the columns seen ({columns_seen(first)}). Give one of these: "
            f"{known}; or a `prompt` alone, and --model_name_or_path to answer it."
        )
    for where, row in located:
        place = f"{source} {where}"
        require_columns(check_object(row, place, EXAMPLE), keys, place)
        yield ANSWERS[tuple(keys)](row, place)


def distinct_answers(answers: Sequence[str]) -> list[str]:
    """The first of each text, blanks around it aside, as `clearppo prefs` counts."""
    first: dict[str, str] = {}
    for answer in answers:
        first.setdefault(answer.strip(), answer)
    return list(first.values())
