"""A PPO run from its parts to its files: announce, check, loop, save."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from clearppo.batch import Prompts
from clearppo.config import PPOConfig, dump_config
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import FixedMoments, ScoreScaling
from clearppo.data import PromptSet, prompt_batches
from clearppo.engines.base import Engine
from clearppo.errors import AlarmError, NumbersError
from clearppo.feedback.scorer import Scorer
from clearppo.learning import Objective, Passes, Ptx
from clearppo.models.ema import EMA
from clearppo.models.policy import FrozenReference, Policy
from clearppo.plan.result import Plan
from clearppo.rollout import Sampler
from clearppo.rollout.ahead import foreseen
from clearppo.rundir import RunDir
from clearppo.train.alarms import GoBackError, LoopChangedError, RunAlarms, facts_of
from clearppo.train.best import load_best
from clearppo.train.card import model_card, ppo_card
from clearppo.train.chance import seed_chance
from clearppo.train.checkpoint import Checkpoint, Checkpoints, shared
from clearppo.train.doctor.brief import in_brief, static_findings, stops
from clearppo.train.faults import MOST_RETURNS, Faults, UnlearnableError
from clearppo.train.in_loop import EvaluationInLoop
from clearppo.train.keeping import Keeper
from clearppo.train.listener import Listener, Summary
from clearppo.train.marks import Weighed, data_mark, policy_mark, weights_mark
from clearppo.train.parts import Kept, constant_part, generator_part, optimiser_part
from clearppo.train.planned import Planned
from clearppo.train.policy_files import PolicyFiles
from clearppo.train.ppo import Recipe, ppo_loop
from clearppo.train.profile import profiled
from clearppo.train.reference_scores import reference_moments
from clearppo.train.selfcheck import self_check
from clearppo.train.shortage import memory_told
from clearppo.train.track import Track
from clearppo.train.watchdog import watched_over


@dataclass(frozen=True, kw_only=True)
class PPORun:
    """Everything that `train` needs. build/ppo.py makes one from a PPOConfig.

    `scaling` None: the scores are scaled by those of the start policy's answers, which are measured before the loop.
    `resume` is the checkpoint that the run goes on from, if it does; all else is as at the start of a run.
    """

    config: PPOConfig
    policy: Policy
    reference: FrozenReference
    sampler: Sampler
    scorer: Scorer
    scaling: ScoreScaling | None
    engine: Engine
    optimiser: torch.optim.Optimizer
    kl: FixedKL | AdaptiveKL
    recipe: Recipe
    objective: Objective
    passes: Passes
    ptx: Ptx | None
    prompts: PromptSet
    tokenizer: Any
    pad_id: int
    run_dir: RunDir
    listener: Listener
    summary: Summary
    track: Track
    evaluation: EvaluationInLoop | None
    generator: torch.Generator
    ema: EMA
    checkpoints: Checkpoints
    resume: Checkpoint | None
    plan: Plan | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def train(self) -> list[dict[str, float]]:
        """Train and save; from the checkpoint on, where there is one to go on from. Returns all iterations' metrics.

        If it ends early, by an error or a signal, it can be gone on with: the iteration's beginning is kept in a
        checkpoint, or, where it has learned already, the policy as it is in output_dir/interrupted; then the error goes
        on. A run that is finished and shall go on is left as it is, and its policy is that of its last checkpoint.
        """
        keeper, n = self.keeper, self.recipe.n_iterations
        done = self.resume.step if self.resume else 0
        self.listener.started(replace(self.summary, done=done), n)
        if self.config.run.resume_from_checkpoint == "auto" and keeper.done(self.resume):
            return keeper.left_as_it_is(self.resume)
        with self._memory_told():
            start = self._fresh() if self.resume is None else self._resumed(self.resume)
        with (
            self.track.trackers.running(self.config, self.summary, note=self.listener.note),
            watched_over(self.config.run.watchdog_minutes, lambda: self.track.stopwatch.now, self.run_dir),
            keeper.kept(self.save),
            self.engine.together(),
            self._memory_told(),
            self._profiled(start["step"]) as batches,
        ):
            keeper.begin(**start)
            self._iterate(start, batches)
            self.alarms.at_end(n)
            keeper.ended()
            self.listener.phase("saving")
            self.save(".", f"Trained for {n} iterations.{self._best()}")
            keeper.finish()
            self._planned.ended(self.track.history)
            self.engine.share(lambda: None)  # nobody reads the result before it is there
        self.listener.finished()
        return self.track.history

    def _iterate(self, start: dict[str, Any], batches: Iterator[Prompts]) -> None:
        """Run all iterations, past those that cannot be learned from, and back where that is asked for."""
        left_out: UnlearnableError | None = None
        while True:
            try:
                if left_out is not None:
                    start = self._left_out(left_out)
                return self._loop(start, batches)
            except UnlearnableError as given_up:
                left_out = given_up
            except LoopChangedError as changed:
                start, left_out = changed.start, None
            except (NumbersError, GoBackError) as error:
                start = self._gone_back(error) if isinstance(error, NumbersError) else self._gone_back_for(error)
                batches, left_out = self._batches(start["step"]), None

    def _left_out(self, given_up: UnlearnableError) -> dict[str, Any]:
        """The answers of this iteration are not learned from. Where the loop goes on."""
        passes, step = self.passes, self.keeper.step + 1
        self.track.left_out(step, given_up.n_answers, passes.epochs * passes.num_mini_batches)
        self.sampler.load(self.policy, version=step)
        return self.keeper.left_out()

    def _loop(self, start: Mapping[str, Any], batches: Iterator[Prompts]) -> None:
        scaling = (self.scaling or FixedMoments(mean=0.0, std=1.0)).restored(start["scaling"])
        self.track.begin(start["step"], scaling)
        ppo_loop(
            self.policy,
            batches,
            sampler=self.sampler,
            scorer=self.scorer,
            scaling=scaling,
            reference=self.reference,
            engine=self.engine,
            optimiser=self.optimiser,
            kl=self._kl(start),
            recipe=replace(self.recipe, rate_factor=self.alarms.rate_factor),
            objective=self.objective,
            passes=self.passes,
            generator=self.generator,
            ptx=self.ptx,
            ema=self.ema,
            track=self.track,
            start=start["step"],
            between=self.keeper,
            guard=self.faults,
        )

    def _gone_back(self, error: NumbersError) -> dict[str, Any]:
        """Go back to the newest checkpoint, but not to its place in the sampler's random numbers: the same answers
        would come to the same end. Where the loop starts; raises `error` if the run is not to go back (again)."""
        newest = shared(self.checkpoints.newest, self.engine.share) if self.faults.returns else None
        if newest is None:
            raise error
        self.faults.returns -= 1
        self.listener.note(f"{error} The run goes back, and on with other answers ({self.faults.returns} times more).")
        start = self._returned_to(newest)
        self.keeper.begin(**start)
        return start

    def _gone_back_for(self, asked: GoBackError) -> dict[str, Any]:
        """The same because of an alarm, to before it. Raises AlarmError if the run is not to go back (again)."""
        before, left = self.alarms.gone_back, self.alarms.returns - 1
        checkpoint = shared(lambda: self.checkpoints.back(asked.since), self.engine.share)
        if checkpoint is None or left < 0:
            self.keeper.begin(**asked.start)
            why = "has gone back too often" if checkpoint else "has no checkpoint to go back to yet"
            raise AlarmError(f"{asked} The run {why}, and has stopped.")
        self.listener.note(
            f"the run goes back to {checkpoint.path.name}, and on with other answers ({left} times more)"
        )
        start = self._returned_to(checkpoint)
        self.alarms.went_back(before, asked.event, checkpoint.step)
        self.keeper.begin(**start)
        return start

    def _returned_to(self, checkpoint: Checkpoint) -> dict[str, Any]:
        answered = self.sampler.state()["answered"]
        start = self.keeper.restore(checkpoint)
        self.sampler.load(self.policy, version=checkpoint.step)
        self.sampler.load_state({**self.sampler.state(), "answered": answered})
        self.keeper.rewind(checkpoint)
        return start

    def _kl(self, start: Mapping[str, Any]) -> FixedKL | AdaptiveKL:
        """The coefficient that the loop begins with; a fixed one has no state, and alarms may have raised it."""
        kl, factor = self.kl.restored(start["kl"]), self.alarms.kl_factor
        return replace(kl, value=kl.value * factor) if isinstance(kl, FixedKL) else kl

    @cached_property
    def alarms(self) -> RunAlarms:
        """Looks for what goes wrong before numbers do."""
        config, track = self.config, self.track
        return RunAlarms(
            facts_of(config, held_out=0 if self.evaluation is None else len(self.evaluation.prompts)),
            config.alarm.actions, wanted=config.alarm.alarms, history=track.history, run_dir=self.run_dir,
            listener=self.listener, trackers=track.trackers,
        )  # fmt: skip

    @property
    def _planned(self) -> Planned:
        return Planned(
            plan=self.plan, run_dir=self.run_dir, listener=self.listener, stopwatch=self.track.stopwatch
        )  # fmt: skip

    @cached_property
    def faults(self) -> Faults:
        """Decides about numbers that are not finite."""
        run, track = self.config.run, self.track
        returns = MOST_RETURNS if run.on_bad_steps == "rollback" else 0
        place = self.run_dir if self.engine.rank == 0 else None
        return Faults(
            place, self.listener, max_bad_steps=run.max_bad_steps, step=lambda: len(track.history) + 1,
            returns=returns,
        )  # fmt: skip

    def _memory_told(self) -> AbstractContextManager[None]:
        return memory_told(
            self.config, lambda: self.track.stopwatch.now[0], tokens=self.passes.micro_batch_tokens,
            free=self.engine.free_memory,
        )  # fmt: skip

    @cached_property
    def keeper(self) -> Keeper:
        """Keeps the run. Made before anything is learned: it notes what the start model is."""
        run = self.config.run
        early: dict[str, Kept] = {
            "sampler": self.sampler,
            "generator": generator_part(self.generator),
            "track": self.track,
            "faults": self.faults,
            "alarms": self.alarms,
            "trackers": self.track.trackers,
            "score_scaling": constant_part(self.config.reward.score_scaling),
        }
        if self.track.record is not None:
            early["record"] = self.track.record
        if self.ptx is not None:
            early["texts"] = self.ptx.stream
        if self.evaluation is not None:
            early["evaluation"] = self.evaluation
        return Keeper(
            run_dir=self.run_dir,
            listener=self.listener,
            checkpoints=self.checkpoints,
            history=self.track.history,
            every=run.save_steps,
            n_rounds=self.recipe.n_iterations,
            learned=dict(self.policy.trainable()),
            prefix="actor.model.",
            save_model=self._files.of_checkpoint,
            early=early,
            late={"optimiser": optimiser_part(self.optimiser), "average": self.ema},
            marks=self._marks() if run.save_steps or self.resume else {},
            numbers={
                "device": str(self.engine.device), "max_tokens_per_microbatch": self.passes.micro_batch_tokens,
                "processes": self.engine.world, **self.numbers,
            },
            allow_changed=run.allow_changed_options,
            forget=self.policy.forget,
            evaluation=self.evaluation,
            watch=self.alarms,
            noun="policy",
            engine=self.engine,
            saved_weights=self._files.weights,
        )  # fmt: skip

    def _fresh(self) -> dict[str, Any]:
        """Check, measure, and make the directory the run's own. Where the loop starts."""
        self._in_brief()
        self.listener.note(f"{self_check(self.policy, self.reference, self.sampler, self._batches(), self.passes)}")
        seed_chance(self.config.run.seed)  # now, because loading and importing may have drawn from it
        scaling = self.scaling or self._measured_scaling()
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        self.keeper.announce(self.summary.objective)
        self._planned.begun()
        return {"step": 0, "kl": self.kl.state(), "scaling": scaling.state()}

    def _in_brief(self) -> None:
        """Say what can be seen of prompts and tokenizer."""
        held_out = () if self.evaluation is None else self.evaluation.prompts.texts
        model = self.policy.actor.causal_lm
        findings = static_findings(self.config, self.tokenizer, self.prompts, model, held_out)
        for line in in_brief([*findings, stops(self.config, self.tokenizer, model)]):
            self.listener.note(line)

    def _resumed(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Put everything back, check, and take the directory back too. Where the loop starts."""
        start = self.keeper.restore(checkpoint)
        self.sampler.load(self.policy, version=checkpoint.step)
        self.listener.note(f"{self_check(self.policy, None, self.sampler, self._batches(), self.passes)}")
        if checkpoint.state["round"]["early"]["score_scaling"] != self.config.reward.score_scaling:
            start["scaling"] = (self.scaling or self._measured_scaling()).state()
        self.keeper.restore_early(checkpoint)
        self.keeper.rewind(checkpoint)
        self.run_dir.write("config.yaml", dump_config(self.config))
        self.keeper.announce(self.summary.objective)
        self._planned.begun()
        return start

    def _best(self) -> str:
        """Take the best checkpoint's model for the final one, if asked to; what the card says of it."""
        if self.evaluation is None or not self.config.eval.load_best_model_at_end:
            return ""
        return load_best(self.keeper, self.evaluation.best)

    def _marks(self) -> dict[str, str]:
        """What the run reads, as digests: under these names it is called in messages."""
        marks = {"prompts": data_mark(self.prompts), "start model": policy_mark(self.policy)}
        if self.ptx is not None:
            marks["texts of ptx_dataset_name"] = data_mark(self.ptx.stream.texts)
        sources = getattr(self.scorer, "sources", (self.scorer,))
        judges = [weights_mark(s.weights()) for s in sources if isinstance(s, Weighed)]
        return marks | ({"reward model": data_mark(judges)} if judges else {})

    @property
    def _files(self) -> PolicyFiles:
        return PolicyFiles(
            policy=self.policy, average=self.ema, tokenizer=self.tokenizer, critic=self.config.has_critic,
            adapter=self.config.model.use_peft, engine=self.engine,
        )  # fmt: skip

    def save(self, name: str, ended: str) -> None:
        """The policy, its critic, its average and the model card below output_dir; each file appears whole."""
        with self.run_dir.whole(name) as directory:
            self._files.of_result(directory)
            if self.engine.rank == 0:
                (directory / "README.md").write_text(self._card(ended), encoding="utf-8")

    def _card(self, ended: str) -> str:
        return model_card(
            kind=ppo_card(critic=self.config.has_critic, average=self.ema.decay is not None),
            base_model=self.config.model.model_name_or_path,
            summary=self.summary,
            history=self.track.history,
            ended=ended,
        )

    def _measured_scaling(self) -> ScoreScaling:
        self.listener.phase("measuring")
        moments, n = reference_moments(
            self.policy, self._batches(), self.sampler, self.scorer, self.reference, truncation=self.recipe.truncation,
            division=self.engine, **self.passes.portions,
        )  # fmt: skip
        self.listener.note(
            f"scores are scaled by those of {n} answers of the start model: mean {moments.mean:.4g}, standard "
            f"deviation {moments.std:.4g}"
        )
        return moments

    def _profiled(self, start: int) -> AbstractContextManager[Iterator[Prompts]]:
        return profiled(
            foreseen(self.sampler, self._batches(start)), self._iterations_to_profile(), run_dir=self.run_dir,
            listener=self.listener, device=self.engine.device, start=start,
        )  # fmt: skip

    def _iterations_to_profile(self) -> Sequence[int]:
        """Of several processes the first one's work is traced."""
        return (self.config.run.profile or ()) if self.engine.rank == 0 else ()

    def _batches(self, start: int = 0) -> Iterator[Prompts]:
        """The prompts of the iterations from `start` on."""
        run = self.config.run
        batches = prompt_batches(
            self.prompts, run.batch_size, self.recipe.n_iterations, run.seed, self.pad_id,
            self.config.sampling.num_generations, skip=start,
        )  # fmt: skip
        return (prompts.to(self.engine.device) for prompts in batches)
