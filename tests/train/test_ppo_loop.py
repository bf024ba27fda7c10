"""What the loop hands from one iteration to the next: a waiting policy, scaling, the KL coefficient, the average."""

from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts, Rollout
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import FixedMoments, RunningScaling
from clearppo.engines.local import LocalEngine
from clearppo.feedback.scorer import Scores
from clearppo.learning import Objective, Passes
from clearppo.learning.optimiser import adamw
from clearppo.models.build import load_critic, make_policy, make_reference
from clearppo.models.ema import EMA
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import SamplingSettings
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.train.listener import Silence
from clearppo.train.ppo import Recipe, ppo_loop
from clearppo.train.reference_scores import N_ANSWERS, reference_moments
from clearppo.train.track import Track
from tests.tiny import tiny_causal_lm

BATCH, AS_THEY_ARE = 8, FixedMoments(mean=0.0, std=1.0)


class Counting:
    """The score of an answer is its number of tokens, times the number of the call."""

    names = ("length",)

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def __call__(self, rollout: Rollout) -> Scores:
        total = rollout.mask.sum(dim=1).float() * (len(self.given) + 1)
        self.given.append(total)
        return Scores(total=total, parts={"length": total})


class Keeping(Track):
    """A track that keeps what it is told, and the actor's and the critic's weights after each iteration."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(None, Silence())
        self.policy, self.told, self.weights = policy, list[Any](), list[tuple[torch.Tensor, torch.Tensor]]()

    def __call__(self, step, rollout, feedback, experience, stats, **more) -> None:
        super().__call__(step, rollout, feedback, experience, stats, **more)
        self.told.append((feedback, stats, more))
        self.weights.append(flat(self.policy))


def flat(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(
        torch.cat([p.detach().flatten().clone() for p in part.parameters()]) for part in (policy.actor, policy.critic)
    )  # type: ignore[return-value]


def run(
    path: Path, *, critic: str = "shared", scorer: Any = None, n: int = 4, dtype: torch.dtype = torch.float32,
    **changed: Any,
) -> tuple[Keeping, Any]:  # fmt: skip
    torch.manual_seed(0)
    name = tiny_causal_lm(path)
    tokenizer = load_tokenizer(name)
    separate = load_critic(name, tokenizer, dtype=dtype) if critic == "separate" else None
    policy = make_policy(load_causal_lm(name, dtype=dtype), separate_critic=separate)
    ids = torch.randint(5, 100, (BATCH, 4))
    prompts = Prompts(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), texts=("",) * BATCH, columns={})
    track, ema = Keeping(policy), EMA(policy.actor, changed.pop("decay", None))
    recipe = Recipe(n_iterations=n, **changed.pop("recipe", {}))
    ppo_loop(
        policy,
        repeat(prompts),
        **{
            "sampler": InProcessSampler(
                policy, tokenizer, SamplingSettings(max_tokens=5, stop_token_ids=frozenset(range(40))), seed=1
            ),
            "scorer": scorer or Counting(),
            "scaling": AS_THEY_ARE,
            "reference": make_reference(policy, micro_batch_size=BATCH),
            "engine": LocalEngine(torch.device("cpu")),
            "optimiser": adamw(list(policy.actor.parameters()), list(policy.critic.parameters()), learning_rate=1e-2),
            "kl": FixedKL(0.1),
            "recipe": recipe,
            "objective": Objective(clip=0.2, vf_coef=0.1),
            "passes": Passes(epochs=2, micro_batch_size=4),
            "generator": torch.Generator().manual_seed(2),
            "ptx": None,
            "ema": ema,
            "track": track,
            **changed,
        },
    )
    return track, ema


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_policy_waits_while_its_critic_warms_up(tmp_path: Path, critic: str) -> None:
    track, _ = run(tmp_path, critic=critic, recipe={"critic_warmup_steps": 2})
    (a1, c1), (a2, c2), (a3, c3), _ = track.weights
    assert torch.equal(a1, a2)
    assert not torch.equal(a2, a3)
    assert not torch.equal(c1, c2)
    assert not torch.equal(c2, c3)
    kl = [float(feedback.kl.abs().max()) for feedback, _, _ in track.told]
    assert max(kl[:3]) < 1e-4 < kl[3]
    assert track.told[0][1].mean("val/ratio") == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_whose_the_old_log_probs_are_changes_no_run_of_exact_numbers(tmp_path: Path, critic: str) -> None:
    """Three iterations of one step: the learner's, the sampler's, and those of the learning pass itself."""
    objective = Objective(clip=0.2, clip_value=0.2, vf_coef=0.1, importance_cap=2.0)
    runs = [
        run(
            tmp_path, critic=critic, n=3, dtype=torch.float64, objective=objective, recipe={"old_log_probs": source},
            passes=Passes(epochs=1, micro_batch_size=size, micro_batch_tokens=tokens, first_is_old=live),
        )[0]
        for source, live, size, tokens in (
            ("learner", False, 4, None),
            ("sampler", False, 8, None),
            ("sampler", True, 8, 20),
        )
    ]  # fmt: skip
    plain = runs[0]
    assert not torch.equal(plain.weights[0][0], plain.weights[-1][0])
    for other in runs[1:]:
        for (actor, value), (same_actor, same_value) in zip(plain.weights, other.weights, strict=True):
            torch.testing.assert_close(same_actor, actor, atol=1e-7, rtol=1e-7)
            torch.testing.assert_close(same_value, value, atol=1e-7, rtol=1e-7)
        for row, same_row in zip(plain.history, other.history, strict=True):
            kept = [name for name in row if not name.startswith(("time/", "eps", "tokens_per"))]
            assert [same_row[name] for name in kept] == pytest.approx([row[name] for name in kept], rel=1e-6, abs=1e-7)


def test_a_waiting_policy_does_not_move_an_adaptive_coefficient(tmp_path: Path) -> None:
    kl = AdaptiveKL(0.1, target=6.0, horizon=100)
    track, _ = run(tmp_path, kl=kl, recipe={"critic_warmup_steps": 2})
    used = [more["kl_coef"] for _, _, more in track.told]
    assert used[:3] == [0.1, 0.1, 0.1]
    assert used[3] != 0.1


def test_a_running_scaling_has_seen_every_batch_once(tmp_path: Path) -> None:
    scorer = Counting()
    track, _ = run(tmp_path, scorer=scorer, scaling=RunningScaling(centred=True))
    seen = torch.empty(0, dtype=torch.float64)
    for (feedback, _, _), given in zip(track.told, scorer.given, strict=True):
        seen = torch.cat([seen, given.double()])
        expected = (given.double() - seen.mean()) / seen.std(correction=1)
        torch.testing.assert_close(feedback.scores.double(), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(feedback.raw_scores, given)


def test_the_average_follows_once_an_iteration(tmp_path: Path) -> None:
    start = load_causal_lm(tiny_causal_lm(tmp_path))
    average = torch.cat([p.detach().flatten() for p in start.parameters()]).double()
    track, ema = run(tmp_path, decay=0.8)
    for actor, _ in track.weights:
        average = 0.8 * average + 0.2 * actor.double()
    found = torch.cat([weight.flatten() for weight in ema.weights.values()]).double()
    torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("estimator", "group"), [("rloo", 4), ("grpo", 2), ("reinforce++", 1)], ids=["rloo", "grpo", "reinforce++"]
)
def test_a_run_without_a_critic_learns_and_says_nothing_of_one(tmp_path: Path, estimator: str, group: int) -> None:
    track, _ = run(
        tmp_path, recipe={"estimator": estimator, "group_size": group, "whiten_advantages": estimator != "grpo"},
        objective=Objective(clip=0.2, vf_coef=0.0),
    )  # fmt: skip
    (first, critic), (last, same) = track.weights[0], track.weights[-1]
    assert not torch.equal(first, last)
    assert torch.equal(critic, same)
    assert float(critic.abs().max()) == 0.0
    for row in track.history:
        assert not {"loss/value_avg", "val/error", "val/mean", "critic/vf_explained_var"} & set(row)
        assert {"loss/policy_avg", "returns/mean", "objective/raw_scores"} <= set(row)


def test_rates_follow_the_recipe(tmp_path: Path) -> None:
    shape = {"schedule": "cosine", "warmup_steps": 2, "warmup_start": 0.5, "min_lr_ratio": 0.2}
    track, _ = run(tmp_path, recipe=shape)
    rates = [more["learning_rate"] for _, _, more in track.told]
    assert rates == pytest.approx([0.5e-2, 0.75e-2, 1e-2, 0.6e-2])


def test_moments_of_the_start_policys_answers(tmp_path: Path) -> None:
    name = tiny_causal_lm(tmp_path)
    policy, tokenizer = make_policy(load_causal_lm(name)), load_tokenizer(name)
    ids = torch.randint(5, 100, (100, 4))
    prompts = Prompts(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), texts=("",) * 100, columns={})
    sampler = InProcessSampler(
        policy, tokenizer, SamplingSettings(max_tokens=5, stop_token_ids=frozenset(range(40))), seed=1
    )

    def measured(batches: Any) -> tuple[FixedMoments, int, torch.Tensor]:
        scorer = Counting()
        reference = make_reference(policy, micro_batch_size=50)
        found = reference_moments(policy, batches, sampler, scorer, reference, truncation=None, micro_batch_size=50)
        return *found, torch.cat(scorer.given).double()

    for batches, n in ((repeat(prompts), 300), (iter([prompts]), 100)):
        moments, count, given = measured(batches)
        assert count == len(given) == n
        assert moments.mean == pytest.approx(float(given.mean()))
        assert moments.std == pytest.approx(float(given.std(correction=0)))
    assert N_ANSWERS == 256
