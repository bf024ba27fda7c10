"""What an iteration's learning did: to the policy on its own answers, and to the weights."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clearppo.core.masks import masked_mean, masked_var
from clearppo.learning.credit import learned_answers
from clearppo.models.policy import Analysis
from clearppo.train.ppo import Recipe
from clearppo.train.replay.batch import RecordedBatch
from clearppo.train.replay.step import Learned

AROUND = (6, 3)
"""So many tokens before and after a token are shown with it."""
_CHUNK = 2**22
"""Numbers of a tensor that are in memory in double precision at once."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Two vectors: their lengths, and the cosine between them; None if one of them is 0."""

    norm: float
    norm_changed: float
    cosine: float | None


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A token and its probability: before the iteration, after it, and after it with other options. `before` and
    `after` are the pieces of text around it."""

    row: int
    token: int
    text: str
    left: str
    right: str
    advantage: float | None
    before: float
    after: float
    after_changed: float | None


def effect(
    batch: RecordedBatch, learned: Learned, recipe: Recipe, before: Analysis, after: Analysis, *, has_critic: bool
) -> dict[str, float]:
    """What has become of the policy on the answers that it learned from, by name (docs/replay.md)."""
    rows = learned_answers(batch.feedback, recipe.estimator, recipe.group_size)
    mask = batch.rollout.mask & rows.unsqueeze(1)
    log_ratio = (after.log_probs - before.log_probs).double()
    kl = torch.expm1(log_ratio) - log_ratio  # k3 of samples from the policy before: never negative
    numbers = {
        "optimiser_steps": float(learned.steps),
        "kl_after": float(masked_mean(kl, mask)),
        "kl_after_largest": float(kl[mask].max()),
        "probability_moved": float(masked_mean((after.log_probs.exp() - before.log_probs.exp()).abs(), mask)),
        "entropy_after": float(masked_mean(after.entropy, mask)),
    }
    returns, width = learned.experience.returns, learned.experience.returns.shape[1]
    of_learned = learned.experience.rollout.mask
    variance = float(masked_var(returns, of_learned))
    if has_critic and variance:
        errors = (after.values[rows][:, :width] - returns) ** 2
        numbers["explained_var_after"] = 1.0 - float(masked_mean(errors, of_learned)) / variance
    return numbers


def moved_most(
    batch: RecordedBatch,
    advantages: Tensor,
    rows: Tensor,
    before: Analysis,
    after: Analysis,
    changed: Analysis | None,
    *,
    count: int,
) -> list[Moved]:
    """The tokens whose probability moved most, in either of the two. `advantages` are those of the answers `rows`."""
    was, now = before.log_probs.exp(), after.log_probs.exp()
    other = None if changed is None else changed.log_probs.exp()
    moved = (now - was).abs() if other is None else torch.maximum((now - was).abs(), (other - was).abs())
    moved = torch.where(batch.rollout.mask, moved, -1.0)
    whole = torch.full(moved.shape, math.nan, dtype=torch.float64)
    whole[rows.cpu(), : advantages.shape[1]] = advantages.cpu().double()
    places = moved.flatten().topk(min(count, int(batch.rollout.mask.sum()))).indices.tolist()
    found: list[Moved] = []
    for row, token in (divmod(place, moved.shape[1]) for place in places):
        pieces, advantage = batch.pieces[row], float(whole[row, token])
        found.append(
            Moved(
                row=row,
                token=token,
                text=pieces[token],
                left="".join(pieces[max(token - AROUND[0], 0) : token]),
                right="".join(pieces[token + 1 : token + 1 + AROUND[1]]),
                advantage=None if math.isnan(advantage) else advantage,
                before=float(was[row, token]),
                after=float(now[row, token]),
                after_changed=None if other is None else float(other[row, token]),
            )
        )
    return found


def alike(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], origin: Mapping[str, Tensor] | None = None
) -> dict[str, Alike]:
    """How alike two vectors are that are cut into named tensors, both seen from `origin`: the whole of them, the
    policy's part, and the critic's. A tensor that one of them lacks is 0 there. Sums are in double precision."""
    sums: dict[str, list[float]] = {}
    for name in left.keys() | right.keys():
        found = [0.0, 0.0, 0.0]
        for a, b in _chunks(left.get(name), right.get(name), None if origin is None else origin[name]):
            found = [s + float(p) for s, p in zip(found, (a @ a, b @ b, a @ b), strict=True)]
        for part in ("all", "critic" if name.startswith("critic.") else "policy"):
            sums[part] = [s + p for s, p in zip(sums.get(part, [0.0] * 3), found, strict=True)]
    return {
        part: Alike(
            norm=math.sqrt(aa),
            norm_changed=math.sqrt(bb),
            cosine=max(-1.0, min(1.0, ab / math.sqrt(aa * bb))) if aa and bb else None,
        )
        for part, (aa, bb, ab) in sums.items()
    }


def _chunks(left: Tensor | None, right: Tensor | None, origin: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Both flat, in double precision, and without the origin, some numbers at a time."""
    count = next(part.numel() for part in (left, right) if part is not None)
    for start in range(0, count, _CHUNK):
        end = min(start + _CHUNK, count)

        def part(tensor: Tensor | None, start: int = start, end: int = end) -> Tensor:
            if tensor is None:
                return torch.zeros(end - start, dtype=torch.float64)
            return tensor.detach().reshape(-1)[start:end].cpu().double()

        away = part(origin)
        yield part(left) - away, part(right) - away
