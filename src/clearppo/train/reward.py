"""A run of reward-model training, which ends with scores on a scale and a verdict on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from clearppo.batch import Stats
from clearppo.config import RewardModelConfig
from clearppo.data.comparisons import ComparisonSet
from clearppo.data.judgement import JudgementTemplate
from clearppo.learning.reward import RewardObjective, learn_comparisons, measure_comparisons, score_texts
from clearppo.models.normalise import Normalisation, normalise_scores
from clearppo.models.reward_model import RewardModel
from clearppo.models.trunk import ADAPTER, probed, save_reward_adapter
from clearppo.train.card import REWARD
from clearppo.train.listener import Table
from clearppo.train.reward_report import RewardReport, ScoredComparison, reward_report, scored
from clearppo.train.supervised_run import SupervisedRun

REPORT = "reward_report.json"
MANY_KNOWN = 200  # comparisons that were learned from, at least, for telling learning by heart from learning


@dataclass(kw_only=True)
class RewardRun(SupervisedRun[RewardModelConfig, ComparisonSet]):
    """Everything that `train` needs. build/steps.py makes one from a RewardModelConfig.

    `references` are the token ids of the texts on which scores are normalised. `normalisation` and `report` are there
    after `train`: None where nothing was normalised, or nothing held out.
    """

    card = REWARD

    model: RewardModel
    template: JudgementTemplate
    objective: RewardObjective
    references: Sequence[Sequence[int]]
    normalisation: Normalisation | None = field(default=None, init=False)
    report: RewardReport | None = field(default=None, init=False)
    _probed: Tensor | None = field(default=None, init=False)

    @property
    def network(self) -> RewardModel:
        """What learns."""
        return self.model

    def learn(self, rows: list[int]) -> Stats:
        """One optimiser step on these comparisons."""
        return learn_comparisons(
            self.model,
            self.learned.batch(rows, self.pad_id),
            self.engine,
            self.optimiser,
            objective=self.objective,
            micro_batch_size=self.config.run.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            max_grad_norm=self.config.optim.max_grad_norm,
            guard=self.faults,
        )

    def measure(self, held_out: ComparisonSet, rows: list[int]) -> Stats:
        """Loss, accuracy and margin on these held-out comparisons."""
        stats, _ = measure_comparisons(
            self.model,
            held_out.batch(rows, self.pad_id),
            objective=self.objective,
            micro_batch_size=self.config.run.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            division=self.engine,
        )
        return stats

    def conclude(self) -> None:
        """Normalise the scores, then examine the model with its final weights."""
        self.normalise()
        self.examine()

    def normalise(self) -> None:
        """Give the scores the scale that was asked for, in the model's own weights."""
        mode = self.config.rm.score_normalisation
        if mode is None:
            return
        self.listener.phase("normalising")
        self.normalisation = normalise_scores(
            self.model, self.references, mode=mode, micro_batch_size=self.config.run.micro_batch_size,
            division=self.engine,
        )  # fmt: skip
        self.listener.note(self.normalisation.sentence())

    def examine(self) -> None:
        """What the model is worth, with its final weights, on comparisons that it has not seen."""
        if self.held_out is None:
            return
        self.listener.phase("evaluating")
        generator = torch.Generator().manual_seed(self.config.run.seed)
        size = max(len(self.held_out), MANY_KNOWN)
        known = torch.randperm(len(self.learned), generator=generator)[:size]
        report = reward_report(
            self.scored(self.held_out, range(len(self.held_out))),
            train=self.scored(self.learned, known.tolist()),
            logit_scale=self.normalisation.gain if self.normalisation else 1.0,
            clear_gap=self.config.rm.clear_gap,
        )
        self.report = report
        title = "Is this reward model good enough for PPO?"
        self.listener.table(Table(title=title, columns=("", ""), rows=tuple(report.rows()), numbers=False))
        self.track.trackers.table("reward_report", len(self.track.history), ("", ""), report.rows())
        self.listener.note("\n".join(said(report)))

    def scored(self, comparisons: ComparisonSet, rows: Sequence[int]) -> list[ScoredComparison]:
        """These comparisons with the score of each answer."""
        part = replace(
            comparisons,
            comparisons=tuple(comparisons.comparisons[row] for row in rows),
            ids=tuple(comparisons.ids[row] for row in rows),
            answer_tokens=tuple(comparisons.answer_tokens[row] for row in rows),
        )
        texts = [ids for answers in part.ids for ids in answers]
        scores = score_texts(
            self.model,
            texts,
            micro_batch_size=self.config.run.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            division=self.engine,
        )
        return scored(part, scores.tolist())

    def save_model(self, directory: Path) -> None:
        """The model, its template, its report if there is one; and with LoRA its adapter, for a shared trunk."""
        self.model.save(directory, self.tokenizer, self.template)
        if self.config.model.use_peft:
            self.save_adapter(directory)
        if self.report is not None:
            (directory / REPORT).write_text(self.report.to_json(), encoding="utf-8")

    def gathered(self, *, adapter: bool) -> list[Tensor]:
        """See SupervisedRun; and the scores that are kept beside an adapter, for which all must read."""
        self._probed = probed(self.model) if self.config.model.use_peft else None
        return super().gathered(adapter=adapter)

    def save_adapter(self, directory: Path) -> None:
        """The adapter with the score head, as PPO puts it on a policy's trunk."""
        save_reward_adapter(self.model, directory / ADAPTER, self._probed)

    def found(self) -> str:
        """How the scores were normalised, and the verdict."""
        normalised = [self.normalisation.sentence()] if self.normalisation else []
        judged = ["\n".join(said(self.report))] if self.report else []
        return "\n\n".join(normalised + judged)


def said(report: RewardReport) -> list[str]:
    """The verdict and its reasons, a line each."""
    return [report.verdict.meaning, *(f"- {reason}" for reason in report.verdict.reasons)]
