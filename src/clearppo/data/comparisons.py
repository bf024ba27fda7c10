"""Comparisons: answers to one prompt, and which are better. From a file or a hub data set to token ids and pairs."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearppo.data.batching import split_off
from clearppo.data.comparison_formats import EXAMPLE, FORMATS, PROMPT_COLUMNS, Comparison, read_comparisons
from clearppo.data.files import Wanted
from clearppo.data.implicit import common_length
from clearppo.data.judgement import JudgementTemplate
from clearppo.data.labels import is_labels, read_labels
from clearppo.data.limits import LengthLimit
from clearppo.data.rows import Selection, read_rows
from clearppo.data.templates import Tokenizer, prompt_key
from clearppo.errors import DataError

COMPARISONS = Wanted(
    noun="comparisons",
    example=EXAMPLE,
    columns=tuple(dict.fromkeys(key for keys in FORMATS for key in keys)),
    texts=frozenset({"chosen", "rejected", *PROMPT_COLUMNS, *(f"sample{number}" for number in range(100))}),
)


@dataclass(frozen=True, kw_only=True)
class ComparisonBatch:
    """Comparisons as tensors: N answers in all (those of one comparison adjacent), M pairs, C comparisons.

    `ids` and `mask` are right-padded. `comparison` is the comparison (0 to C - 1) of each answer; `pairs` are rows of
    `ids`, (better, worse), those of one comparison adjacent; `pair_comparison` is the comparison of each pair.
    `divergence` is the first column in which the two texts of a pair differ. `choice` is the row of `ids` of the one
    best answer of each comparison, or -1 where several share the first place.
    """

    ids: Int[Tensor, "N L"]
    mask: Bool[Tensor, "N L"]
    comparison: Int[Tensor, " N"]
    pairs: Int[Tensor, "M 2"]
    pair_comparison: Int[Tensor, " M"]
    margins: Float[Tensor, " M"]
    divergence: Int[Tensor, " M"]
    choice: Int[Tensor, " C"]

    def __len__(self) -> int:
        """The number of comparisons, C."""
        return self.choice.shape[0]

    def to(self, device: torch.device) -> "ComparisonBatch":
        """The same batch on `device`."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ComparisonSet:
    """Comparisons whose answers are tokenised as a reward model reads them, whole and in the order of their file.

    `ids[i][k]` are the tokens of answer k of comparison i, within its prompt and the judgement template;
    `answer_tokens[i][k]` is the length in tokens of that answer alone. `n_too_long` comparisons were left out because
    one of their texts was too long; `longest` is the length in tokens of the longest text that was looked at, those
    included.

    Raises DataError if it would hold no comparison.
    """

    comparisons: tuple[Comparison, ...]
    ids: tuple[tuple[tuple[int, ...], ...], ...]
    answer_tokens: tuple[tuple[int, ...], ...]
    n_too_long: int
    longest: int

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError("there are no comparisons. Give at least one.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the longest text of each comparison."""
        return tuple(max(map(len, texts)) for texts in self.ids)

    @property
    def n_pairs(self) -> int:
        """All pairs of all comparisons."""
        return sum(len(comparison.pairs) for comparison in self.comparisons)

    def batch(self, indices: Sequence[int], pad_id: int) -> ComparisonBatch:
        """These comparisons, in this order, their texts right-padded with `pad_id` to the longest of them."""
        texts = [text for i in indices for text in self.ids[i]]
        ids = torch.full((len(texts), max(map(len, texts))), pad_id, dtype=torch.long)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
            mask[row, : len(text)] = True
        comparison: list[int] = []
        pairs: list[tuple[int, int]] = []
        of_pairs: list[int] = []
        choice: list[int] = []
        for number, i in enumerate(indices):
            start, said = len(comparison), self.comparisons[i]
            comparison += [number] * len(said.answers)
            pairs += [(start + better, start + worse) for better, worse in said.pairs]
            of_pairs += [number] * len(said.pairs)
            choice.append(-1 if said.choice is None else start + said.choice)
        return ComparisonBatch(
            ids=ids,
            mask=mask,
            comparison=torch.tensor(comparison),
            pairs=torch.tensor(pairs),
            pair_comparison=torch.tensor(of_pairs),
            margins=torch.tensor([margin for i in indices for margin in self.comparisons[i].margins]),
            divergence=torch.tensor([common_length(texts[better], texts[worse]) for better, worse in pairs]),
            choice=torch.tensor(choice),
        )


def load_comparisons(
    name: str, *, note: Callable[[str], None] | None = None, **selection: Unpack[Selection]
) -> tuple[Comparison, ...]:
    """The comparisons of a local file or of a data set on the hub, in any format of `FORMATS`, or people's labels.

    `selection` are the keywords of `read_rows`: `config`, `split`, `flag` and `split_flag`. Strings are taken as they
    are: a blank between prompt and answer must be written. `note` is told what of a file of labels makes no comparison.

    Raises DataError, with the file and the line, for whatever is missing, unreadable, malformed or empty, and
    ConfigError for a `config` or `split` that a local file does not have.
    """
    located = read_rows(name, COMPARISONS, **selection)
    if is_labels(located[0][1]):
        return read_labels(located, name, note)
    return read_comparisons(located, name)


def encode_comparisons(
    comparisons: Sequence[Comparison],
    tokenizer: Tokenizer,
    template: JudgementTemplate,
    *,
    max_length: int | None,
    room: int | None = None,
    source: str,
) -> ComparisonSet:
    """Tokenise every answer as the reward model will read it. Nothing is ever cut.

    A comparison with a text longer than `max_length` is left out as a whole: its best answer may be the long one.
    Without `max_length`, a text longer than `room` (the model's context in tokens, None if unknown) is an error.
    `source` names the rows in messages.

    Raises DataError for a comparison that does not fit, that the chat template refuses, or in which both answers of a
    pair become the same tokens, and if none is left; ConfigError if `max_length` is more than `room`.
    """
    limit = LengthLimit(max_length=max_length, room=room, source=source, noun="comparisons")
    kept: list[Comparison] = []
    ids: list[tuple[tuple[int, ...], ...]] = []
    for number, comparison in enumerate(comparisons, start=1):
        place = f"{source} {comparison.where or f'row {number}'}"
        texts = _texts(tokenizer, template, comparison, place)
        if limit.admits(max(map(len, texts)), place):
            _check_different(comparison, texts, place)
            kept.append(comparison)
            ids.append(texts)
    limit.require(len(kept))
    return ComparisonSet(
        comparisons=tuple(kept),
        ids=tuple(ids),
        answer_tokens=tuple(_lengths(tokenizer, comparison) for comparison in kept),
        n_too_long=limit.n_too_long,
        longest=limit.longest,
    )


def split_comparisons(
    comparisons: Sequence[Comparison], fraction: float | int, seed: int
) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
    """Those to learn from, and about `fraction` of them held out, no prompt on both sides. Raises as `split_off`.

    Comparisons without a prompt are told apart by their answers.
    """
    keys: list[Hashable] = [prompt_key(comparison.prompt) or comparison.answers for comparison in comparisons]
    kept, held = split_off(keys, fraction, seed, noun="comparisons")
    return tuple(comparisons[i] for i in kept), tuple(comparisons[i] for i in held)


def _texts(
    tokenizer: Tokenizer, template: JudgementTemplate, comparison: Comparison, place: str
) -> tuple[tuple[int, ...], ...]:
    try:
        texts = tuple(tuple(template.ids(tokenizer, comparison.prompt, answer)) for answer in comparison.answers)
    except ValueError as error:
        raise DataError(
            f"{place}: {error}. Use a model with a chat template that takes these messages, give prompts as strings, "
            "or write --judgement_template with {prompt} and {answer}."
        ) from error
    if not all(texts):
        raise DataError(f"{place}: an answer encodes to no token at all. Remove the row, or use another tokenizer.")
    return texts


def _check_different(comparison: Comparison, texts: Sequence[Sequence[int]], place: str) -> None:
    for better, worse in comparison.pairs:
        if texts[better] == texts[worse]:
            raise DataError(
                f"{place}: answers {better} and {worse} become the same tokens, so the model cannot tell which is "
                "better. Remove the row, or use another tokenizer or --judgement_template."
            )


def _lengths(tokenizer: Tokenizer, comparison: Comparison) -> tuple[int, ...]:
    encoded = tokenizer(list(comparison.answers), add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(map(len, encoded))
