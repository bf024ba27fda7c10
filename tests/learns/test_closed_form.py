"""The whole loop converges to the mathematics' own optimum: reference * exp(reward / beta) / Z (golden case G47)."""

import json
import math
from itertools import repeat
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clearppo.batch import Prompts, Rollout
from clearppo.core.kl import FixedKL
from clearppo.core.normalise import FixedMoments
from clearppo.engines.local import LocalEngine
from clearppo.feedback.scorer import Scores
from clearppo.learning import Objective, Passes
from clearppo.learning.optimiser import adamw
from clearppo.models.build import make_policy, make_reference
from clearppo.models.ema import EMA
from clearppo.models.policy import Policy
from clearppo.rollout import SamplingSettings
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.train.listener import Silence
from clearppo.train.ppo import Recipe, ppo_loop
from clearppo.train.track import Track

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.json"
CASE = next(case for case in json.loads(GOLDEN.read_text())["cases"] if case["id"] == "G47")
BATCH, ITERATIONS = 512, 60


class NoText:
    """A tokenizer for tokens that mean nothing."""

    eos_token_id = 0

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(str(token) for token in token_ids)


class TokenScorer:
    """The score of a one-token answer is a number of its token."""

    names = ("token",)

    def __init__(self, rewards: list[float]) -> None:
        self.rewards = torch.tensor(rewards)

    def __call__(self, rollout: Rollout) -> Scores:
        total = self.rewards[rollout.responses[:, 0]]
        return Scores(total=total, parts={"token": total})


def bandit() -> tuple[Policy, Prompts]:
    """A one-layer Llama whose next token after the only prompt is distributed as softmax(ref_logits)."""
    torch.manual_seed(0)
    logits = torch.tensor(CASE["inputs"]["ref_logits"])
    config = LlamaConfig(
        vocab_size=len(logits), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, -1]
        model.lm_head.weight.copy_(torch.outer(logits, hidden) / hidden.dot(hidden))
    prompts = Prompts(
        ids=ids.expand(BATCH, 1), mask=torch.ones(BATCH, 1, dtype=torch.bool), texts=("",) * BATCH, columns={}
    )
    return make_policy(model), prompts


def next_token(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.actor.causal_lm(torch.zeros(1, 1, dtype=torch.long)).logits[0, -1].double().softmax(dim=-1)


def objective(probabilities: torch.Tensor, beta: float) -> float:
    """E[reward] - beta * KL(policy || reference), computed from the golden inputs alone."""
    reference = torch.tensor(CASE["inputs"]["ref_logits"], dtype=torch.float64).softmax(dim=-1)
    rewards = torch.tensor(CASE["inputs"]["rewards"], dtype=torch.float64)
    kl = (probabilities * (probabilities / reference).log()).sum()
    return float((probabilities * rewards).sum() - beta * kl)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_ppo_reaches_the_closed_form(beta: float) -> None:
    policy, prompts = bandit()
    expected = CASE["expected"][str(beta)]
    assert objective(next_token(policy), beta) == pytest.approx(expected["J_at_ref"], abs=1e-5)
    ppo_loop(
        policy,
        repeat(prompts),
        sampler=InProcessSampler(policy, NoText(), SamplingSettings(max_tokens=1), seed=1),
        scorer=TokenScorer(CASE["inputs"]["rewards"]),
        reference=make_reference(policy, micro_batch_size=BATCH),
        engine=LocalEngine(torch.device("cpu")),
        optimiser=adamw(list(policy.actor.parameters()), list(policy.critic.parameters()), learning_rate=1e-2),
        kl=FixedKL(beta),
        scaling=FixedMoments(mean=0.0, std=1.0),
        recipe=Recipe(n_iterations=ITERATIONS, schedule="linear"),
        objective=Objective(clip=0.2, vf_coef=0.1),
        passes=Passes(epochs=2, num_mini_batches=2, micro_batch_size=BATCH),
        generator=torch.Generator().manual_seed(2),
        ptx=None,
        ema=EMA(policy.actor, None),
        track=Track(None, Silence()),
    )
    reached = next_token(policy)
    assert objective(reached, beta) >= expected["J"] - 0.01 * abs(expected["J"])
    assert objective(reached, beta) <= expected["J"] + 1e-9  # nothing beats the optimum: the yardstick is right
    distance = 0.5 * (reached - torch.tensor(expected["pi_star"], dtype=torch.float64)).abs().sum()
    assert float(distance) < 0.1
    assert math.isclose(float(reached.sum()), 1.0, rel_tol=1e-6)
