"""A recorded iteration as the phases of the loop handed it on, in the bits that they had."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from clearppo.batch import Feedback, Prompts, Rollout
from clearppo.core.normalise import FixedMoments
from clearppo.errors import RecordError
from clearppo.feedback import Scores, judge
from clearppo.feedback.judge import MISSING_EOS, MISSING_EOS_SCORE
from clearppo.record import Iteration
from clearppo.record.schema import prompt_of
from clearppo.train.ppo import Recipe

_pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers know none of them
_COLUMNS = (
    "prompt", "prompt_id", "completion", "finish_reason", "score", "raw_score", "parts", "length", "token_ids",
    "tokens", "log_probs", "sampler_log_probs", "ref_log_probs", "kls", "rewards", "values", "prompt_ids",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecordedBatch:
    """What was sampled and judged in iteration `step`, all of its answers. `pieces` are the texts of their tokens."""

    step: int
    meta: Mapping[str, Any]
    rollout: Rollout
    feedback: Feedback
    pieces: tuple[tuple[str, ...], ...]


def read_batch(path: Path, *, pad_id: int, device: torch.device) -> RecordedBatch:
    """The iteration that this file of the record holds. Raises RecordError if it is damaged, or lacks answers."""
    iteration = Iteration(path)
    meta, n = iteration.meta, iteration.n_rows
    if n < meta["n_answers"]:
        raise RecordError(f"{path} holds {n} of the {meta['n_answers']} answers of its iteration.")
    table = iteration.columns(*_COLUMNS)
    mask = _mask(table["length"])
    tokens = {name: _padded(path, table[name], mask).to(device) for name in _TOKEN_COLUMNS}
    on_device = mask.to(device)
    rollout = Rollout(
        prompts=_prompts(table, pad_id).to(device),
        responses=tokens["token_ids"].long(),
        mask=on_device,
        old_log_probs=tokens["log_probs"],
        old_values=tokens["values"],
        sampler_log_probs=tokens["sampler_log_probs"],
        finish_reasons=tuple(table["finish_reason"].to_pylist()),
        completions=tuple(table["completion"].to_pylist()),
        temperature=meta["temperature"],
        policy_version=meta["policy_version"],
    )
    parts = table["parts"].combine_chunks()
    feedback = Feedback(
        scores=_scores(table["score"]).to(device),
        raw_scores=_scores(table["raw_score"]).to(device),
        parts={field.name: _scores(_pc.struct_field(parts, field.name)).to(device) for field in parts.type},
        ref_log_probs=tokens["ref_log_probs"],
        kl=tokens["kls"],
        rewards=tokens["rewards"],
    )
    pieces = tuple(tuple(row) for row in table["tokens"].to_pylist())
    return RecordedBatch(step=meta["step"], meta=meta, rollout=rollout, feedback=feedback, pieces=pieces)


_TOKEN_COLUMNS = ("token_ids", "log_probs", "sampler_log_probs", "ref_log_probs", "kls", "rewards", "values")


def judged_again(batch: RecordedBatch, recipe: Recipe, kl_coef: float) -> RecordedBatch:
    """The same answers with the same raw scores and the same reference, judged by another recipe or KL coefficient."""
    given = _Given(batch)
    scaled = batch.meta["score_scaling"]
    feedback = judge(
        batch.rollout,
        given,
        given,
        kl_coef=kl_coef,
        scaling=None if scaled is None else FixedMoments(mean=scaled["mean"], std=scaled["std"]),
        **recipe.judging,
    )
    return replace(batch, feedback=feedback)


class _Given:
    """Scorer and reference that say again what they said: nobody is asked."""

    def __init__(self, batch: RecordedBatch) -> None:
        self.feedback = batch.feedback
        fines = (MISSING_EOS, MISSING_EOS_SCORE)
        self.parts = {name: part for name, part in batch.feedback.parts.items() if name not in fines}
        self.names = tuple(self.parts)

    def __call__(self, rollout: Rollout) -> Scores:
        missing = (~self.feedback.scored).nonzero().flatten().tolist()
        return Scores(total=self.feedback.raw_scores, parts=self.parts, missing=frozenset(missing))

    def log_probs(self, rollout: Rollout) -> Tensor:
        return self.feedback.ref_log_probs

    def full_kl(self, rollout: Rollout) -> Tensor:
        return self.feedback.kl


def _prompts(table: pa.Table, pad_id: int) -> Prompts:
    """Left-padded, as they were."""
    rows: list[list[int]] = table["prompt_ids"].to_pylist()
    width = max(len(row) for row in rows)
    cells = zip(table["prompt"].to_pylist(), table["prompt_id"].to_pylist(), strict=True)
    return Prompts(
        ids=torch.tensor([[pad_id] * (width - len(row)) + row for row in rows]),
        mask=torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows]),
        texts=tuple(prompt_of(cell, its_id) for cell, its_id in cells),
        columns={},
    )


def _mask(lengths: pa.ChunkedArray) -> Tensor:
    sizes = torch.tensor(lengths.to_pylist())
    return torch.arange(int(sizes.max())) < sizes[:, None]


def _padded(path: Path, column: pa.ChunkedArray, mask: Tensor) -> Tensor:
    """A list column as [B, T] with 0 where the mask is False, and in rows that have no list."""
    lists: Any = column.combine_chunks()
    there = torch.tensor(lists.is_valid().to_pylist())
    sizes = torch.tensor(_pc.fill_null(_pc.list_value_length(lists), 0).to_pylist())
    if not torch.equal(sizes, torch.where(there, mask.sum(dim=1), 0)):
        raise RecordError(f"{path} cannot be read as a record: a list has not one value for each token of its answer.")
    flat = torch.from_numpy(lists.flatten().to_numpy(zero_copy_only=False).copy())  # null, not finite, becomes NaN
    out = torch.zeros(mask.shape, dtype=flat.dtype)
    out[mask & there.unsqueeze(1)] = flat
    return out


def _scores(column: Any) -> Tensor:
    """A column of scores, which are float32 in every run; null is NaN."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return torch.from_numpy(whole.to_numpy(zero_copy_only=False).copy()).float()
