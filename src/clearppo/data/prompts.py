"""Prompts: from a file or a hub data set, by way of a tokenizer, to left-padded batches in a seeded order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Unpack

import torch

from clearppo.batch import Prompts
from clearppo.data.batching import split_off
from clearppo.data.checks import check_object, check_prompt, columns_seen
from clearppo.data.files import Wanted
from clearppo.data.rows import Selection, read_rows
from clearppo.data.templates import Text, Tokenizer, prompt_ids, prompt_key
from clearppo.errors import ConfigError, DataError

PROMPTS = Wanted(noun="prompts", example='{"prompt": "The film was"}', columns=("prompt",), texts=frozenset({"prompt"}))


def load_rows(name: str, **selection: Unpack[Selection]) -> list[dict[str, Any]]:
    """The rows of a local .jsonl, .json, .csv, .parquet or .arrow file, or of a data set on the hub.

    Each row has a `prompt`, a string or a list of {"role", "content"} messages; its other columns travel with it.
    Reading from the hub needs the optional package `datasets`. `selection` are the keywords of `read_rows`: `config`,
    `split`, `flag` and `split_flag`.

    Raises DataError, with the file and the line, for whatever is missing, unreadable, malformed or empty, and
    ConfigError for a `config` or `split` that a local file does not have.
    """
    located = read_rows(name, PROMPTS, **selection)
    for where, row in located:
        _check_row(row, f"{name} {where}")
    return [dict(row) for _, row in located]


def split_prompts(
    rows: Sequence[dict[str, Any]], fraction: float | int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to learn from, and about `fraction` of them held out; equal prompts stay on one side. Raises as
    `split_off`."""
    kept, held = split_off(
        [prompt_key(row["prompt"]) for row in rows], fraction, seed, noun="prompts", without="--eval_steps none"
    )
    return [rows[i] for i in kept], [rows[i] for i in held]


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Tokenised prompts, whole and in the order of their file.

    `ids[i]` are the tokens of prompt i, `texts[i]` is what the user wrote, `columns[name][i]` its other columns (None
    where the row has none of that name). `n_too_long` rows were left out for their length; `longest` is the length in
    tokens of the longest prompt that was looked at, those included.

    Raises DataError if it would hold no prompt.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[Any, ...]
    columns: Mapping[str, tuple[Any, ...]]
    n_too_long: int
    longest: int

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError("there are no prompts. Give at least one.")

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, indices: Sequence[int]) -> "PromptSet":
        """These prompts as a set of their own."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            texts=tuple(self.texts[i] for i in indices),
            columns={name: tuple(column[i] for i in indices) for name, column in self.columns.items()},
        )

    def batch(self, indices: Sequence[int], pad_id: int) -> Prompts:
        """These prompts, in this order, left-padded with `pad_id` to the longest of them. The mask is from lengths."""
        width = max(len(self.ids[i]) for i in indices)
        ids = torch.full((len(indices), width), pad_id, dtype=torch.long)
        mask = torch.zeros((len(indices), width), dtype=torch.bool)
        for row, i in enumerate(indices):
            start = width - len(self.ids[i])
            ids[row, start:] = torch.tensor(self.ids[i], dtype=torch.long)
            mask[row, start:] = True
        return Prompts(
            ids=ids,
            mask=mask,
            texts=tuple(self.texts[i] for i in indices),
            columns={name: tuple(column[i] for i in indices) for name, column in self.columns.items()},
        )


def encode_prompts(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    max_prompt_length: int | None,
    room: int | None,
    source: str,
) -> PromptSet:
    """Tokenise rows. Nothing is ever cut: a prompt fits, is left out and counted, or is an error.

    `room` is how many prompt tokens the model's context leaves beside the response (None if unknown). Prompts longer
    than `max_prompt_length` are left out; without it, one longer than `room` is an error. `source` names the rows in
    messages. Rows are counted from 1.

    Raises DataError for a row that is no prompt, does not fit, encodes to no token or that the chat template refuses,
    and if none is left; ConfigError if `max_prompt_length` is below 1 or above `room`, or if there is no room at all.
    """
    _check_lengths(max_prompt_length, room)
    if not rows:
        raise DataError(f"{source} holds no prompts. Give at least one row with a `prompt`.")
    limit = room if max_prompt_length is None else max_prompt_length
    kept: list[int] = []
    ids: list[tuple[int, ...]] = []
    longest = 0
    for index, row in enumerate(rows):
        place = f"{source} row {index + 1}"
        _check_row(row, place)
        tokens = _encode(tokenizer, row["prompt"], place)
        longest = max(longest, len(tokens))
        if limit is None or len(tokens) <= limit:
            kept.append(index)
            ids.append(tuple(tokens))
        elif max_prompt_length is None:
            raise DataError(
                f"{place}: its prompt is {len(tokens)} tokens long, and the model's context leaves room for {room} "
                f"beside the response. Use --max_prompt_length {room} to leave such prompts out, or a smaller "
                "--response_length."
            )
    if not kept:
        raise DataError(
            f"all {len(rows)} prompts of {source} are longer than max_prompt_length = {max_prompt_length} tokens "
            f"(the longest has {longest}). Use a larger --max_prompt_length."
        )
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return PromptSet(
        ids=tuple(ids),
        texts=tuple(rows[i]["prompt"] for i in kept),
        columns={name: tuple(rows[i].get(name) for i in kept) for name in names},
        n_too_long=len(rows) - len(kept),
        longest=longest,
    )


def prompt_batches(
    prompt_set: PromptSet,
    batch_size: int,
    n_batches: int,
    seed: int,
    pad_id: int,
    num_generations: int = 1,
    *,
    skip: int = 0,
) -> Iterator[Prompts]:
    """`n_batches` batches of `batch_size` rows, one an answer: one epoch after another, each in a new seeded order.
    The first `skip` of them are left out, and not even made.

    Each prompt of a batch stands in `num_generations` adjacent rows, so a batch has batch_size / num_generations of
    them. Every prompt comes once before any comes again. A batch may reach over the end of an epoch, so no prompt is
    ever left over and a set smaller than a batch is legal. The order depends on `seed` and the size of the set only:
    other batch sizes cut the same sequence elsewhere, and torch's global random state is neither read nor changed.

    Raises ConfigError at once if `num_generations` is below 1 or does not divide `batch_size`.
    """
    if num_generations < 1 or batch_size % num_generations:
        raise ConfigError(
            f"num_generations = {num_generations} does not divide batch_size = {batch_size}: a batch holds all answers "
            "to each of its prompts. Use a divisor as --num_generations, or a multiple of it as --batch_size."
        )
    order = _endless_order(len(prompt_set), seed)
    n_prompts = batch_size // num_generations
    order = islice(order, skip * n_prompts, None)
    drawn = (list(islice(order, n_prompts)) for _ in range(skip, n_batches))
    return (prompt_set.batch([i for i in indices for _ in range(num_generations)], pad_id) for indices in drawn)


def _endless_order(size: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def _encode(tokenizer: Tokenizer, prompt: Text, place: str) -> list[int]:
    try:
        tokens = prompt_ids(tokenizer, prompt)
    except ValueError as error:
        raise DataError(
            f"{place}: {error}. Use a model with a chat template that takes these messages, or give prompts as strings."
        ) from error
    if not tokens:
        raise DataError(f"{place}: its prompt encodes to no token at all. Remove the row, or use another tokenizer.")
    return tokens


def _check_lengths(max_prompt_length: int | None, room: int | None) -> None:
    if room is not None and room < 1:
        raise ConfigError(
            f"the model's context leaves no room for a prompt: context_length - response_length = {room} tokens. "
            "Use a smaller --response_length."
        )
    if max_prompt_length is None:
        return
    if max_prompt_length < 1:
        raise ConfigError(f"max_prompt_length = {max_prompt_length}; it must be 1 or more. Use --max_prompt_length 64.")
    if room is not None and max_prompt_length > room:
        raise ConfigError(
            f"max_prompt_length = {max_prompt_length} is more than the {room} tokens that the model's context leaves "
            f"beside the response. Use --max_prompt_length {room}, or a smaller --response_length."
        )


def _check_row(row: Any, place: str) -> None:
    """Raises DataError if this is no row with a prompt that can be used."""
    check_object(row, place, '{"prompt": "..."}')
    if "prompt" not in row:
        raise DataError(
            f"{place}: no `prompt` (columns seen: {columns_seen(row)}). "
            "Name the column that holds the prompts `prompt`."
        )
    check_prompt(row["prompt"], place)
