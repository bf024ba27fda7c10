"""From a row of any known format to a Comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo.data.checks import (
    check_index,
    check_messages,
    check_number,
    check_object,
    check_prompt,
    check_text,
    columns_seen,
    shown,
)
from clearppo.data.files import Located, article
from clearppo.data.formats import detect, in_words, require_columns, spaced, tldr_prompt
from clearppo.data.implicit import explicit_prompt, implicit_prompt, is_dialogue, only_answer
from clearppo.data.templates import Text
from clearppo.errors import DataError

EXAMPLE = '{"prompt": "The film was", "chosen": " a delight.", "rejected": " dull."}'


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two or more answers to one prompt, and what somebody thought of them.

    `pairs` are (better, worse), numbers of `answers` counted from 0; there is at least one, and no tie. `margins` says
    for each pair by how much (0.0: not said). `choice` is the one best answer, None if several share the first place.
    `labels` has a number for each answer, higher is better, or is None. The prompt may be "". `where` says where the
    row stands in its file ("line 3"), for messages.
    """

    prompt: Text
    answers: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    margins: tuple[float, ...]
    choice: int | None
    labels: tuple[float, ...] | None
    where: str = ""


PROMPT_COLUMNS = ("prompt", "query", "context")
JUDGED_BY = ("pairs", "scores", "ranks", "choice", "best")
OPTIONAL = ("margin", "margins", *JUDGED_BY)


def read_comparisons(located: Sequence[Located], source: str) -> tuple[Comparison, ...]:
    """Every row as a Comparison. The first row says which format the file is in, and every row must fit.

    Raises DataError, naming `source` and the row, for a row that is in no known format, in another one than the first,
    or that compares nothing.
    """
    first_where, first = located[0]
    keys = detect(check_object(first, f"{source} {first_where}", EXAMPLE), list(FORMATS))
    if keys is None:
        known = "; ".join(in_words(known) for known in FORMATS)
        raise DataError(
            f"{source} {first_where}: no comparison in the columns seen ({columns_seen(first)}). "
            f"Give one of these: {known}."
        )
    # What the first row says beside its answers, every row must say.
    needed = [*keys, *(key for key in (*PROMPT_COLUMNS, *OPTIONAL) if first.get(key) is not None and key not in keys)]
    read: list[Comparison] = []
    for where, row in located:
        place = f"{source} {where}"
        require_columns(check_object(row, place, EXAMPLE), needed, place)
        read.append(FORMATS[tuple(keys)](row, where, place))
    return tuple(read)


def _chosen_rejected(row: Mapping[str, Any], where: str, place: str) -> Comparison:
    prompt, answers = _pair_answers(row, place)
    margin = check_number(row["margin"], "margin", place, minimum=0) if row.get("margin") is not None else 0.0
    return Comparison(
        prompt=prompt,
        answers=answers,
        pairs=((0, 1),),
        margins=(margin,),
        choice=0,
        labels=None,
        where=where,
    )


def _pair_answers(row: Mapping[str, Any], place: str) -> tuple[Text, tuple[str, ...]]:
    chosen, rejected = (_text_or_messages(row[key], key, place) for key in ("chosen", "rejected"))
    if isinstance(chosen, str) is not isinstance(rejected, str):
        raise DataError(
            f"{place}: `chosen` is {article(chosen)} and `rejected` {article(rejected)}. Give both in the same form."
        )
    if chosen == rejected:
        raise DataError(f"{place}: `chosen` and `rejected` are identical ({shown(chosen)}). Remove the row.")
    name = next((key for key in PROMPT_COLUMNS if row.get(key) is not None), None)
    if name is None:
        prompt, better, worse = implicit_prompt(chosen, rejected, place)
    else:
        prompt, better, worse = explicit_prompt(check_prompt(row[name], place, name), chosen, rejected, place)
    for key, answer in (("chosen", better), ("rejected", worse)):
        if not answer.strip() and not is_dialogue(chosen):
            raise DataError(f"{place}: the answer in `{key}` is empty. Write one, or remove the row.")
    if better == worse:
        raise DataError(f"{place}: `chosen` and `rejected` are identical ({shown(better)}). Remove the row.")
    return prompt, (better, worse)


def _ranked(row: Mapping[str, Any], where: str, place: str) -> Comparison:
    prompt, answers = _ranked_answers(row, place)
    return _judged(prompt, answers, {**row, **_inside(row["completions"], place)}, where, place)


def _ranked_answers(row: Mapping[str, Any], place: str) -> tuple[Text, tuple[str, ...]]:
    entries = row["completions"]
    if not isinstance(entries, list | tuple):
        raise DataError(f"{place}: `completions` is {article(entries)}; it must be a list of answers. Mend the row.")
    answers = [_answer(entry, f"{place}, completion {number}") for number, entry in enumerate(entries, start=1)]
    chat = any(not isinstance(_bare(entry), str) for entry in entries)
    return _prompt(row, place, chat=chat), tuple(answers)


def _samples(row: Mapping[str, Any], where: str, place: str) -> Comparison:
    """lm-human-preferences: `query`, `sample0`, `sample1`, ..., and `best`, the number of the one that was picked."""
    return _judged(*_sample_answers(row, place), row, where, place)


def _sample_answers(row: Mapping[str, Any], place: str) -> tuple[Text, tuple[str, ...]]:
    names = [f"sample{number}" for number in range(len(row)) if f"sample{number}" in row]
    answers = tuple(_answer(row[name], f"{place}, {name}") for name in names)
    return _prompt(row, place), answers


def _summaries(row: Mapping[str, Any], where: str, place: str) -> Comparison:
    """summarize-from-feedback: `info` (the post), `summaries` of {"text"}, and `choice`."""
    return _judged(*_summary_answers(row, place), row, where, place)


def _summary_answers(row: Mapping[str, Any], place: str) -> tuple[Text, tuple[str, ...]]:
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, Mapping) or not isinstance(summaries, list | tuple) or info.get("post") is None:
        raise DataError(
            f"{place}: `info` must be an object with a `post`, and `summaries` a list of objects with `text`. Mend it."
        )
    answers = [spaced(_answer(entry, f"{place}, summary {number}")) for number, entry in enumerate(summaries, start=1)]
    return tldr_prompt(info, place), tuple(answers)


FORMATS: dict[tuple[str, ...], Callable[[Mapping[str, Any], str, str], Comparison]] = {
    ("chosen", "rejected"): _chosen_rejected,
    ("completions",): _ranked,
    ("sample0", "sample1", "best"): _samples,
    ("info", "summaries", "choice"): _summaries,
}
"""The columns by which a format is known, the surest first."""

ANSWERS: dict[tuple[str, ...], Callable[[Mapping[str, Any], str], tuple[Text, tuple[str, ...]]]] = {
    ("chosen", "rejected"): _pair_answers,
    ("completions",): _ranked_answers,
    ("sample0", "sample1"): _sample_answers,
    ("info", "summaries"): _summary_answers,
}
"""The same formats without a judgement: the prompt of a row and its answers."""


def _judged(prompt: Text, answers: Sequence[str], row: Mapping[str, Any], where: str, place: str) -> Comparison:
    """Answers, and what the row says of them: `pairs` before `scores`, before `ranks`, before `choice` or `best`."""
    size = len(answers)
    if size < 2:
        raise DataError(f"{place}: {_count(size)}, and a comparison needs two. Add one, or remove the row.")
    labels = _numbers(row["scores"], size, "scores", place) if row.get("scores") is not None else None
    margins: tuple[float, ...] | None = None
    picked = next((key for key in ("choice", "best") if row.get(key) is not None), None)
    choice = check_index(row[picked], size, picked, place) if picked else None
    if row.get("pairs") is not None:
        pairs = _explicit_pairs(row["pairs"], size, place)
        margins = _margins(row, len(pairs), place)
    elif labels is not None:
        pairs = _ordered(labels)
    elif row.get("ranks") is not None:
        pairs = _ordered([-rank for rank in _numbers(row["ranks"], size, "ranks", place)])
    elif choice is not None:
        # Of equal answers somebody had to pick one: that is no preference.
        pairs = tuple((choice, other) for other in range(size) if answers[other] != answers[choice])
    else:
        raise DataError(
            f"{place}: nothing says which answer is better (columns seen: {columns_seen(row)}). "
            "Give `scores`, `ranks`, `pairs` or `choice`, or compare the answers yourself with clearppo label."
        )
    _check_pairs(pairs, answers, place)
    return Comparison(
        prompt=prompt,
        answers=tuple(answers),
        pairs=pairs,
        margins=margins or (0.0,) * len(pairs),
        choice=_winner(pairs, size) if choice is None else choice,
        labels=labels,
        where=where,
    )


def _check_pairs(pairs: Sequence[tuple[int, int]], answers: Sequence[str], place: str) -> None:
    if not pairs:
        raise DataError(f"{place}: none of its {len(answers)} answers is better than another. Remove the row.")
    for better, worse in pairs:
        if answers[better] == answers[worse]:
            raise DataError(
                f"{place}: answer {better} is to be better than answer {worse}, and they are identical "
                f"({shown(answers[better])}). Give them the same score, or remove one."
            )


def _winner(pairs: Sequence[tuple[int, int]], size: int) -> int | None:
    """The answer that is better than each of the others, if there is one."""
    beaten = [{worse for better, worse in pairs if better == answer} for answer in range(size)]
    return next((answer for answer in range(size) if len(beaten[answer]) == size - 1), None)


def _ordered(values: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """All (better, worse) of answers with these values; equal ones are a tie and make no pair."""
    size = len(values)
    return tuple((i, j) for i in range(size) for j in range(size) if values[i] > values[j])


def _explicit_pairs(value: Any, size: int, place: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: `pairs` is {article(value)}; it must be a list of [better, worse]. Mend the row.")
    pairs: list[tuple[int, int]] = []
    for number, pair in enumerate(value, start=1):
        of_pair = f"{place}, pair {number}"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError(f"{of_pair}: {str(pair)[:40]} is no [better, worse]. Mend the row.")
        better, worse = (check_index(index, size, "pairs", of_pair) for index in pair)
        if better == worse or (better, worse) in pairs or (worse, better) in pairs:
            raise DataError(f"{of_pair}: [{better}, {worse}] says nothing new, or the opposite. Name each pair once.")
        pairs.append((better, worse))
    return tuple(pairs)


def _margins(row: Mapping[str, Any], size: int, place: str) -> tuple[float, ...] | None:
    if row.get("margins") is None:
        return None
    margins = _numbers(row["margins"], size, "margins", place, of="pairs")
    return tuple(check_number(margin, "margins", place, minimum=0) for margin in margins)


def _numbers(value: Any, size: int, name: str, place: str, *, of: str = "answers") -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or len(value) != size:
        seen = f"{len(value)} numbers" if isinstance(value, list | tuple) else article(value)
        raise DataError(f"{place}: `{name}` is {seen} for {size} {of}. Give a list of one number for each.")
    return tuple(check_number(number, name, place) for number in value)


def _inside(entries: Sequence[Any], place: str) -> dict[str, Any]:
    """NeMo's ranks (and scores) that stand within each completion, as columns of the row."""
    found: dict[str, Any] = {}
    for key, column in (("rank", "ranks"), ("score", "scores")):
        holders = [entry for entry in entries if isinstance(entry, Mapping) and entry.get(key) is not None]
        if holders and len(holders) != len(entries):
            raise DataError(
                f"{place}: {len(holders)} of its {len(entries)} completions have a `{key}`. Give each of them one."
            )
        if holders:
            found[column] = [entry[key] for entry in holders]
    return found


def _prompt(row: Mapping[str, Any], place: str, *, chat: bool = False) -> Text:
    """The prompt; as messages if the answers are messages."""
    name = next((key for key in PROMPT_COLUMNS if row.get(key) is not None), None)
    if name is None:
        raise DataError(f"{place}: no `prompt` (columns seen: {columns_seen(row)}). Name what is answered `prompt`.")
    if isinstance(row[name], list | tuple) and row[name] and all(isinstance(token, int) for token in row[name]):
        raise DataError(f"{place}: `{name}` is a list of token ids. Write it as text.")
    prompt = check_prompt(row[name], place, name)
    return [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt


def _bare(entry: Any) -> Any:
    """A completion without what stands beside it: of {"completion", "rank"} or {"text"} the text or messages."""
    if isinstance(entry, Mapping):
        return next((entry[key] for key in ("completion", "text") if key in entry), entry)
    return entry


def _answer(entry: Any, place: str) -> str:
    """An answer as text; it may be empty, as a model's answer may be."""
    bare = _bare(entry)
    if isinstance(bare, list | tuple) and bare and all(isinstance(token, int) for token in bare):
        raise DataError(f"{place}: a list of token ids. Write the answer as text.")
    if isinstance(bare, Mapping):
        raise DataError(f"{place}: no `completion` (keys seen: {columns_seen(bare)}). Mend the row.")
    if isinstance(bare, list | tuple):
        return only_answer(check_messages(bare, "completion", place), place)
    return check_text(bare, "completion", place, may_be_blank=True)


def _text_or_messages(value: Any, name: str, place: str) -> Any:
    if isinstance(value, list | tuple):
        return check_messages(value, name, place)
    return check_text(value, name, place, may_be_blank=True)


def _count(size: int) -> str:
    return "it has no answer" if size == 0 else "it has one answer"
