"""SOCKET Scorer: a rollout goes in, one score a response comes out. With the sum of several, and a small fake.

A source may say "not applicable" for a row: NaN in its part and in its total. Beside another source that scores the row
it counts 0 there; a row that no source scores is an error, or one to be left out, if that was asked for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import Prompts, Rollout
from clearppo.errors import ConfigError, RewardError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One score a response (reward units, float32), and each source's part before weighting. NaN: not applicable.

    `missing` are the rows that have no score and are to be left out of the update; their total is NaN.
    """

    total: Float[Tensor, " B"]
    parts: Mapping[str, Float[Tensor, " B"]]
    missing: frozenset[int] = frozenset()


@runtime_checkable
class Scorer(Protocol):
    """Marks finished responses. One score a row, in the rollout's order and on its device; no gradient.

    The contract, tests/contracts/test_scorer.py: the keys of `parts` are `names`; the same rollout gives the same
    scores; permuted rows give permuted scores; the rollout is left as it was. Raises RewardError, naming the rows, for
    whatever is no finite score.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, rollout: Rollout) -> Scores: ...


class WeightedScorer:
    """The weighted sum of several scorers. A part keeps its source's name; a name that comes twice gets _2, _3, ...

    A row that one source calls missing is missing, whatever the others say. With `drop_missing` a row that no source
    scores is missing too; without, it is an error.

    Raises ConfigError if there is no source, not one weight a source, or a weight that is not finite.
    """

    def __init__(
        self,
        sources: Sequence[Scorer],
        weights: Sequence[float | int] | None = None,
        *,
        drop_missing: bool = False,
    ) -> None:
        if not sources:
            raise ConfigError(
                "there is no source of scores. Give --reward_funcs, --reward_urls or --reward_model_path."
            )
        weights = [1.0] * len(sources) if weights is None else weights
        if len(weights) != len(sources):
            raise ConfigError(
                f"{len(weights)} reward weights for {len(sources)} reward sources "
                f"({', '.join(name for source in sources for name in source.names)}). Give one weight a source."
            )
        for weight in weights:
            if not math.isfinite(weight):
                raise ConfigError(f"a reward weight is {weight}; it must be a finite number. Use 1.0.")
        self.sources = tuple(sources)
        self.weights = tuple(float(weight) for weight in weights)
        self.names = unique_names([name for source in sources for name in source.names])
        self.drop_missing = drop_missing

    def __call__(self, rollout: Rollout) -> Scores:
        """The sum of weight * total over the sources that scored a row; raises RewardError for a row that none did,
        unless it may be dropped."""
        total = torch.zeros(len(rollout), dtype=torch.float32, device=rollout.responses.device)
        scored = torch.zeros(len(rollout), dtype=torch.bool, device=rollout.responses.device)
        parts: list[Tensor] = []
        missing = set[int]()
        for source, weight in zip(self.sources, self.weights, strict=True):
            scores = source(rollout)
            parts += [scores.parts[name] for name in source.names]
            total = total + weight * scores.total.nan_to_num(nan=0.0)
            scored |= ~scores.total.isnan()
            missing |= scores.missing
        if self.drop_missing:
            missing |= set((~scored).nonzero().flatten().tolist())
        else:
            require_scored(scored, rollout, self.names)
        total[list(missing)] = math.nan
        return Scores(total=total, parts=dict(zip(self.names, parts, strict=True)), missing=frozenset(missing))


class FakeScorer:
    """For tests: a response's score is its length in tokens times `per_token`."""

    names = ("length",)

    def __init__(self, per_token: float | int = 1.0) -> None:
        self.per_token = per_token

    def __call__(self, rollout: Rollout) -> Scores:
        total = rollout.mask.sum(dim=1).to(torch.float32) * self.per_token
        return Scores(total=total, parts={"length": total})


def require_scored(scored: Tensor, rollout: Rollout, names: Sequence[str]) -> None:
    """Raises RewardError if a row of `scored` [B] is False: a response without any score cannot be learnt from."""
    missing = (~scored).nonzero().flatten().tolist()
    if missing:
        who = f"`{names[0]}` gave no score" if len(names) == 1 else f"none of {', '.join(names)} gave a score"
        raise RewardError(
            f"{who} (None: not applicable) for {rows_in_words(missing, rollout.prompts)}. "
            "Return a number, or add a source that scores these rows, or leave them out with --reward_missing drop."
        )


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names in order, later ones of a kind with _2, _3, ... added."""
    taken: list[str] = []
    for name in names:
        new, count = name, 1
        while new in taken:
            count += 1
            new = f"{name}_{count}"
        taken.append(new)
    return tuple(taken)


def rows_in_words(rows: Sequence[int], prompts: Prompts, most: int = 5) -> str:
    """At most `most` rows of a batch, counted from 1, each with the beginning of its prompt."""
    noun = "row" if len(rows) == 1 else "rows"
    shown = ", ".join(f"{row + 1} ({shorten(prompts.texts[row])})" for row in rows[:most])
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return f"{noun} {shown}{more} of {len(prompts)}"


def shorten(prompt: Any, limit: int = 40) -> str:
    """The beginning of a prompt in quotes, on one line; of messages the last one's."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= limit else f'"{line[: limit - 1]}…"'
