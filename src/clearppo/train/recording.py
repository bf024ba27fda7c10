"""The record of an iteration: what every token of every answer earned, and how the policy moved on it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clearppo.batch import Experience, Feedback, Rollout
from clearppo.core.losses import MAX_LOG_RATIO
from clearppo.core.masks import kept, whitening
from clearppo.core.normalise import RunningScaling, ScoreScaling
from clearppo.core.rewards import rewards_from_kl
from clearppo.learning import Objective, Passes, Watch, credit
from clearppo.learning.credit import learned_answers
from clearppo.record import Store
from clearppo.record.schema import prompt_cell, prompt_id, schema
from clearppo.train.pieces import Pieces
from clearppo.train.ppo import Recipe


class Recorder:
    """Writes an iteration into output_dir/record once it is over. `store` says which ones.

    Of at most `answers` answers an iteration, the first of the batch. `scaled` is the name of the scaling of scores,
    None without one. What goes wrong here stops no run: `note` is told once, and nothing is recorded any more.
    """

    def __init__(
        self,
        store: Store,
        tokenizer: Any,
        *,
        recipe: Recipe,
        objective: Objective,
        passes: Passes,
        scaled: str | None,
        answers: int | None,
        note: Callable[[str], None],
    ) -> None:
        self.store = store
        self.recipe = recipe
        self.objective = objective
        self.passes = passes
        self.scaled = scaled
        self.answers = answers
        self.note = note
        self._tokenizer = tokenizer
        self._pieces: Pieces | None = None
        self._on = store.every > 0
        self._step = 1
        self._scaling: ScoreScaling | None = None
        self._seen: list[tuple[int, Sequence[int], Tensor]] = []

    @property
    def watch(self) -> Watch | None:
        """What learning is to show its micro-batches; None: nobody wants to see them."""
        return self._watch if self._on else None

    def begin(self, step: int, scaling: ScoreScaling) -> None:
        """So many iterations are done, and this is the scaling of scores that the next begins with."""
        self._step = step + 1
        self._scaling = scaling
        self._seen.clear()
        self.store.forget(step)

    def __call__(
        self,
        step: int,
        rollout: Rollout,
        feedback: Feedback,
        experience: Experience,
        *,
        kl_coef: float,
        learning_rate: float,
    ) -> None:
        """Iteration `step` is over."""
        self._step = step + 1
        if not self._on:
            return
        try:
            if self._scaling is not None:  # as `judge` does, and the loop behind it
                self._scaling = self._scaling.updated(feedback.raw_scores[feedback.scored])
            if self.store.due(step):
                meta = {
                    **self._meta(rollout, feedback, experience),
                    "kl_coef": kl_coef,
                    "whiten_rewards": self._whitened_rewards(rollout, feedback, kl_coef),
                    "critic_only": step <= self.recipe.critic_warmup_steps,
                    "learning_rate": learning_rate,
                }
                self.store.write(step, self._table(rollout, feedback, experience), meta)
        except Exception as error:
            self._on = False
            self.note(f"the record is off from iteration {step} on: {type(error).__name__}: {error}")
        finally:
            self._seen.clear()

    def state(self) -> dict[str, Any]:
        """Which files there are, for it decides which will be."""
        return self.store.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.store.load_state(state)

    def _watch(self, epoch: int, rows: Sequence[int], log_ratio: Tensor, mask: Tensor) -> None:
        if self._on and self.store.due(self._step):
            self._seen.append((epoch, rows, log_ratio))

    def _table(self, rollout: Rollout, feedback: Feedback, experience: Experience) -> pa.Table:
        n = len(rollout) if self.answers is None else min(self.answers, len(rollout))
        kinds = schema(list(feedback.parts), double=rollout.old_log_probs.dtype == torch.float64)
        number, mask = kinds.field("score").type, rollout.mask[:n].cpu()
        of_batch = learned_answers(feedback, self.recipe.estimator, self.recipe.group_size).cpu()
        advantages, returns = (_spread(part, of_batch, mask) for part in (experience.advantages, experience.returns))
        learned, every = of_batch[:n], torch.ones(n, dtype=torch.bool)
        per_token = {
            "log_probs": (rollout.old_log_probs, every),
            "sampler_log_probs": (rollout.sampler_log_probs, every),
            "ref_log_probs": (feedback.ref_log_probs, every),
            "kls": (feedback.kl, every),
            "rewards": (feedback.rewards, every),
            "values": (rollout.old_values, every & (self.recipe.estimator == "gae")),
            "returns": (returns, learned),
            "advantages": (advantages, learned),
        }
        lengths, texts = mask.sum(dim=1), rollout.prompts.texts[:n]
        parts = [_numbers(part[:n], number) for part in feedback.parts.values()]
        ids = _ids(rollout.responses[:n], mask)
        pieces = self._pieces = self._pieces or Pieces(self._tokenizer)
        columns: dict[str, Any] = {
            "row": np.arange(n),
            "prompt_id": [prompt_id(text) for text in texts],
            "prompt": [prompt_cell(text) for text in texts],
            "completion": rollout.completions[:n],
            "finish_reason": rollout.finish_reasons[:n],
            "score": _numbers(feedback.scores[:n], number),
            "raw_score": _numbers(feedback.raw_scores[:n], number),
            "parts": pa.StructArray.from_arrays(parts, fields=list(kinds.field("parts").type)),
            "length": lengths.numpy(),
            "kl": _numbers(_sums(feedback.kl[:n], mask), number),
            "reward": _numbers(_sums(feedback.rewards[:n], mask), number),
            # without a token in learning 0 / 0 is NaN, and NaN is null
            "advantage": _numbers(_sums(advantages, mask) / torch.where(learned, lengths, 0), number),
            "learned": learned.numpy(),
            "token_ids": ids,
            "tokens": [pieces(row) for row in ids.to_pylist()],
            **{name: _lists(values[:n], mask, there, number) for name, (values, there) in per_token.items()},
            "ratios": self._ratios(of_batch, mask, number),
            "prompt_ids": _ids(rollout.prompts.ids[:n], rollout.prompts.mask[:n].cpu()),
        }
        return pa.table([pa.array(columns[field.name], field.type) for field in kinds], schema=kinds)

    def _ratios(self, learned: Tensor, mask: Tensor, number: pa.DataType) -> pa.Array:
        """[answer][epoch][token]: what the loss took for the ratio; null for an epoch that did not read the answer.
        `learned` are the answers of the batch that are the rows of the experience."""
        (n, width), epochs = mask.shape, self.passes.epochs
        places = learned.nonzero().flatten()
        ratios = torch.full((n, epochs, width), math.nan, dtype=torch.float64)
        read = torch.zeros(n, epochs, dtype=torch.bool)
        for epoch, rows, log_ratio in self._seen:
            there = places[list(rows)]
            here = there < n
            ratio = log_ratio.cpu().double().clamp(max=MAX_LOG_RATIO).exp()
            ratios[there[here], epoch, : min(ratio.shape[1], width)] = ratio[here, :width]
            read[there[here], epoch] = True
        flat = mask.unsqueeze(1).expand(n, epochs, width).reshape(n * epochs, width)
        inner = _lists(ratios.reshape(n * epochs, width), flat, read.flatten(), number)
        return pa.ListArray.from_arrays(pa.array(range(0, n * epochs + 1, epochs), pa.int32()), inner)

    def _meta(self, rollout: Rollout, feedback: Feedback, experience: Experience) -> dict[str, Any]:
        recipe, passes = self.recipe, self.passes
        return {
            "n_answers": len(rollout),
            "n_tokens": int(experience.rollout.mask.sum()),
            "temperature": rollout.temperature,
            "policy_version": rollout.policy_version,
            "kl_estimator": recipe.kl_estimator,
            "score_scaling": self._scaled(),
            "score_clip": recipe.score_clip,
            "missing_eos_penalty": recipe.missing_eos_penalty,
            "missing_eos_score": recipe.missing_eos_score,
            "estimator": recipe.estimator,
            "group_size": recipe.group_size,
            "gamma": recipe.gamma,
            "lam": recipe.lam,
            "critic_lam": recipe.critic_lam,
            "whiten_advantages": self._whitened_advantages(rollout, feedback),
            "epochs": passes.epochs,
            "num_mini_batches": passes.num_mini_batches,
            "objective": asdict(self.objective),
            "first_is_old": passes.first_is_old,
        }

    def _scaled(self) -> dict[str, Any] | None:
        """What `judge` did to the scores first."""
        if self.scaled is None or self._scaling is None:
            return None
        if isinstance(self._scaling, RunningScaling):
            moments = self._scaling.moments
            return {"kind": self.scaled, "mean": moments.mean if self._scaling.centred else 0.0, "std": moments.std}
        return {"kind": self.scaled, "mean": self._scaling.mean, "std": self._scaling.std}

    def _whitened_rewards(self, rollout: Rollout, feedback: Feedback, kl_coef: float) -> dict[str, float] | None:
        """reward -> (reward - mean) * factor + mean, as a shift and a scale."""
        if not self.recipe.whiten_rewards:
            return None
        earning = rollout.mask & feedback.scored.unsqueeze(1)
        plain = rewards_from_kl(feedback.scores, feedback.kl, earning, kl_coef)
        mean, factor = whitening(plain, earning, self.recipe.unbiased_whitening)
        return {"shift": float(mean / factor - mean), "scale": float(factor)}

    def _whitened_advantages(self, rollout: Rollout, feedback: Feedback) -> dict[str, float] | None:
        recipe = self.recipe
        if not recipe.whiten_advantages or recipe.estimator == "grpo":  # credit leaves GRPO's as they are
            return None
        plain = credit(rollout, feedback, **{**recipe.crediting, "whiten_advantages": False})
        mean, factor = whitening(plain.advantages, plain.rollout.mask, recipe.unbiased_whitening)
        return {"shift": float(-mean), "scale": float(factor)}


def _spread(values: Tensor, learned: Tensor, mask: Tensor) -> Tensor:
    """The experience's numbers in the places of the first answers, as many as `mask` has rows; 0 where none was."""
    whole = torch.zeros(len(learned), mask.shape[1], dtype=values.dtype)
    whole[learned, : values.shape[1]] = values.cpu()
    return whole[: len(mask)]


def _sums(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of each row, in double precision."""
    return kept(values.cpu().double(), mask).sum(dim=1)


def _numbers(values: Tensor, number: pa.DataType) -> pa.Array:
    """A column of numbers; what is not finite is null."""
    cells = values.cpu().double().numpy()
    return pa.array(cells, pa.float64(), mask=~np.isfinite(cells)).cast(number)


def _ids(values: Tensor, mask: Tensor) -> pa.Array:
    cells = pa.array(values.cpu()[mask].numpy(), pa.int32())
    return pa.ListArray.from_arrays(_offsets(mask.sum(dim=1)), cells)


def _lists(values: Tensor, mask: Tensor, there: Tensor, number: pa.DataType) -> pa.Array:
    """A list of numbers a row: those in the mask; null for a row that is not `there`."""
    mask = mask & there.unsqueeze(1)
    cells = _numbers(values.cpu()[mask], number)
    return pa.ListArray.from_arrays(_offsets(mask.sum(dim=1)), cells, mask=pa.array(~there.numpy()))


def _offsets(lengths: Tensor) -> pa.Array:
    """Where each list begins in the flat array, and where the last one ends."""
    return pa.array(np.concatenate([[0], lengths.cumsum(0).numpy()]), pa.int32())
