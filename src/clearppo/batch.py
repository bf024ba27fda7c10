"""What flows between the three phases: Prompts -> Rollout -> Feedback -> Experience -> Stats.

Axes: B sequences, P prompt tokens, T response tokens. Column j of every [B, T] tensor speaks of the same
response token j. `mask` is True from the first sampled token through the token that ended the answer; masked cells
hold 0 and are never read.
All objects are frozen and whole at birth. Masks come from lengths, never from comparing ids with a padding id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A batch of prompts, tokenised and left-padded (the last token of every prompt is in column P - 1).

    `texts` holds what the user wrote: a string, or a list of chat messages. `columns` holds the row's other columns,
    which travel to the reward functions.
    """

    ids: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]
    texts: tuple[Any, ...]
    columns: Mapping[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, rows: Sequence[int]) -> "Prompts":
        """These rows, with the padding columns that none of them needs cut off."""
        index = torch.as_tensor(rows, device=self.ids.device)
        mask = self.mask[index]
        width = max(int(mask.sum(dim=1).max()), 1)
        return type(self)(
            ids=self.ids[index][:, -width:],
            mask=mask[:, -width:],
            texts=tuple(self.texts[i] for i in rows),
            columns={name: tuple(column[i] for i in rows) for name, column in self.columns.items()},
        )

    def to(self, device: torch.device) -> "Prompts":
        """The same batch on `device`."""
        return type(self)(ids=self.ids.to(device), mask=self.mask.to(device), texts=self.texts, columns=self.columns)


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Whole texts, tokenised and right-padded, for learning to write them: SFT and PPO-ptx.

    `mask` is True for real tokens (L columns in all); `loss_mask` for those whose log-probability is learned, never in
    column 0, because nothing predicts the first token of a text.
    """

    ids: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    loss_mask: Bool[Tensor, "B L"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, rows: Sequence[int]) -> "Sequences":
        """These rows, with the padding columns that none of them needs cut off."""
        index = torch.as_tensor(rows, device=self.ids.device)
        mask = self.mask[index]
        width = response_width(mask)
        loss_mask = self.loss_mask[index][:, :width]
        return type(self)(ids=self.ids[index][:, :width], mask=mask[:, :width], loss_mask=loss_mask)

    def silent(self) -> "Sequences":
        """The same texts with nothing to be learned, for a pass that is made for company."""
        return replace(self, loss_mask=torch.zeros_like(self.loss_mask))

    def to(self, device: torch.device) -> "Sequences":
        """The same batch on `device`."""
        return type(self)(ids=self.ids.to(device), mask=self.mask.to(device), loss_mask=self.loss_mask.to(device))


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """采样: answers, and what the policy thought of every token when it wrote it.

    `old_log_probs` are the policy's log p(token | context) at `temperature` over the whole vocabulary, in nats;
    `sampler_log_probs` are those of the distribution that was really drawn from (the same unless top_k or top_p cut the
    vocabulary, or another engine sampled). `old_values[:, j]` is the critic's value before token j.
    """

    prompts: Prompts
    responses: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    old_log_probs: Float[Tensor, "B T"]
    old_values: Float[Tensor, "B T"]
    sampler_log_probs: Float[Tensor, "B T"]
    finish_reasons: tuple[FinishReason, ...]
    completions: tuple[str, ...]
    temperature: float
    policy_version: int

    def __len__(self) -> int:
        return self.responses.shape[0]


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """反馈: the teacher's marks, and the rewards that equations (1) and (2) make of them.

    `scores` is what lands on the last token (reward units); `raw_scores` is the sum of the sources as they gave it,
    before any scaling, clipping or penalty; `parts` are the sources, before weighting. Both scores are NaN, and the
    rewards 0, for an answer that nobody scored and that is to be left out of the update.
    `kl` is the per-token estimate of KL(policy || reference) in nats.
    """

    scores: Float[Tensor, " B"]
    raw_scores: Float[Tensor, " B"]
    parts: Mapping[str, Float[Tensor, " B"]]
    ref_log_probs: Float[Tensor, "B T"]
    kl: Float[Tensor, "B T"]
    rewards: Float[Tensor, "B T"]

    @property
    def scored(self) -> Bool[Tensor, " B"]:
        """Which answers have a score; the others are not learned from."""
        return ~self.raw_scores.isnan()


@dataclass(frozen=True, kw_only=True)
class Experience:
    """学习's input: the answers to learn from, with the advantage and the return of every token, equations (3) and (4).

    `ref_log_probs` is the reference's log p of every token, for a KL inside the loss.
    """

    rollout: Rollout
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    ref_log_probs: Float[Tensor, "B T"]

    def __len__(self) -> int:
        return len(self.rollout)

    def select(self, rows: Sequence[int]) -> "Experience":
        """These rows as an Experience of their own, without the padding columns that none of them needs."""
        whole = self.rollout
        index = torch.as_tensor(rows, device=whole.responses.device)
        width = response_width(whole.mask[index])
        cut = {
            field.name: getattr(whole, field.name)[index][:, :width]
            for field in fields(whole)
            if field.name in _ROLLOUT_TOKEN_FIELDS
        }
        rollout = Rollout(
            prompts=whole.prompts.select(rows),
            finish_reasons=tuple(whole.finish_reasons[i] for i in rows),
            completions=tuple(whole.completions[i] for i in rows),
            temperature=whole.temperature,
            policy_version=whole.policy_version,
            **cut,
        )
        return type(self)(
            rollout=rollout,
            advantages=self.advantages[index][:, :width],
            returns=self.returns[index][:, :width],
            ref_log_probs=self.ref_log_probs[index][:, :width],
        )

    def silent(self) -> "Experience":
        """The same answers without a token that counts, for a pass that is made for company."""
        rollout = self.rollout
        return replace(self, rollout=replace(rollout, mask=torch.zeros_like(rollout.mask)))


_ROLLOUT_TOKEN_FIELDS = frozenset({"responses", "mask", "old_log_probs", "old_values", "sampler_log_probs"})


def response_width(mask: Bool[Tensor, "B T"]) -> int:
    """The number of leading columns that hold every True of `mask`, at least 1."""
    columns = mask.any(dim=0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 1


def portions(lengths: Sequence[int], *, max_rows: int | None = None, max_tokens: int | None = None) -> list[list[int]]:
    """Row numbers in groups that pass through a model together: rows of like length, so that little is padding.

    A group has at most `max_rows` rows, and at most `max_tokens` cells when padded to its longest row; a row that is
    longer alone forms a group of its own. None is no limit. Longest rows first: if memory does not suffice, it fails at
    once, and every later group fits into the memory of the first. Raises ValueError for a limit below 1.
    """
    if (max_rows is not None and max_rows < 1) or (max_tokens is not None and max_tokens < 1):
        raise ValueError(f"max_rows = {max_rows}, max_tokens = {max_tokens}: a group holds one row at least. Use 1 up.")
    groups: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True):
        if not groups or len(groups[-1]) >= room:
            room = len(lengths) if max_rows is None else max_rows
            if max_tokens is not None:
                room = min(room, max(max_tokens // max(lengths[row], 1), 1))
            groups.append([])
        groups[-1].append(row)
    return groups


@runtime_checkable
class Division(Protocol):
    """How the rows of a batch, which every process knows whole, are divided over the processes that compute together.

    All processes call the same methods in the same order.
    """

    world: int

    def deal(self, costs: Sequence[int]) -> list[int]:
        """Which of these pieces of work, of such costs, this process does: each is done by one."""
        ...

    def passes(self, n: int) -> int:
        """How many passes through a model this process makes if it has work for `n`; the rest is for company."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        ...


class Alone:
    """One process does everything."""

    world = 1

    def deal(self, costs: Sequence[int]) -> list[int]:
        return list(range(len(costs)))

    def passes(self, n: int) -> int:
        return n

    def sum(self, value: Tensor) -> Tensor:
        return value


ALONE = Alone()


def shares(
    lengths: Sequence[int], division: Division, *, max_rows: int | None = None, max_tokens: int | None = None
) -> list[tuple[list[int], bool]]:
    """The `portions` of those rows that fall to this process; True: what comes of them counts.

    With False the portion is one row of another process, for a pass that is made for company only: where weights are
    shared out all processes must pass through a model equally often, and none may miss what is summed afterwards.
    """
    mine = division.deal(lengths)
    found = portions([lengths[row] for row in mine], max_rows=max_rows, max_tokens=max_tokens)
    parts = [([mine[row] for row in part], True) for part in found]
    shortest = min(range(len(lengths)), key=lambda row: lengths[row])
    return parts + [([shortest], False)] * (division.passes(len(parts)) - len(parts))


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Sums and counts, never means: parts of a batch add up to the whole exactly, whatever their sizes."""

    sums: Mapping[str, float]
    counts: Mapping[str, float]

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(sums=_added(self.sums, other.sums), counts=_added(self.counts, other.counts))

    def mean(self, name: str) -> float:
        """sum / count of `name`; raises KeyError for a name that was never recorded, ValueError for a count of 0."""
        if self.counts[name] == 0:
            raise ValueError(f"the mean of {name} is not defined: nothing was counted")
        return self.sums[name] / self.counts[name]

    def over(self, division: Division) -> "Stats":
        """What all processes have seen together; every one of them must have the same names."""
        if division.world == 1:
            return self
        names = sorted(self.sums)
        cells = [self.sums[name] for name in names] + [self.counts[name] for name in names]
        whole = division.sum(torch.tensor(cells, dtype=torch.float64))
        table = [float(cell) for cell in whole]
        sums, counts = table[: len(names)], table[len(names) :]
        return Stats(sums=dict(zip(names, sums, strict=True)), counts=dict(zip(names, counts, strict=True)))

    @classmethod
    def empty(cls) -> "Stats":
        """No sums: the neutral element of +."""
        return cls(sums={}, counts={})


def _added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}
