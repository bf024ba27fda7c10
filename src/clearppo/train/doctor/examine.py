"""All checks on a run of PPO that is built and not begun: sample a few answers, read, judge and credit them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from clearppo.batch import Prompts, Rollout
from clearppo.config import PPOConfig
from clearppo.core.normalise import FixedMoments, ScoreScaling
from clearppo.data import PromptSet
from clearppo.data.comparisons import Comparison
from clearppo.errors import ClearPPOError, ModelError, NumbersError, ScoreError
from clearppo.feedback import judge
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.learning import credit
from clearppo.models.loading import stop_token_ids
from clearppo.models.policy import Policy, analyze_in_micro_batches
from clearppo.rollout import Sampler, sample
from clearppo.train.agreement import agreement
from clearppo.train.chance import seed_chance
from clearppo.train.doctor import answers, asking, learning, rewards
from clearppo.train.doctor.asking import Replies
from clearppo.train.doctor.brief import static_findings
from clearppo.train.doctor.finding import CHECKS, Diagnosis, Finding
from clearppo.train.doctor.judge_model import Judge, reward_tokenizer
from clearppo.train.doctor.template import evenly
from clearppo.train.selfcheck import TOLERANCE_BF16, tolerance_of

MOST_TEXTS = 512
"""So many answers of held-out comparisons are scored, about."""
FEWEST = 4
"""Answers with a score, below which nothing is said of them."""
PATIENCE = 10.0
"""Seconds after which a source that failed is not asked again."""
Tell = Callable[[str], None]
REWARD_CHECKS = tuple(name for name in CHECKS if name.startswith("reward_"))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Held-out comparisons, and what the user calls them."""

    comparisons: Sequence[Comparison]
    source: str


@runtime_checkable
class BuiltRun(Protocol):
    """A run of PPO as build/ppo.py makes it, as far as it is looked at (train/run.py looks at this room itself)."""

    @property
    def config(self) -> PPOConfig: ...

    @property
    def policy(self) -> Policy: ...

    @property
    def reference(self) -> Any: ...

    @property
    def sampler(self) -> Sampler: ...

    @property
    def scorer(self) -> Scorer: ...

    @property
    def scaling(self) -> ScoreScaling | None: ...

    @property
    def engine(self) -> Any: ...

    @property
    def kl(self) -> Any: ...

    @property
    def recipe(self) -> Any: ...

    @property
    def passes(self) -> Any: ...

    @property
    def prompts(self) -> PromptSet: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def summary(self) -> Any: ...

    @property
    def evaluation(self) -> Any: ...


def examine(run: BuiltRun, *, pairs: Pairs | None, tell: Tell) -> Diagnosis:
    """Every check that needs the models; nothing is learned and nothing written. `tell` hears what is being done.

    `run.scorer` is asked about ten times for a handful of answers. Raises nothing for what a check finds.
    """
    seed_chance(run.config.run.seed)
    found = Diagnosis(step="ppo")
    tell("reading prompts and templates")
    found.add(*_static(run), Finding(
        name="objective", verdict="ok", measured=run.summary.objective, reason="This is what the run optimises."
    ))  # fmt: skip
    policy = run.policy
    if max(map(max, run.prompts.ids)) >= policy.actor.vocabulary:
        found.leave_out(CHECKS, "the prompts have tokens that the model does not know")
        return found
    patient = Patient(run, found, tell)
    try:
        rollout = patient.sampled()
    except (NumbersError, ModelError) as error:
        found.add(_failed("sampler_log_probs", str(error)))
        found.leave_out(CHECKS, "no answer could be sampled")
        return found
    patient.read_again(rollout)
    patient.judged(rollout, pairs)
    return found


def _static(run: BuiltRun) -> list[Finding]:
    held_out = () if run.evaluation is None else run.evaluation.prompts.texts
    return static_findings(run.config, run.tokenizer, run.prompts, run.policy.actor.causal_lm, held_out)


def _failed(name: str, sentence: str) -> Finding:
    return Finding(
        name=name, verdict="stop", measured="an error", reason=sentence, mend="The run would end there: mend it first."
    )


@dataclass(frozen=True)
class Patient:
    """A run that is looked at, and where the findings go."""

    run: BuiltRun
    found: Diagnosis
    tell: Tell

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        sampling = self.run.config.sampling
        return stop_token_ids(self.run.policy.actor.causal_lm, self.run.tokenizer, list(sampling.stop_token_ids))

    def sampled(self) -> Rollout:
        """Answers to a few prompts, two each or more; their old log-probs are the sampler's, if it knows them."""
        run, config = self.run, self.run.config
        n = answers.n_prompts(config.sampling.response_length, len(run.prompts))
        places = [
            i for i in evenly(len(run.prompts), n) for _ in range(max(answers.N_ANSWERS, -(-answers.FEWEST // n)))
        ]
        self.tell(f"sampling {len(places)} answers")
        prompts = run.prompts.batch(places, run.pad_id).to(run.engine.device)
        return sample(
            run.policy, prompts, run.sampler, old_log_probs="sampler" if self.knows else "learner",
            truncation=run.recipe.truncation, **run.passes.portions,
        )  # fmt: skip

    @property
    def knows(self) -> bool:
        """Whether the sampler knows log-probs over the whole vocabulary."""
        config = self.run.config
        return config.vllm.sampler != "vllm" or not (config.sampling.top_k or config.sampling.top_p < 1)

    def read_again(self, rollout: Rollout) -> None:
        """Sampler, learner and reference on the same tokens; and how the answers ended."""
        run, policy, sampling = self.run, self.run.policy, self.run.config.sampling
        self.tell("reading the answers again")
        tolerance, sizes = tolerance_of(policy), run.passes.portions
        learner = analyze_in_micro_batches(
            policy, rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature, **sizes
        ).log_probs
        policy.forget()  # so that frozen layers read anew, too
        cut = [f"--top_k {sampling.top_k}"] * bool(sampling.top_k) + [f"--top_p {sampling.top_p:g}"] * (
            sampling.top_p < 1
        )
        same = run.config.vllm.sampler != "vllm" and tolerance < TOLERANCE_BF16
        if self.knows:
            self.found.add(
                answers.sampler_log_probs(
                    rollout, learner, tolerance=tolerance, exact=same,
                    cut=" ".join(cut), corrected=run.config.ppo.importance_cap is not None,
                )
            )  # fmt: skip
        else:
            why = f"with {' '.join(cut)} vLLM does not tell log-probs over the whole vocabulary"
            self.found.leave_out(["sampler_log_probs"], why)
        self.found.add(
            answers.ratio_and_kl(policy, run.reference, rollout, learner, tolerance=tolerance, sizes=sizes),
            answers.padding_invariance(policy, rollout, learner, tolerance=tolerance),
            self._eos(rollout),
        )  # fmt: skip
        policy.forget()

    def _eos(self, rollout: Rollout) -> Finding:
        run, reward = self.run, self.run.config.reward
        length = run.config.sampling.response_length
        if run.config.sampling.fixed_length:
            reason = "With fixed_length nothing is to end an answer."
            return Finding(name="eos", verdict="ok", measured=f"answers of {length} tokens each", reason=reason)
        seen = answers.endings(run.policy, rollout, run.tokenizer, self.stop_ids, length)
        return answers.eos(
            seen,
            chat=not isinstance(rollout.prompts.texts[0], str),
            fined=bool(reward.missing_eos_penalty) or reward.missing_eos_score is not None,
        )

    def judged(self, rollout: Rollout, pairs: Pairs | None) -> None:
        """What the sources say, and what the learner makes of it."""
        run, found = self.run, self.found
        assert isinstance(run.scorer, WeightedScorer)
        self.tell(f"asking {', '.join(run.scorer.names)} about the answers")
        began = time.perf_counter()
        replies = asking.ask(run.scorer, rollout)
        self._tokenizers(rollout)
        if replies.scores is None:
            name = self._name_of(replies)
            if (name, "stop") not in {(finding.name, finding.verdict) for finding in found.findings}:
                found.add(rewards.reward_failed(replies, name))
            # A server that does not answer has taken its time already.
            rows = asking.scorable(run.scorer, rollout) if time.perf_counter() - began < PATIENCE else []
            rollout = asking.chosen(rollout, rows) if rows else rollout
            replies = asking.ask(run.scorer, rollout) if rows else replies
        if replies.scores is not None and len(replies.finite) < FEWEST:
            found.add(rewards.too_few(replies))
        if replies.scores is None or len(replies.finite) < FEWEST:
            found.leave_out([*REWARD_CHECKS, "critic_start", "kl_against_reward"], "the answers have no scores")
            return
        self._sources(rollout, replies)
        self._scores(rollout, replies)
        self._learning(rollout, replies)
        if pairs is None:
            found.leave_out(["reward_pairs"], "give held-out comparisons with --pairs FILE")
        else:
            self._pairs(pairs)

    def _name_of(self, replies: Replies) -> str:
        """Which check a source's error belongs to."""
        if isinstance(replies.error, ScoreError) or replies.culprit < 0:
            return "reward_finite"
        if isinstance(self._sources_of()[replies.culprit], Judge):
            return "reward_tokenizer" if isinstance(replies.error, ModelError) else "reward_finite"
        return "reward_functions"

    def _sources_of(self) -> Sequence[Any]:
        assert isinstance(self.run.scorer, WeightedScorer)
        return self.run.scorer.sources

    def _sources(self, rollout: Rollout, replies: Replies) -> None:
        assert replies.scores is not None
        others = [
            (source, first)
            for source, first in zip(self._sources_of(), replies.scores, strict=True)
            if not isinstance(source, Judge)
        ]
        if not others:
            self.found.leave_out(["reward_functions"], "a reward model alone gives the scores")
            return
        try:
            seen = [asking.look_at(source, rollout, first) for source, first in others]
        except ClearPPOError as error:
            self.found.add(_failed("reward_functions", f"Asked a second time: {error}"))
        else:
            self.found.add(rewards.reward_functions(seen))

    def _tokenizers(self, rollout: Rollout) -> None:
        """Of the reward model."""
        judges = [source for source in self._sources_of() if isinstance(source, Judge)]
        if not judges:
            self.found.leave_out(["reward_tokenizer"], "there is no reward model")
            return
        run = self.run
        longest = max(range(len(run.prompts)), key=lambda i: len(run.prompts.ids[i]))
        try:
            finding = reward_tokenizer(
                judges[0], run.tokenizer, run.policy.actor.causal_lm, rollout.prompts.texts, rollout.completions,
                longest=run.prompts.texts[longest], response_length=run.config.sampling.response_length,
            )  # fmt: skip
        except ClearPPOError as error:
            finding = _failed("reward_tokenizer", str(error))
        self.found.add(finding)

    def _scores(self, rollout: Rollout, replies: Replies) -> None:
        """The scores of the answers, of parts of them, and of answers that were made up."""
        run, scorer = self.run, self.run.scorer
        assert isinstance(scorer, WeightedScorer)
        self.tell("asking about empty, repeated, cut and doubled answers")
        groups = asking.by_prompt(rollout)
        rows = [group[0] for group in groups]
        prompts, total = rollout.prompts.select(rows), replies.total or ()

        def about(texts: Sequence[str]) -> Replies:
            return asking.ask(scorer, asking.made_up(prompts, texts, run.tokenizer))

        length = run.config.sampling.response_length
        cases = {name: about(texts) for name, texts in asking.edge_cases(rollout, rows, run.tokenizer, length).items()}
        whole = [rollout.completions[row] for row in rows]
        half, double = about([text[: len(text) // 2] for text in whole]), about([f"{text} {text}" for text in whole])
        seen = rewards.lengths(replies, [len(text) for text in rollout.completions], rows, half, double)
        pairs = [(group[0], group[1]) for group in groups if len(group) > 1]
        same = sum(rollout.completions[i] == rollout.completions[j] for i, j in pairs)
        others = [score for part in (*cases.values(), half) for score in part.finite]
        if not any(finding.name == "reward_finite" for finding in self.found.findings):
            self.found.add(rewards.reward_finite(replies))
        self.found.add(
            rewards.reward_spread(replies, pairs, same, others),
            rewards.reward_edge_cases(replies.finite, [max(total[row] for row in group) for group in groups], cases),
        )
        if rewards.constant(replies.finite):
            self.found.leave_out(["reward_length"], "the scores do not vary")
        else:
            self.found.add(rewards.reward_length(seen))

    def _learning(self, rollout: Rollout, replies: Replies) -> None:
        """Rewards and returns as the first iteration would have them."""
        run, config = self.run, self.run.config
        assert isinstance(run.scorer, WeightedScorer)
        self.tell("looking at the critic and the KL coefficient")
        scaling = run.scaling or FixedMoments.of(torch.tensor(replies.finite))
        feedback = judge(
            rollout, replies.as_scorer(run.scorer), run.reference, kl_coef=run.kl.value, scaling=scaling,
            **run.recipe.judging,
        )  # fmt: skip
        scores = feedback.scores[feedback.scored].double().tolist()
        if not rewards.constant(scores):
            self.found.add(learning.kl_against_reward(scores, _price(run)))
        else:
            self.found.leave_out(["kl_against_reward"], "the scores do not vary")
        if not config.has_critic:
            self.found.leave_out(["critic_start"], "there is no critic")
            return
        # With lambda 1 the returns are what was earned, whatever the values are.
        earned = credit(
            replace(rollout, old_values=torch.zeros_like(rollout.old_values)), feedback, gamma=config.ppo.gamma
        )
        rows = feedback.scored.nonzero().flatten().tolist()
        kept = asking.chosen(rollout, rows)
        width = earned.returns.shape[1]
        values = replace(earned.rollout, old_values=kept.old_values[:, :width])
        seen = learning.start(run.policy, replace(earned, rollout=values))
        self.found.add(learning.critic_start(seen, learns=config.ppo.vf_coef > 0))

    def _pairs(self, pairs: Pairs) -> None:
        """Held-out comparisons: by all sources, or, if those need columns that these lack, by the reward model."""
        run, scorer = self.run, self.run.scorer
        assert isinstance(scorer, WeightedScorer)
        answers_each = sum(len(comparison.answers) for comparison in pairs.comparisons) / len(pairs.comparisons)
        chosen = [pairs.comparisons[i] for i in evenly(len(pairs.comparisons), int(MOST_TEXTS / answers_each))]
        self.tell(f"asking about {len(chosen)} comparisons")
        texts = [(comparison.prompt, answer) for comparison in chosen for answer in comparison.answers]
        nothing = torch.zeros((len(texts), 1), dtype=torch.long, device=run.engine.device)
        prompts = Prompts(ids=nothing, mask=nothing == 0, texts=tuple(prompt for prompt, _ in texts), columns={})
        rollout = asking.made_up(prompts, [answer for _, answer in texts], run.tokenizer)
        replies = asking.ask(scorer, rollout)
        judges = [source for source in scorer.sources if isinstance(source, Judge)]
        if replies.error is not None and judges:
            replies = asking.ask(WeightedScorer(judges), rollout)
        if replies.total is None:
            self.found.add(rewards.reward_failed(replies, "reward_pairs", f"the comparisons of {pairs.source}"))
            return
        right, start = list[list[bool]](), 0
        for comparison in chosen:
            scores = replies.total[start : start + len(comparison.answers)]
            right.append([scores[better] > scores[worse] for better, worse in comparison.pairs])
            start += len(comparison.answers)
        self.found.add(rewards.reward_pairs(agreement(right), pairs.source))


def _price(run: BuiltRun) -> learning.Price:
    config = run.config
    kl, batch = config.kl, config.run.batch_size
    return learning.Price(
        coef=kl.kl_coef,
        held_by_loss=kl.kl_loss_coef,
        adaptive=kl.kl_controller == "adaptive",
        target=kl.kl_target,
        reach=(1 + 0.2 * batch / kl.kl_horizon) ** min(config.num_iterations, 10_000),
        learned_score=config.reward.reward_model_path is not None or bool(config.reward.reward_urls),
    )
