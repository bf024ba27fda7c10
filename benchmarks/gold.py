"""A gold classifier of sentences as good or bad: logistic regression on words and pairs of words, and its data."""

import random
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

FILE = "sentence_polarity.zip"
Labelled = tuple[str, int]
"""A sentence, and 1 if it was labelled positive, else 0."""


def read_sentences(path: Path) -> list[Labelled]:
    """All different sentences of rt-polarity.pos and .neg (Pang and Lee 2005) as ordinary text; a repeated one once."""
    sentences: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        for ending, label in ((".pos", 1), (".neg", 0)):
            (name,) = [name for name in archive.namelist() if name.endswith(ending)]
            for line in archive.read(name).decode("latin-1").splitlines():
                if line.strip():
                    sentences.setdefault(line.strip(), label)
    return [(ordinary(sentence), label) for sentence, label in sentences.items()]


def ordinary(sentence: str) -> str:
    """The data's spelling ("the film 's end , it seems") as people write it ("The film's end, it seems")."""
    text = re.sub(r"\s+([,.;:!?%)\]]|'(?:s|re|ve|ll|d|m)\b|n't\b)", r"\1", sentence)
    text = re.sub(r"([(\[])\s+", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text[:1].upper() + text[1:]


def halves(sentences: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Two halves in a random order, each with half of the good and half of the bad sentences."""
    chance = random.Random(seed)
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for label in (1, 0):
        of_label = [row for row in sentences if row[1] == label]
        chance.shuffle(of_label)
        sides[0].extend(of_label[: len(of_label) // 2])
        sides[1].extend(of_label[len(of_label) // 2 :])
    for side in sides:
        chance.shuffle(side)
    return sides


def features(text: str) -> list[str]:
    """The different words and pairs of neighbouring words of a text, in small letters."""
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[!?]", text.lower())
    return list(dict.fromkeys([*words, *(f"{one} {two}" for one, two in pairwise(words))]))


@dataclass(frozen=True)
class Gold:
    """log P(good) / P(bad) of a text, in nats: the weights of its known features over the root of their number.

    Whether a feature occurs counts, not how often, so saying a good word twice gains nothing.
    """

    index: dict[str, int]
    weight: Tensor
    bias: Tensor

    def log_odds(self, texts: Sequence[str]) -> list[float]:
        return (_sums(self.index, texts, self.weight) + self.bias).tolist()

    def accuracy(self, rows: Sequence[Labelled]) -> float:
        """Share of sentences on whose label's side of 0 the log-odds are."""
        right = [
            (odds > 0) == bool(label)
            for odds, (_, label) in zip(self.log_odds([t for t, _ in rows]), rows, strict=True)
        ]
        return sum(right) / len(right)


def train_gold(rows: Sequence[Labelled], *, steps: int = 150, decay: float = 1e-5, min_count: int = 2) -> Gold:
    """Fit by full-batch Adam to the mean cross-entropy plus `decay` times the sum of squared weights."""
    counts = Counter(feature for text, _ in rows for feature in features(text))
    index = {feature: i for i, feature in enumerate(sorted(f for f, n in counts.items() if n >= min_count))}
    weight = torch.zeros(max(len(index), 1), requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    labels = torch.tensor([float(label) for _, label in rows])
    optimiser = torch.optim.Adam([weight, bias], lr=0.2)
    known = _known(index, [text for text, _ in rows])
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(_weighted(known, weight) + bias, labels)
        optimiser.zero_grad()
        (loss + decay * weight.square().sum()).backward()
        optimiser.step()
    return Gold(index, weight.detach(), bias.detach())


def _sums(index: dict[str, int], texts: Sequence[str], weight: Tensor) -> Tensor:
    return _weighted(_known(index, texts), weight)


def _known(index: dict[str, int], texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """(features, the text each belongs to, 1 / root of the number of features of each text)."""
    found = [[index[feature] for feature in features(text) if feature in index] for text in texts]
    owner = torch.tensor([row for row, ids in enumerate(found) for _ in ids], dtype=torch.long)
    ids = torch.tensor([i for row in found for i in row], dtype=torch.long)
    return ids, owner, torch.tensor([max(len(row), 1) ** -0.5 for row in found])


def _weighted(known: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
    ids, owner, scale = known
    return torch.zeros_like(scale).index_add(0, owner, weight[ids]) * scale
