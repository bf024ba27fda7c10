"""Answers that wait for somebody's judgement: from a file in any format of comparisons, judged or not. No torch."""

import difflib
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from clearppo.data.checks import check_object, columns_seen
from clearppo.data.comparison_formats import ANSWERS, PROMPT_COLUMNS
from clearppo.data.files import Located, Wanted, read_file
from clearppo.data.formats import detect, in_words, require_columns
from clearppo.data.labels import item_id, read_sources
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
SOURCES, FINISH_REASONS = "sources", "finish_reasons"
"""Columns beside `completions`: who wrote each, and how it ended ("stop", or "length" if it was cut)."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A prompt and two to four different answers to it, in the order of their file; `item` is known by its texts.

    `sources` says who wrote each answer (several names: all wrote the same; empty: not known), and `cut` whether it
    ended at the length limit.
    """

    item: str
    prompt: Text
    completions: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...] = ()
    cut: tuple[bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What the files hold. `n_repeated` items were there before; `n_alike` prompts have no two different answers; of
    `n_cut` the first four different ones are taken. `models` are the writers that the files themselves name."""

    items: tuple[Candidate, ...]
    n_repeated: int
    n_alike: int
    n_cut: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Answer:
    text: str
    sources: tuple[str, ...]
    cut: bool


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
    second of each; a file is the writer of answers for which it names none. Raises DataError, naming the file and the
    row, for one that is in another format than the first of its file, and if there is nothing to compare.
    """
    read = {source: list(_read_answers(located, source)) for source, located in sources.items()}
    models = Counter(name for rows in read.values() for name in _writers(rows))
    found: dict[Hashable, tuple[Text, list[Sequence[_Answer]]]] = {}
    for source, rows in read.items():
        met: Counter[Hashable] = Counter()
        for prompt, answers in rows:
            key = prompt_key(prompt)
            # Within a file a prompt may stand in several rows: the third row of one file joins the third of another.
            _, of_files = found.setdefault((key, met[key]), (prompt, []))
            met[key] += 1
            of_files.append(_told_apart(answers, source, models) if len(read) > 1 else answers)
    items: dict[str, Candidate] = {}
    n_repeated = n_alike = n_cut = 0
    for prompt, of_files in found.values():
        different = _distinct([answer for turn in zip_longest(*of_files) for answer in turn if answer is not None])
        if len(different) < 2:
            n_alike += 1
            continue
        n_cut += len(different) > MOST
        candidate = _candidate(prompt, different[:MOST])
        n_repeated += candidate.item in items
        items.setdefault(candidate.item, candidate)
    if not items:
        raise DataError(
            f"{' and '.join(sources)}: no two different answers to any of {n_alike} prompts, so nothing can be "
            "compared. Sample more answers, at a higher temperature."
        )
    return Candidates(
        items=tuple(items.values()), n_repeated=n_repeated, n_alike=n_alike, n_cut=n_cut, models=tuple(models)
    )


def _candidate(prompt: Text, answers: Sequence[_Answer]) -> Candidate:
    texts = tuple(answer.text for answer in answers)
    return Candidate(
        item=item_id(prompt, texts),
        prompt=prompt,
        completions=texts,
        sources=tuple(answer.sources for answer in answers) if any(answer.sources for answer in answers) else (),
        cut=tuple(answer.cut for answer in answers),
    )


def _read_answers(located: Sequence[Located], source: str) -> Iterator[tuple[Text, Sequence[_Answer]]]:
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
        prompt, texts = ANSWERS[tuple(keys)](row, place)
        # A column of that name may be somebody else's and hold something else; then the writers are not known.
        writers = read_sources(row.get(SOURCES), len(texts)) or ((),) * len(texts)
        reasons = row.get(FINISH_REASONS)
        known_ends = isinstance(reasons, list | tuple) and len(reasons) == len(texts)
        ends = reasons if known_ends else (None,) * len(texts)
        yield (
            prompt,
            [
                _Answer(text=text, sources=names, cut=end == "length")
                for text, names, end in zip(texts, writers, ends, strict=True)
            ],
        )


def _writers(rows: Sequence[tuple[Text, Sequence[_Answer]]]) -> list[str]:
    """Each name in these rows once."""
    return list(dict.fromkeys(name for _, answers in rows for answer in answers for name in answer.sources))


def _told_apart(answers: Sequence[_Answer], source: str, models: Mapping[str, int]) -> list[_Answer]:
    """With the file's name for a writer who is not named, and beside one whom several files name."""
    file = source.encode(errors="replace").decode()
    return [
        replace(
            answer,
            sources=tuple(f"{name} ({file})" if models[name] > 1 else name for name in answer.sources) or (file,),
        )
        for answer in answers
    ]


def _distinct(answers: Sequence[_Answer]) -> list[_Answer]:
    """The first of each text, blanks around it aside, as `clearppo prefs` counts; its writers are those of all."""
    first: dict[str, _Answer] = {}
    for answer in answers:
        known = first.setdefault(answer.text.strip(), answer)
        first[answer.text.strip()] = replace(known, sources=tuple(dict.fromkeys([*known.sources, *answer.sources])))
    return list(first.values())
