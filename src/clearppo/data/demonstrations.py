"""Demonstrations: what the policy is to imitate. From a file or a hub data set to token ids and loss masks."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch

from clearppo.batch import Sequences
from clearppo.data.batching import split_off
from clearppo.data.demonstration_formats import EXAMPLE, FORMATS, Demonstration, read_demonstrations
from clearppo.data.files import Wanted
from clearppo.data.limits import LengthLimit
from clearppo.data.rows import Selection, read_rows
from clearppo.data.templates import Tokenizer, prompt_key
from clearppo.data.turns import Taught, UnclearTurnError, chat_tokens, text_tokens
from clearppo.errors import DataError

_COLUMNS = tuple(dict.fromkeys(key for keys in FORMATS for key in keys))
DEMONSTRATIONS = Wanted(
    noun="demonstrations",
    example=EXAMPLE,
    columns=_COLUMNS,
    texts=frozenset({*_COLUMNS, "input", "subreddit", "title"}),
)


@dataclass(frozen=True, kw_only=True)
class SequenceSet:
    """Tokenised texts, whole and in the order of their file.

    `ids[i]` are the tokens of text i and `loss_masks[i]` says which of them are learned (never the first one, which
    nothing predicts; at least one). `n_too_long` rows were left out for their length; `longest` is the length in tokens
    of the longest row that was looked at, those included.

    Raises DataError if it would hold no text.
    """

    ids: tuple[tuple[int, ...], ...]
    loss_masks: tuple[tuple[bool, ...], ...]
    n_too_long: int
    longest: int

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError("there are no demonstrations. Give at least one.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each text."""
        return tuple(len(ids) for ids in self.ids)

    @property
    def n_loss_tokens(self) -> int:
        """How many tokens are learned in one pass over the set."""
        return sum(sum(mask) for mask in self.loss_masks)

    def batch(self, indices: Sequence[int], pad_id: int) -> Sequences:
        """These texts, in this order, right-padded with `pad_id` to the longest of them. The masks are from lengths."""
        width = max(len(self.ids[i]) for i in indices)
        ids = torch.full((len(indices), width), pad_id, dtype=torch.long)
        mask = torch.zeros((len(indices), width), dtype=torch.bool)
        loss_mask = mask.clone()
        for row, i in enumerate(indices):
            length = len(self.ids[i])
            ids[row, :length] = torch.tensor(self.ids[i], dtype=torch.long)
            mask[row, :length] = True
            loss_mask[row, :length] = torch.tensor(self.loss_masks[i], dtype=torch.bool)
        return Sequences(ids=ids, mask=mask, loss_mask=loss_mask)


def load_demonstrations(name: str, **selection: Unpack[Selection]) -> tuple[Demonstration, ...]:
    """The demonstrations of a local file or of a data set on the hub, in any format of `FORMATS`.

    `selection` are the keywords of `read_rows`: `config`, `split`, `flag` and `split_flag`. Strings are taken as they
    are: a blank between prompt and completion must be written.

    Raises DataError, with the file and the line, for whatever is missing, unreadable, malformed or empty, and
    ConfigError for a `config` or `split` that a local file does not have.
    """
    return read_demonstrations(read_rows(name, DEMONSTRATIONS, **selection), name)


def encode_demonstrations(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    room: int | None = None,
    completion_only: bool = True,
    source: str,
    option: str = "max_length",
) -> SequenceSet:
    """Tokenise demonstrations. Nothing is ever cut: a text fits, is left out and counted, or is an error.

    Learned is the completion with its EOS, or the assistant's part of a conversation; without `completion_only` every
    token but the first. `room` is the model's context in tokens (None if unknown). Texts longer than `max_length` are
    left out; without it, one longer than `room` is an error. `source` names the rows in messages, and `option` the one
    that gave `max_length`.

    Raises DataError for a row that does not fit, has nothing to learn, or cannot be written by the chat template, and
    if none is left; ConfigError if `max_length` is more than `room`.
    """
    limit = LengthLimit(max_length=max_length, room=room, source=source, noun="demonstrations", option=option)
    taught: list[Taught] = []
    for number, demonstration in enumerate(demonstrations, start=1):
        place = f"{source} {demonstration.where or f'row {number}'}"
        ids, learned = _tokens(tokenizer, demonstration, place, completion_only)
        learned = list(learned) if completion_only else [True] * len(ids)
        learned[:1] = [False]
        if not any(learned):
            raise DataError(f"{place}: after its first token there is nothing to learn. Remove the row.")
        if limit.admits(len(ids), place):
            taught.append((ids, learned))
    limit.require(len(taught))
    return SequenceSet(
        ids=tuple(tuple(ids) for ids, _ in taught),
        loss_masks=tuple(tuple(learned) for _, learned in taught),
        n_too_long=limit.n_too_long,
        longest=limit.longest,
    )


def split_demonstrations(
    demonstrations: Sequence[Demonstration], fraction: float | int, seed: int
) -> tuple[tuple[Demonstration, ...], tuple[Demonstration, ...]]:
    """Those to learn from, and about `fraction` of them held out, no prompt on both sides. Raises as `split_off`."""
    keys = [_key(demonstration) for demonstration in demonstrations]
    kept, held = split_off(keys, fraction, seed, noun="demonstrations")
    return tuple(demonstrations[i] for i in kept), tuple(demonstrations[i] for i in held)


def _key(demonstration: Demonstration) -> Hashable:
    """What is asked: the prompt, the conversation before its last message, or (plain text) the text itself."""
    if isinstance(demonstration.completion, str):
        return demonstration.prompt or demonstration.completion
    return prompt_key([*demonstration.prompt, *demonstration.completion][:-1])


def _tokens(tokenizer: Tokenizer, demonstration: Demonstration, place: str, completion_only: bool) -> Taught:
    prompt, completion = demonstration.prompt, demonstration.completion
    if isinstance(prompt, str) or isinstance(completion, str):
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise DataError(f"{place}: of prompt and completion one is text and one is messages. Give both alike.")
        return text_tokens(tokenizer, prompt, completion)
    try:
        return chat_tokens(tokenizer, prompt, completion, completion_only=completion_only)
    except UnclearTurnError as error:
        mend = "Give each answer a row of its own, after what was said before, or use --completion_only_loss false."
        raise DataError(f"{place}: {error}. {mend}") from error
    except ValueError as error:
        mend = "Use a model with a chat template that takes these messages, or give prompt and completion as strings."
        raise DataError(f"{place}: {error}. {mend}") from error
