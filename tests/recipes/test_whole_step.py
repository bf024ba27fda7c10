"""Every recipe's PPO, from answers and scores to new weights, against a second implementation in float64.

The real side is a whole run: build_ppo from the recipe, then its loop, recorded. The other side, tests/oracles, is
given the tokens, the scores and the order of the rows, and numbers that stand here, written from the sources and not
read from the YAML. Both must agree on rewards, advantages and weights after each of four iterations, to 1e-10.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from clearppo.batch import Experience, Feedback, Rollout, Sequences, Stats
from clearppo.build.ppo import build_ppo
from clearppo.config import list_recipes, load_config
from clearppo.feedback import Scores
from clearppo.learning.ptx import TextStream
from clearppo.models.actor import SharedCritic
from clearppo.models.ema import EMA
from clearppo.train.run import PPORun
from clearppo.train.track import Track
from tests.oracles.whole_step import Answer, Learner, Numbers, Outcome, Text
from tests.tiny import SENTENCES, tiny_causal_lm, tiny_reward_model

BATCH, ITERATIONS, LENGTH = 8, 4, 10
EXACT = {"rtol": 0.0, "atol": 1e-10}


def falling(update: int, n: int) -> float:
    return 1 - update / n


def climbing(start: float, length: int, then: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """From `start` to 1 in `length` updates; what follows counts its updates from there."""

    def factor(update: int, n: int) -> float:
        if update < length:
            return start + (1 - start) * update / length
        return then(update - length, n - length)

    return factor


def cosine(update: int, n: int) -> float:
    return (1 + math.cos(math.pi * update / n)) / 2


def inverse_root(update: int, n: int) -> float:
    """Of a warm-up of two updates, with a floor of a tenth in it."""
    return max(update / 2, 0.1) if update < 2 else math.sqrt(2 / update)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, what a test must change in it to be short, and its numbers with the same changes."""

    recipe: str
    numbers: Numbers
    epochs: int
    mini_batches: int
    speed: int = 200  # times the recipe's rates: a tiny model then moves far enough for clipping to matter
    flags: dict[str, Any] = field(default_factory=dict)


# "ours" marks what the source does not say. Warm-ups of 10 or 100 iterations become 2, a critic's of 5 or 50 becomes 1.
CASES = {
    "article": Case(
        recipe="article",
        numbers=Numbers(rate=3e-6, grad_norm=None),  # the rate and Adam's numbers are ours
        epochs=4, mini_batches=1, speed=1000,
    ),
    "lm-human-preferences": Case(
        recipe="lm-human-preferences",
        numbers=Numbers(
            temperature=0.7, missing_score=-1.0, beta=0.15, adaptive=(30.0, 100.0), whiten_rewards=True, lam=0.95,
            whiten_advantages=True, clip=0.2, value_clip=0.2, rate=1e-5, eps=1e-5, tensorflow=True,
            schedule=falling,
        ),
        epochs=4, mini_batches=1, speed=500,
        flags={"truncate_after": 5, "kl_target": 30, "kl_horizon": 100},  # near the KL here, and quick
    ),
    "summarize-from-feedback": Case(
        recipe="summarize-from-feedback",
        numbers=Numbers(
            beta=0.05, lam=0.95, rate=1.5e-5, schedule=falling,
            temperature=0.7, whiten_advantages=True, clip=0.2, value_clip=0.2, eps=1e-5, grad_norm=1.0,  # ours
        ),
        epochs=4, mini_batches=1,
    ),
    "instructgpt": Case(
        recipe="instructgpt",
        numbers=Numbers(
            beta=0.02, clip=0.2, vf_coef=1.0, ptx_coef=27.8, critic_rate=9e-6, betas=(0.9, 0.95),
            schedule=climbing(0.1, 2, lambda update, n: 1.0), ema=0.992,
            rate=3e-6, lam=0.95, whiten_advantages=True, value_clip=0.2, eps=1e-5, grad_norm=1.0,  # ours
        ),
        epochs=1, mini_batches=8, speed=500, flags={"warmup_steps": 2, "ptx_dataset_name": "texts.jsonl"},
    ),
    "deepspeed-chat": Case(
        recipe="deepspeed-chat",
        numbers=Numbers(
            score_clip=5.0, beta=0.1, lam=0.95, clip=0.2, value_clip=0.2, vf_coef=1.0, rate=9.65e-6,
            critic_rate=5e-6, betas=(0.9, 0.95), eps=1e-8, grad_norm=1.0, schedule=climbing(0.0, 2, cosine),
        ),
        epochs=1, mini_batches=1, flags={"warmup_steps": 2},
    ),
    "deepspeed-chat with all its options": Case(
        recipe="deepspeed-chat",
        numbers=Numbers(
            score_clip=5.0, beta=0.1, lam=0.95, clip=0.2, value_clip=0.2, vf_coef=1.0, rate=9.65e-6,
            critic_rate=5e-6, betas=(0.9, 0.95), eps=1e-8, grad_norm=1.0, schedule=climbing(0.0, 2, cosine),
            ptx_coef=27.8, ptx_halved=True, ema=0.992,
        ),
        epochs=1, mini_batches=4, speed=1000,  # with one step a batch no clip would bind
        flags={
            "num_mini_batches": 4, "warmup_steps": 2, "ptx_coef": 27.8, "ptx_reduction": "mean",
            "ptx_dataset_name": "texts.jsonl", "ema_decay": 0.992,
        },
    ),
    "ppo-max": Case(
        recipe="ppo-max",
        numbers=Numbers(
            temperature=0.8, scaling="norm", score_clip=1.0, beta=0.05, lam=0.95, clip=0.2, value_clip=0.2, vf_coef=1.0,
            critic_only=1, rate=5e-7, critic_rate=1.65e-6, betas=(0.9, 0.95), eps=1e-6, critic_eps=1e-8,
            grad_norm=1.0, schedule=inverse_root,
        ),
        epochs=1, mini_batches=4, speed=10_000,
        flags={"warmup_steps": 2, "critic_warmup_steps": 1, "score_clip": 1.0},  # 10 deviations would never bind
    ),
    "trl": Case(
        recipe="trl",
        numbers=Numbers(
            temperature=0.7, beta=0.05, lam=0.95, whiten_advantages=True, unbiased=True, clip=0.2, value_clip=0.2,
            rate=3e-6, eps=1e-8, schedule=falling,
        ),
        epochs=4, mini_batches=1,
    ),
    "default": Case(
        recipe="default",
        numbers=Numbers(
            missing_penalty=1.0, score_clip=5.0, beta=0.05, lam=0.95, whiten_advantages=True, clip=0.2, value_clip=0.2,
            critic_only=1, rate=3e-6, critic_rate=9e-6, eps=1e-5, grad_norm=1.0,
            schedule=climbing(0.1, 2, falling),
        ),
        epochs=1, mini_batches=4, speed=1000, flags={"warmup_steps": 2, "critic_warmup_steps": 1},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A language model that likes to write "." and to end, and a reward model, both in float64."""
    policy = tiny_causal_lm(tmp_path_factory.mktemp("policy"), dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float64)
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(SENTENCES[2])])
        mean = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(dim=0)
        for token in (tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id):
            model.lm_head.weight[token] += 3.0 * mean / mean.square().sum()  # 3 nats where the state is the mean
    model.save_pretrained(policy)
    return policy, tiny_reward_model(tmp_path_factory.mktemp("critic"), dtype=torch.float64)


class Told:
    """Scores from a list, eight answers after eight, in float64."""

    names = ("told",)

    def __init__(self) -> None:
        self.scores = torch.randn(ITERATIONS, BATCH, generator=torch.Generator().manual_seed(3)).double() * 5
        self.calls = 0

    def __call__(self, rollout: Rollout) -> Scores:
        total = self.scores[self.calls]
        self.calls += 1
        return Scores(total=total, parts={"told": total})


@dataclass(frozen=True)
class Seen:
    """One real iteration, and the weights after it."""

    rollout: Rollout
    feedback: Feedback
    experience: Experience
    stats: Stats
    kl_coef: float
    weights: list[torch.Tensor]


class Recorder(Track):
    """A track that keeps everything."""

    def __init__(self, run: PPORun) -> None:
        super().__init__(run.run_dir, run.listener, sample_steps=0, logging_steps=1)
        self.policy, self.seen = run.policy, []

    def __call__(
        self, step: int, rollout: Rollout, feedback: Feedback, experience: Experience, stats: Stats, *, kl_coef: float,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__call__(step, rollout, feedback, experience, stats, kl_coef=kl_coef, **more)
        weights = [weight.detach().clone() for weight in self.policy.parameters()]
        self.seen.append(Seen(rollout, feedback, experience, stats, kl_coef, weights))


def built(case: Case, models: tuple[str, str], directory: Path) -> PPORun:
    """The run that a user would get, with told scores, a recorder, and a policy that has left its reference."""
    policy, critic = models
    (directory / "prompts.jsonl").write_text("".join(f'{{"prompt": "{text[:14]}"}}\n' for text in SENTENCES))
    texts = [f'{{"prompt": "{text[:6]}", "completion": "{text[6:]}"}}\n' for text in SENTENCES]
    (directory / "texts.jsonl").write_text("".join(texts))
    flags = {
        "model_name_or_path": policy, "dataset_name": str(directory / "prompts.jsonl"), "reward_model_path": critic,
        "output_dir": str(directory / "run"), "dtype": "float64", "device": "cpu", "response_length": LENGTH,
        "max_prompt_length": 32, "batch_size": BATCH, "total_episodes": BATCH * ITERATIONS, "micro_batch_size": 3,
        **case.flags,
    }  # fmt: skip
    if "ptx_dataset_name" in flags:
        flags["ptx_dataset_name"] = str(directory / flags["ptx_dataset_name"])
    config = load_config(recipe=case.recipe, flags=flags)
    rates = {"learning_rate": config.optim.learning_rate * case.speed}
    if config.optim.critic_learning_rate is not None:
        rates["critic_learning_rate"] = config.optim.critic_learning_rate * case.speed
    if config.model.critic == "separate":
        flags["value_model_path"] = critic
    run = build_ppo(load_config(recipe=case.recipe, flags={**flags, **rates}))
    generator = torch.Generator().manual_seed(5)
    if isinstance(run.policy.critic, SharedCritic):  # which starts at 0
        torch.nn.init.normal_(run.policy.critic.score.weight, generator=generator)
    with torch.no_grad():
        for weight in run.policy.actor.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    run.sampler.load(run.policy, version=0)
    # The average begins at the weights as they are now.
    ema = EMA(run.policy.actor, run.config.run.ema_decay)
    return replace(run, scorer=Told(), track=Recorder(run), ema=ema)


def oracle(case: Case, run: PPORun, models: tuple[str, str]) -> Learner:
    """The second implementation, on copies of the models as they are before the run."""
    critic = run.policy.critic
    shared = isinstance(critic, SharedCritic)
    numbers, rate = case.numbers, case.numbers.critic_rate
    numbers = replace(numbers, rate=numbers.rate * case.speed, critic_rate=rate and rate * case.speed)
    if run.config.sampling.truncate_token is not None:
        numbers = replace(numbers, cut_at=(run.tokenizer.convert_tokens_to_ids("."), 5))
    return Learner(
        actor=deepcopy(run.policy.actor.causal_lm),
        critic=critic.score.weight.detach().clone().requires_grad_() if shared else deepcopy(critic.classifier),
        reference=AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float64),
        numbers=numbers,
        n_iterations=ITERATIONS,
    )


def answers_of(rollout: Rollout, eos: int) -> list[Answer]:
    found = []
    for ids, prompt_mask, response, mask in zip(
        rollout.prompts.ids, rollout.prompts.mask, rollout.responses, rollout.mask, strict=True
    ):
        tokens = tuple(response[mask].tolist())
        found.append(Answer(prompt=tuple(ids[prompt_mask].tolist()), response=tokens, ended=tokens[-1] == eos))
    return found


def texts_of(batch: Sequences) -> list[Text]:
    return [
        Text(ids=tuple(ids[mask].tolist()), predicted=tuple(loss_mask.nonzero().flatten().tolist()))
        for ids, mask, loss_mask in zip(batch.ids, batch.mask, batch.loss_mask, strict=True)
    ]


def same(actual: torch.Tensor, mask: torch.Tensor, expected: list[list[float]]) -> None:
    for row, keep, values in zip(actual, mask, expected, strict=True):
        torch.testing.assert_close(row[keep], torch.tensor(values, dtype=torch.float64), **EXACT)


def compare(seen: Seen, outcome: Outcome, learner: Learner) -> None:
    mask = seen.rollout.mask
    same(seen.rollout.old_log_probs, mask, outcome.old_log_probs)
    same(seen.rollout.old_values, mask, outcome.old_values)
    same(seen.feedback.ref_log_probs, mask, outcome.ref_log_probs)
    assert seen.kl_coef == pytest.approx(outcome.beta, rel=1e-12)
    torch.testing.assert_close(seen.feedback.scores, torch.tensor(outcome.scores, dtype=torch.float64), **EXACT)
    same(seen.feedback.rewards, mask, outcome.rewards)
    same(seen.experience.advantages, mask, outcome.advantages)
    same(seen.experience.returns, mask, outcome.returns)
    weights = [*learner.actor_weights(), *learner.critic_weights()]
    for actual, expected in zip(seen.weights, weights, strict=True):
        torch.testing.assert_close(actual, expected.detach(), **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_step_by_step(
    name: str, models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    drawn: list[Sequences] = []
    draw = TextStream.draw

    def recording(self: TextStream, n: int) -> Sequences:
        drawn.append(draw(self, n))
        return drawn[-1]

    monkeypatch.setattr(TextStream, "draw", recording)
    monkeypatch.setattr("clearppo.train.run.self_check", lambda *_: "the policy has left its reference on purpose")
    run = built(case, models, tmp_path)
    learner, before = oracle(case, run, models), [weight.detach().clone() for weight in run.policy.parameters()]
    run.train()

    assert isinstance(run.track, Recorder)
    assert isinstance(run.scorer, Told)
    assert len(run.track.seen) == ITERATIONS
    generator, ratio = torch.Generator().manual_seed(run.config.run.seed), run.config.ptx.ptx_batch_ratio
    for k, seen in enumerate(run.track.seen):
        order, size = [], BATCH // case.mini_batches
        for _ in range(case.epochs):
            rows = torch.randperm(BATCH, generator=generator).tolist()
            order += [rows[start : start + size] for start in range(0, BATCH, size)]
        texts = []
        if case.numbers.ptx_coef:
            texts = [texts_of(drawn.pop(0)) for _ in order]
            assert {len(batch) for batch in texts} == {int(ratio * size)}
        outcome = learner.iterate(
            answers_of(seen.rollout, run.tokenizer.eos_token_id), run.scorer.scores[k].tolist(), order, texts
        )
        compare(seen, outcome, learner)
    assert not drawn
    assert max(float((a - b).abs().max()) for a, b in zip(run.track.seen[-1].weights, before, strict=True)) > 1e-4
    if case.numbers.ema is not None:
        check_average(run, learner)


def check_average(run: PPORun, learner: Learner) -> None:
    saved = load_file(run.run_dir.path / "ema_model" / "model.safetensors")
    names = [name for name, _ in learner.actor.named_parameters()]
    for name, expected in zip(names, learner.average, strict=True):
        torch.testing.assert_close(saved[name], expected, **EXACT)


def test_every_recipe_has_its_case() -> None:
    assert {case.recipe for case in CASES.values()} == set(list_recipes()) - {"quickstart"}
