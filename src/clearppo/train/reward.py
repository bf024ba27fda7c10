"""A run of reward-model training from its parts to its files: announce, loop, normalise, examine, save."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clearppo.batch import Stats
from clearppo.config import RewardModelConfig, dump_config
from clearppo.data.comparisons import ComparisonSet
from clearppo.data.judgement import JudgementTemplate
from clearppo.engines.base import Engine
from clearppo.learning.reward import RewardObjective, learn_comparisons, measure_comparisons, score_texts
from clearppo.models.normalise import Normalisation, normalise_scores
from clearppo.models.reward_model import RewardModel
from clearppo.rundir import RunDir
from clearppo.train.card import REWARD, model_card
from clearppo.train.listener import Listener, Summary, Table
from clearppo.train.reward_report import RewardReport, ScoredComparison, reward_report, scored
from clearppo.train.supervised import Course, StepTrack, by_length, rescued, supervised_loop

REPORT = "reward_report.json"
MANY_KNOWN = 200  # comparisons that were learned from, at least, for telling learning by heart from learning


@dataclass(kw_only=True)
class RewardRun:
    """Everything that `train` needs. build_steps.py makes one from a RewardModelConfig.

    `references` are the token ids of the texts on which scores are normalised. `normalisation` and `report` are there
    after `train`: None where nothing was normalised, or nothing held out.
    """

    config: RewardModelConfig
    model: RewardModel
    template: JudgementTemplate
    engine: Engine
    optimiser: torch.optim.Optimizer
    objective: RewardObjective
    learned: ComparisonSet
    held_out: ComparisonSet | None
    references: Sequence[Sequence[int]]
    course: Course
    tokenizer: Any
    pad_id: int
    run_dir: RunDir
    listener: Listener
    summary: Summary
    track: StepTrack
    normalisation: Normalisation | None = field(default=None, init=False)
    report: RewardReport | None = field(default=None, init=False)

    def train(self) -> list[dict[str, float]]:
        """Train, normalise, examine on the held-out comparisons, and save. Returns the metrics of every step.

        If a run ends early (an error that ClearPPO understands, or Ctrl-C) after at least one step, the model as it is
        then is saved in output_dir/interrupted, and the error goes on.
        """
        self.listener.started(self.summary, self.course.n_steps)
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        with rescued(self.save, self.course, self.track, self.run_dir):
            supervised_loop(
                self.course,
                learn=self.learn,
                evaluate=self.evaluate,
                optimiser=self.optimiser,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                track=self.track,
            )
            self.normalise()
            self.examine()
        self.listener.phase("saving")
        self.save(".", f"Trained for {self.track.steps} steps.")
        self.listener.finished()
        return self.track.history

    def learn(self, rows: list[int]) -> Stats:
        """One optimiser step on these comparisons."""
        return learn_comparisons(
            self.model,
            self.learned.batch(rows, self.pad_id),
            self.engine,
            self.optimiser,
            objective=self.objective,
            micro_batch_size=self.config.run.micro_batch_size,
            max_grad_norm=self.config.optim.max_grad_norm,
        )

    def evaluate(self) -> Stats:
        """Loss, accuracy and margin on all held-out comparisons; no stats if there are none."""
        seen, size = Stats.empty(), self.config.run.micro_batch_size
        if self.held_out is not None:
            for rows in by_length(self.held_out.lengths, size):
                batch = self.held_out.batch(rows, self.pad_id)
                stats, _ = measure_comparisons(self.model, batch, objective=self.objective, micro_batch_size=size)
                seen += stats
        return seen

    def normalise(self) -> None:
        """Give the scores the scale that was asked for, in the model's own weights."""
        mode = self.config.rm.score_normalisation
        if mode is None:
            return
        self.listener.phase("normalising")
        self.normalisation = normalise_scores(
            self.model, self.references, mode=mode, micro_batch_size=self.config.run.micro_batch_size
        )
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
        scores = score_texts(self.model, texts, micro_batch_size=self.config.run.micro_batch_size)
        return scored(part, scores.tolist())

    def save(self, name: str, ended: str) -> None:
        """The model, its template, its report and its card below output_dir; each file appears whole."""
        with self.run_dir.whole(name) as directory:
            self.model.save(directory, self.tokenizer, self.template)
            if self.report is not None:
                (directory / REPORT).write_text(self.report.to_json(), encoding="utf-8")
            found = [self.normalisation.sentence()] if self.normalisation else []
            found += ["\n".join(said(self.report))] if self.report else []
            card = model_card(
                kind=REWARD,
                base_model=self.config.model.model_name_or_path,
                objective=self.summary.objective,
                facts=self.summary.facts,
                history=self.track.history,
                ended=ended,
                found="\n\n".join(found),
            )
            (directory / "README.md").write_text(card, encoding="utf-8")


def said(report: RewardReport) -> list[str]:
    """The verdict and its reasons, a line each."""
    return [report.verdict.meaning, *(f"- {reason}" for reason in report.verdict.reasons)]
