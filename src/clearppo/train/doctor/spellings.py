"""Whether a tokenizer is the one that a model was trained with, seen in the embedding alone.

Nothing in a directory says so. But in an embedding that was trained, two spellings of a word ("time", " Time") lie
nearer to each other than two words do; where the tokenizer is another model's, its numbers mean other words there, and
they do not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clearppo.train.doctor.finding import Problem

_WORDS = (
    "the and that this with from have not you what when where who which there they people time year good new first "
    "last long great little own other old right big high small large next early young important public bad man woman "
    "day life world school state family student group country problem hand part place case week company system program "
    "question work government number night point home water room mother area money story fact month lot study book eye "
    "job word business issue side kind head house service friend father power hour game line end member law car city "
    "name president team minute idea body information back parent face others level office door health person art war"
)
FEWEST = 25
"""Pairs of spellings, below which nothing is said."""
NEARER = 0.1
"""By so much the cosine of two spellings of a word is above that of two words, in an embedding that fits."""
CERTAIN = 4.0


@dataclass(frozen=True, kw_only=True)
class Spellings:
    """The mean cosine of two spellings of a word, that of two different words, how many pairs, and how many standard
    errors the difference is."""

    related: float
    unrelated: float
    n: int
    certain: float


def strangers(tokenizer: Any, embedding: Tensor, mend: str) -> tuple[str, list[Problem]]:
    """What was measured, in words (nothing where there is too little to measure), and whether tokenizer and embedding
    are strangers."""
    seen = word_spellings(tokenizer, embedding)
    if seen is None:
        return "", []
    said = f"cosine of two spellings of a word {seen.related:.2f}, of two words {seen.unrelated:.2f}"
    if seen.related - seen.unrelated >= NEARER and seen.certain >= CERTAIN:
        return said, []
    reason = (
        f"In the embedding, {seen.n} words are as far from their own second spelling as from other words: these "
        "weights were trained with another tokenizer."
    )
    return said, [Problem("stop", reason, mend)]


def word_spellings(tokenizer: Any, embedding: Tensor) -> Spellings | None:
    """How much nearer two spellings of a word are than two words; None if the tokenizer has too few such pairs."""
    pairs: list[tuple[int, int]] = []
    for word in _WORDS.split():
        ids = {_single(tokenizer, text) for text in (word, word.capitalize(), f" {word}", f" {word.capitalize()}")}
        found = sorted(token for token in ids if token is not None and token < embedding.shape[0])
        pairs += [(found[0], other) for other in found[1:2]]
    if len(pairs) < FEWEST:
        return None
    left, right = (_directions(embedding, [pair[side] for pair in pairs]) for side in (0, 1))
    related = (left * right).sum(dim=-1).tolist()
    unrelated = (left * right.roll(1, dims=0)).sum(dim=-1).tolist()
    differences = [a - b for a, b in zip(related, unrelated, strict=True)]
    error = stdev(differences) / math.sqrt(len(pairs))
    return Spellings(
        related=fmean(related), unrelated=fmean(unrelated), n=len(pairs), certain=fmean(differences) / max(error, 1e-12)
    )


def _single(tokenizer: Any, text: str) -> int | None:
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def _directions(embedding: Tensor, ids: Sequence[int]) -> Tensor:
    """Rows of the embedding as unit vectors, from their mean: all of them lean the same way."""
    rows = embedding.detach()[torch.tensor(list(ids), device=embedding.device)].double()
    return functional.normalize(rows - rows.mean(dim=0), dim=-1)
