"""PPO-ptx: gradients by hand from the plain model, goldens G24 and G39, and what they must not depend on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Sequences
from clearppo.core.losses import sft_loss
from clearppo.engines.local import LocalEngine
from clearppo.errors import TrainingError
from clearppo.learning import Objective, Passes, learn
from clearppo.learning.ptx import Ptx, TextStream
from clearppo.models.actor import SharedCritic
from clearppo.models.build import load_critic, make_policy, make_reference
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from tests.learning.test_learn import FULL, Recorder, by_hand, experience
from tests.tiny import tiny_causal_lm

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.json"
CASES = {case["id"]: case for case in json.loads(GOLDEN.read_text())["cases"]}
CPU = torch.device("cpu")


class Set:
    """Texts of 2 to 8 tokens; the loss is on everything behind the first `i % 2 + 1` tokens."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(9)
        self.texts = [torch.randint(5, 100, (2 + (3 * i) % 7,), generator=generator) for i in range(n)]
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return len(self.texts)

    def starts(self, i: int) -> int:
        return min(i % 2 + 1, len(self.texts[i]) - 1)

    def batch(self, indices, pad_id: int) -> Sequences:
        self.drawn += indices
        width = max(len(self.texts[i]) for i in indices)
        ids = torch.full((len(indices), width), pad_id)
        mask, loss_mask = (torch.zeros(len(indices), width, dtype=torch.bool) for _ in range(2))
        for row, i in enumerate(indices):
            n = len(self.texts[i])
            ids[row, :n], mask[row, :n] = self.texts[i], True
            loss_mask[row, self.starts(i) : n] = True
        return Sequences(ids=ids, mask=mask, loss_mask=loss_mask)


def ptx(n: int = 10, **changed) -> Ptx:
    values = {"stream": TextStream(Set(n), pad_id=3, seed=4, device=CPU), "coef": 2.5, "batch_ratio": 1.5, **changed}
    return Ptx(**values)


def policy_at(path: Path, *, critic: str = "shared") -> Policy:
    torch.manual_seed(1)
    name = tiny_causal_lm(path, family="gpt2")
    separate = load_critic(name, load_tokenizer(name), dtype=torch.float64) if critic == "separate" else None
    policy = make_policy(load_causal_lm(name, dtype=torch.float64), separate_critic=separate)
    head = policy.critic.score if isinstance(policy.critic, SharedCritic) else policy.critic.classifier.score
    torch.nn.init.normal_(head.weight)
    return policy


def gradients(policy, data, objective, texts, *, n: int = 1, micro: int = 6, reference=None, critic_only=False):
    engine = Recorder()
    stats = learn(
        policy, data, engine, torch.optim.SGD(policy.parameters(), lr=0.0), objective=objective,
        passes=Passes(epochs=1, num_mini_batches=n, micro_batch_size=micro), generator=torch.Generator().manual_seed(0),
        reference=reference, ptx=texts, critic_only=critic_only,
    )  # fmt: skip
    return engine.gradients, stats


def nll_by_hand(policy: Policy, texts: Set, rows: list[int]) -> torch.Tensor:
    """Nats a token over the learned tokens of these texts, each alone through the plain model."""
    terms = []
    for i in rows:
        ids = texts.texts[i]
        log_p = policy.actor.causal_lm(ids[None]).logits[0].log_softmax(-1)
        terms += [-log_p[t - 1, ids[t]] for t in range(texts.starts(i), len(ids))]
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 0.5)])
def test_gradients_are_those_of_both_losses(tmp_path: Path, reduction: str, share: float) -> None:
    policy, data, texts = policy_at(tmp_path), experience(), ptx(reduction=reduction)
    (found,), stats = gradients(policy, data, FULL, texts, micro=4)
    rows = texts.stream.texts.drawn
    assert len(rows) == 9  # 1.5 texts for each of 6 answers
    nll = nll_by_hand(policy, texts.stream.texts, rows)
    # by_hand is actor - entropy + critic; the critic's part is never halved
    critic = by_hand(policy, data, FULL) - by_hand(policy, data, replace(FULL, vf_coef=0.0))
    loss = share * (by_hand(policy, data, replace(FULL, vf_coef=0.0)) + 2.5 * nll) + critic
    expected = torch.autograd.grad(loss, [p for _, p in policy.trainable()])
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8)
    assert stats.mean("loss/ptx_avg") == pytest.approx(nll.item(), rel=1e-9)


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize(("n", "micro"), [(1, 1), (1, 4), (2, 2), (3, 5)])
def test_the_micro_batch_changes_nothing(tmp_path: Path, critic: str, n: int, micro: int) -> None:
    """With everything in the loss: clips, entropy, critic, a full KL, texts."""
    policy, data = policy_at(tmp_path, critic=critic), experience()
    reference = make_reference(policy, micro_batch_size=2)
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    objective = replace(FULL, kl_loss_coef=0.3, kl_loss_estimator="full")
    whole, stats = gradients(policy, data, objective, ptx(), n=n, reference=reference)
    parts, part_stats = gradients(policy, data, objective, ptx(), n=n, micro=micro, reference=reference)
    assert len(whole) == len(parts) == n
    for step, other in zip(whole, parts, strict=True):
        for g, e in zip(other, step, strict=True):
            torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)
    assert stats.counts["loss/ptx_avg"] > 0
    for name in stats.sums:
        assert part_stats.mean(name) == pytest.approx(stats.mean(name), rel=1e-9), name


def test_the_stream_gives_every_text_once_a_pass_and_never_ends() -> None:
    stream = ptx(n=5).stream
    for n in (2, 3, 5, 12):
        assert len(stream.draw(n)) == n
    drawn = stream.texts.drawn
    passes = [drawn[start : start + 5] for start in (0, 5, 10, 15)]
    assert all(sorted(rows) == [0, 1, 2, 3, 4] for rows in passes)
    assert len({tuple(rows) for rows in passes}) > 1
    again = ptx(n=5).stream
    again.draw(22)
    assert again.texts.drawn == drawn


def test_how_many_texts() -> None:
    assert [ptx(batch_ratio=8.0).n_texts(64), ptx(batch_ratio=0.5).n_texts(5), ptx(batch_ratio=0.01).n_texts(8)] == [
        512, 2, 1,
    ]  # fmt: skip


def test_G24_instructgpts_objective() -> None:
    given, told = CASES["G24"]["inputs"], CASES["G24"]["expected"]
    log_probs = torch.tensor(given["pretrain_token_logprobs"], dtype=torch.float64)
    nll = sft_loss(log_probs, torch.ones_like(log_probs, dtype=torch.bool))
    value = told["objective_ppo_part"] - given["gamma"] * nll.item()
    assert value == pytest.approx(told["objective_ptx_token_mean"], rel=1e-12)


def test_G39_deepspeed_chats_gradient_is_half_the_sum() -> None:
    given, told = CASES["G39"]["inputs"], CASES["G39"]["expected"]
    weights = Ptx(stream=ptx().stream, coef=given["unsup_coef"], reduction="mean")
    pairs = zip(given["ppo_grad"], given["unsup_grad"], strict=True)
    found = [weights.share * (g + weights.coef * u) for g, u in pairs]
    assert found == pytest.approx(told["accumulated_grad_ga1"], rel=1e-9)


# --------------------------------------------------------------------------------------------- the critic's warm-up


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_while_the_critic_warms_up_nothing_else_learns(tmp_path: Path, critic: str) -> None:
    policy, data, texts = policy_at(tmp_path, critic=critic), experience(), ptx()
    names = [name for name, _ in policy.trainable()]
    objective = replace(FULL, kl_loss_coef=1.0, kl_loss_estimator="full")  # would ask for a reference
    (found,), stats = gradients(policy, data, objective, texts, critic_only=True)
    assert len(found) == sum(name.startswith("critic") for name in names)
    assert all(p.grad is None for p in policy.actor.parameters())
    assert {"loss/kl_avg", "loss/ptx_avg"}.isdisjoint(stats.sums)
    assert texts.stream.texts.drawn == []
    assert [name for name, _ in policy.trainable()] == names  # and afterwards all learn again
    (both,), _ = gradients(policy, data, FULL, None)
    of_critic = [g for name, g in zip(names, both, strict=True) if name.startswith("critic")]
    for g, e in zip(found, of_critic, strict=True):
        torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)


def test_an_error_in_the_warm_up_leaves_the_actor_able_to_learn(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    names = [name for name, _ in policy.trainable()]
    with pytest.raises(TrainingError, match="not finite"):
        learn(
            policy, replace(data, returns=data.returns / 0), LocalEngine(CPU), torch.optim.SGD(policy.parameters()),
            objective=FULL, passes=Passes(), generator=torch.Generator(), critic_only=True,
        )  # fmt: skip
    assert [name for name, _ in policy.trainable()] == names


def test_without_a_critic_none_is_measured(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    policy.critic.requires_grad_(False)
    _, stats = gradients(policy, data, Objective(clip=0.2, clip_value=0.2, vf_coef=0.0), None)
    assert {"loss/value_avg", "val/error", "val/clipfrac_avg"}.isdisjoint(stats.sums)
    assert {"loss/policy_avg", "val/ratio", "policy/clipfrac_avg"} <= set(stats.sums)
