"""A run that makes comparisons: answers are sampled, labelled, and written as rows that a reward model learns from.

Without a scorer they are written as they are, for people to label.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clearppo.batch import Prompts, Rollout
from clearppo.data import PromptSet
from clearppo.data.candidates import FINISH_REASONS, SOURCES
from clearppo.errors import DataError, RewardError
from clearppo.feedback.scorer import Scorer
from clearppo.rollout import Generation, Sampler
from clearppo.train.comparing import Answers, PrefsSummary, Tally, distinct
from clearppo.train.listener import Listener, Summary
from clearppo.train.part_file import PartFile

TAKEN = frozenset({"completions", "scores", "pairs", "chosen", "rejected", "margins", "ranks", "choice", "best"})
"""Columns by which rows of comparisons are read. The prompts' own columns travel with them under other names."""
FOR_HUMAN = frozenset({SOURCES, FINISH_REASONS})
"""What rows of answers for people say of each answer, too."""


@dataclass(kw_only=True)
class PrefsRun:
    """Everything a run needs, wired by build/prefs.py. `order` are the prompts to answer, `batch_prompts` at a time;
    `model` is the name of what answers."""

    sampler: Sampler
    model: str
    scorer: Scorer | None
    prompts: PromptSet
    order: Sequence[int]
    num_completions: int
    batch_prompts: int
    min_gap: float | int
    pad_id: int
    device: torch.device
    file: PartFile
    listener: Listener
    summary: Summary

    def train(self) -> PrefsSummary:
        """Sample, label and write. Each batch is on the disk before the next one begins.

        If the run ends early (any error, or Ctrl-C), what is finished is kept beside output_file, and the error goes
        on. Raises RewardError if a label is no number, or if no two answers to any prompt differ.
        """
        batches = list(self._batches())
        self.listener.started(self.summary, len(batches))
        self.file.begin()
        tally = Tally()
        try:
            for step, indices in enumerate(batches, start=1):
                start = time.perf_counter()
                before = tally.tokens
                self.file.append(self._compared(indices, tally))
                speed = (tally.tokens - before) / (time.perf_counter() - start)
                self.listener.iteration(step, {**tally.metrics(), "tokens_per_second": speed})
            self._require_rows(tally)
            self.file.finish()
        except BaseException:
            if kept := self.file.keep():
                self.listener.note(f"the comparisons of {self.file.n_rows} prompts that were finished are in {kept}")
            raise
        made = tally.summary(self.file.path)
        self.listener.table(made.table())
        if self.scorer is None:
            self.listener.note(f"the answers are in {made.path}; compare them with clearppo label {made.path}")
        else:
            self.listener.note(f"the comparisons are in {made.path}")
        self.listener.finished()
        return made

    def _batches(self) -> Iterator[Sequence[int]]:
        for start in range(0, len(self.order), self.batch_prompts):
            yield self.order[start : start + self.batch_prompts]

    def _compared(self, indices: Sequence[int], tally: Tally) -> list[dict[str, Any]]:
        """The rows of these prompts, but for those whose answers are all tied."""
        self.listener.phase("sampling")
        repeated = [i for i in indices for _ in range(self.num_completions)]
        prompts = self.prompts.batch(repeated, self.pad_id).to(self.device)
        generation = self.sampler.generate(prompts)
        kept = distinct(generation.completions, self.num_completions)
        scores = dict(zip(kept, self._labels(prompts, generation, kept), strict=True))
        tally.add_sampled(generation.mask.sum(dim=1).tolist(), len(kept))
        rows = []
        for place, index in enumerate(indices):
            first = place * self.num_completions
            own = [row for row in range(first, first + self.num_completions) if row in scores]
            answers = Answers(
                prompt=self.prompts.texts[index],
                columns={name: column[index] for name, column in self.prompts.columns.items()},
                completions=tuple(generation.completions[row] for row in own),
                scores=tuple(scores[row] for row in own),
            )
            if self.scorer is None:
                reasons = [generation.finish_reasons[row] for row in own]
                row = answers.unlabelled() | {SOURCES: [self.model] * len(own), FINISH_REASONS: reasons}
                written = len(own) >= min(2, self.num_completions)
                tally.add_unlabelled(len(own), written=written)
            else:
                row = answers.row(self.min_gap)
                written = bool(row["pairs"])
                tally.add_row(row, len(own))
            if written:
                rows.append(row)
        return rows

    def _labels(self, prompts: Prompts, generation: Generation, rows: list[int]) -> list[float | None]:
        if self.scorer is None:
            return [None] * len(rows)
        self.listener.phase("feedback")
        total = self.scorer(answered(prompts, generation, rows)).total.tolist()
        return [None if math.isnan(score) else score for score in total]

    def _require_rows(self, tally: Tally) -> None:
        if tally.prompts:
            return
        if self.scorer is None:
            why = f"the answers to each of {tally.tied_prompts} prompts are alike"
            mend = "Use a larger --temperature or --num_completions."
        elif tally.scores:
            why = (
                f"the answers to each of {tally.tied_prompts} prompts are tied or alike (scores from "
                f"{min(tally.scores):g} to {max(tally.scores):g}, min_gap = {self.min_gap:g})"
            )
            mend = "Use a finer labeller, a smaller --min_gap, a larger --temperature or --num_completions."
        else:
            why, mend = f"none of {tally.unlabelled} answers got a label (None)", "Use a labeller that can tell."
        raise RewardError(f"there is nothing to compare: {why}, so no file is written. {mend}")


def answered(prompts: Prompts, generation: Generation, rows: list[int]) -> Rollout:
    """These answers as scorers read them. Nothing learns from them: their values are 0 and their log-probs the
    sampler's."""
    index = torch.tensor(rows, device=generation.responses.device)
    log_probs = generation.log_probs[index]
    return Rollout(
        prompts=prompts.select(rows),
        responses=generation.responses[index],
        mask=generation.mask[index],
        old_log_probs=log_probs,
        old_values=torch.zeros_like(log_probs),
        sampler_log_probs=log_probs,
        finish_reasons=tuple(generation.finish_reasons[row] for row in rows),
        completions=tuple(generation.completions[row] for row in rows),
        temperature=generation.temperature,
        policy_version=generation.policy_version,
    )


def check_columns(rows: Sequence[Mapping[str, Any]], source: str, *, for_human: bool) -> None:
    """Raises DataError if a row of prompts has a column that comparisons, or answers for people, cannot carry."""
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if name in TAKEN:
                raise DataError(
                    f"{source} row {number} has a column `{name}`, which would say of a comparison which answer is "
                    "better. Rename or remove it."
                )
            if for_human and name in FOR_HUMAN:
                raise DataError(
                    f"{source} row {number} has a column `{name}`, which --for_human writes itself, of each answer. "
                    "Rename or remove it."
                )
            try:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(
                    f"{source} row {number}: its column `{name}` holds a {type(value).__name__} that cannot be written "
                    f"as JSON ({error}). Convert or remove it."
                ) from error
