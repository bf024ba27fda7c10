"""The golden cases that bind core, each in float64 (rtol 1e-9, atol 1e-12) and in float32 (rtol 1e-5, atol 1e-6).

golden.json was computed apart from this library; its notes say what each case is about. Cases of the named systems
stand here where core's functions express them; the rest bind the recipe of that system.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from clearppo.core import advantages, kl, logprobs, losses, masks, normalise, rewards
from clearppo.core.head import log_probs_from_hidden

CASES = {case["id"]: case for case in json.loads(Path(__file__).with_name("golden.json").read_text())["cases"]}
USED = "G01 G02 G03 G04 G05 G07 G08 G09 G10 G15 G21 G24 G25 G26 G27 G29 G30 G33 G34 G35 G41 G42 G47 G50".split()  # noqa: SIM905

pytestmark = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def case(number):
    """(inputs, expected) of one golden case."""
    assert number in USED
    return CASES[number]["inputs"], CASES[number]["expected"]


def check(actual, expected, rtol=None, atol=None):
    """Compare at the tolerance of the dtype. `rtol` and `atol` replace it where a case asks for another."""
    exact = actual.dtype == torch.float64
    rtol = rtol if rtol is not None else (1e-9 if exact else 1e-5)
    atol = atol if atol is not None else (1e-12 if exact else 1e-6)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double(), expected, rtol=rtol, atol=atol, equal_nan=True)


def everything(x):
    return torch.ones(x.shape, dtype=torch.bool)


def test_the_used_cases_exist(dtype):
    assert set(USED) <= set(CASES)
    assert len(USED) == len(set(USED))


def test_every_used_case_has_a_test(dtype):
    source = Path(__file__).read_text()
    assert [number for number in USED if f'"{number}"' not in source] == []


def test_G01_log_probs_with_temperature(dtype):
    i, e = case("G01")
    logits, tokens = torch.tensor(i["logits"], dtype=dtype), torch.tensor(i["labels"])
    check(logprobs.log_probs(logits, tokens, i["temperature"]), e["logprobs"])
    check(logprobs.entropy(logits, i["temperature"]), e["entropies"])


def test_G02_extreme_logits(dtype):
    i, e = case("G02")
    logits, tokens = torch.tensor([i["logits"]], dtype=dtype), torch.tensor([i["labels"]])
    for temperature, expected in zip(i["temperatures"], e.values(), strict=True):
        log_probs, entropy = logprobs.log_probs_and_entropy(logits, tokens, temperature)
        assert log_probs.isfinite().all()
        assert (entropy >= 0).all()
        check(log_probs, [expected["logprobs"]])
        check(entropy, [expected["entropies"]])


def test_G03_the_response_slice(dtype):
    i, e = case("G03")
    tokens, logits, C = torch.tensor(i["tokens"]), torch.tensor(i["logits"], dtype=dtype), i["context_length"]
    check(logprobs.log_probs(logits[:, C - 1 : -1], tokens[:, C:], i["temperature"]), e["logprobs"])
    head = torch.eye(4, dtype=dtype)  # logits that are hidden states
    hidden = logits[:, C - 1 : -1]
    for row, labels, expected in zip(hidden, tokens[:, C:], e["logprobs"], strict=True):
        check(log_probs_from_hidden(row, head, labels, tile=1), expected)


def test_G04_exact_entropy(dtype):
    i, e = case("G04")
    check(logprobs.entropy(torch.tensor([i["logits"]], dtype=dtype)), [e["entropy"]])


def test_G05_the_article(dtype):
    i, e = case("G05")
    t = {name: torch.tensor(x, dtype=dtype) for name, x in i.items()}
    mask = everything(t["values"])
    tight = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {}

    check(-kl.kl(t["old_log_prob"], t["ref_log_prob"]), e["eq1"], **tight)
    reward = rewards.rewards(t["score"], t["old_log_prob"], t["ref_log_prob"], mask)
    check(reward, e["eq2_reward"], **tight)
    check(advantages.returns(reward, mask), e["eq3_return"], **tight)
    advantage, returns = advantages.gae(reward, t["old_values"], mask)
    check(returns, e["eq3_return"], **tight)
    check(advantage, e["eq4_advantage"], **tight)
    check(losses.probability_loss(advantage, t["log_prob"], mask), e["eq5_actor_loss_raw_prob"], **tight)
    actor = losses.actor_loss(advantage, t["old_log_prob"], t["log_prob"], mask)
    check(actor, e["eq6_eq7_actor_loss_ratio"], **tight)
    critic = losses.critic_loss(returns, t["old_values"], t["values"], mask)
    check(critic, e["eq8_critic_loss"], **tight)
    check(actor + 0.1 * critic, e["eq9_total"], **tight)


def test_G07_gae_limits(dtype):
    i, e = case("G07")
    r, v = torch.tensor(i["rewards"], dtype=dtype), torch.tensor(i["values"], dtype=dtype)
    for lam, name in ((1.0, "adv_lambda_1"), (0.0, "adv_lambda_0"), (0.95, "adv_lambda_0p95")):
        check(advantages.gae(r, v, everything(r), i["gamma"], lam)[0], e[name])
    check(advantages.gae(r, v, everything(r), i["gamma"], 0.95)[1], e["returns_lambda_0p95"])
    check(advantages.gae(r, v, everything(r))[0], e["equals_seed_eq4"])


def test_G08_whitening(dtype):
    i, e = case("G08")
    x = torch.tensor(i["values"], dtype=dtype)
    mask, eps = everything(x), i["eps"]
    check(masks.masked_mean(x, mask), e["mean"])
    check(masks.masked_var(x, mask), e["var_population"])
    check(masks.masked_var(x, mask, unbiased=True), e["var_unbiased"])
    check(masks.whiten(x, mask, shift_mean=False, eps=eps), e["whiten_shift_false_pop"])
    check(masks.whiten(x, mask, eps=eps), e["whiten_shift_true_pop"])
    unbiased = masks.whiten(x, mask, shift_mean=False, unbiased=True, eps=eps)
    check(unbiased, e["whiten_shift_false_unbiased"])
    check(masks.whiten(x, mask, shift_mean=False, eps=eps), e["published_tf"], atol=1e-5)
    check(unbiased, e["published_torch_unbiased"], atol=5e-5)


def test_G09_whitening_without_spread(dtype):
    i, e = case("G09")
    constant, single = torch.tensor(i["constant"], dtype=dtype), torch.tensor(i["single"], dtype=dtype)
    check(masks.whiten(constant, everything(constant)), e["constant_shift_true"], rtol=0, atol=0)
    check(masks.whiten(constant, everything(constant), shift_mean=False), e["constant_shift_false"], rtol=0, atol=0)
    check(masks.whiten(single, everything(single)), e["single_population"], rtol=0, atol=0)
    check(masks.whiten(single, everything(single), unbiased=True), [[float(e["single_unbiased"])]])
    assert e["empty_mask"].startswith("ValueError")
    with pytest.raises(ValueError, match="empty"):
        masks.whiten(single, ~everything(single))


def test_G10_rewards_of_a_fixed_length(dtype):
    i, e = case("G10")
    old, ref = torch.tensor(i["logprobs"], dtype=dtype), torch.tensor(i["ref_logprobs"], dtype=dtype)
    scores, mask = torch.tensor(i["scores"], dtype=dtype), everything(old)
    each_kl = kl.kl(old, ref)
    process = rewards.rewards(torch.zeros_like(scores), old, ref, mask, i["kl_coef"])
    check(each_kl, e["kl"])
    check(process, e["non_score_reward"])
    check(rewards.rewards(scores, old, ref, mask, i["kl_coef"]), e["rewards"])
    check(rewards.rewards_from_kl(scores, each_kl, mask, i["kl_coef"]), e["rewards"])
    check(masks.kept(each_kl, mask).sum(dim=1).mean(), e["objective_kl"])
    check(masks.kept(-old, mask).sum(dim=1).mean(), e["objective_entropy"])
    check((scores + process.sum(dim=1)).mean(), e["objective_score_total"])


def test_G15_best_of_4(dtype):
    i, e = case("G15")
    scores, choice = torch.tensor(i["rewards"], dtype=dtype, requires_grad=True), torch.tensor(i["best"])
    loss = losses.best_of_n_loss(scores, choice)
    loss.backward()
    check(loss, e["loss"])
    check(scores.grad, e["grad_rewards"])
    for k, expected in enumerate(e["per_example"]):
        check(losses.best_of_n_loss(scores[k : k + 1], choice[k : k + 1]), expected)
    check(losses.best_of_n_loss(torch.zeros(3, 4, dtype=dtype), torch.tensor([0, 1, 2])), e["chance_loss"])


def test_G21_pairs(dtype):
    i, e = case("G21")
    chosen, rejected, margin = (torch.tensor(i[name], dtype=dtype) for name in ("chosen", "rejected", "margin"))
    chosen.requires_grad_()
    loss = losses.preference_loss(chosen, rejected)
    loss.backward()
    check(loss, e["loss"])
    check(chosen.grad, e["grad_chosen"])
    for k, expected in enumerate(e["per_pair"]):
        check(losses.preference_loss(chosen[k : k + 1], rejected[k : k + 1]), expected)
    check(losses.preference_loss(chosen, rejected, margin), e["trl_loss_with_margin"])
    check(i["center_rewards_coefficient"] * losses.centring_loss(chosen, rejected), e["trl_center_term"])
    check(losses.kwise_loss(chosen, rejected, torch.arange(len(chosen))), e["loss"])
    one_token = torch.ones(len(chosen), 1, dtype=torch.bool)
    check(losses.all_token_loss(chosen.unsqueeze(1), rejected.unsqueeze(1), one_token), e["loss"])


def test_G24_rewards_of_instructgpt(dtype):
    i, e = case("G24")
    old, ref = (
        torch.tensor([[math.nan if x is None else x for x in row] for row in i[name]], dtype=dtype)
        for name in ("logprobs", "sft_logprobs")
    )
    scores, mask = torch.tensor(i["rm_scores"], dtype=dtype), ~old.isnan()
    reward = rewards.rewards(scores, old, ref, mask, i["beta"])
    check(reward[mask], [x for row in e["token_rewards"] for x in row])
    check(reward.sum(dim=1), e["sum_token_rewards"])
    check(reward.sum(dim=1), e["sequence_reward"])


def test_G25_kl_estimators(dtype):
    i, e = case("G25")
    policy, ref = torch.tensor(i["policy_logits"], dtype=dtype), torch.tensor(i["ref_logits"], dtype=dtype)
    log_p, log_q = logprobs.log_softmax(policy).unsqueeze(0), logprobs.log_softmax(ref).unsqueeze(0)
    difference = torch.tensor([i["log_ratio_policy_minus_ref_extreme"]], dtype=dtype)
    for estimator in ("k1", "k2", "k3"):
        check(kl.kl(log_p, log_q, estimator), [e[estimator]])
        check((log_p.exp() * kl.kl(log_p, log_q, estimator)).sum(), e[f"E_{estimator}"])
        check(kl.kl(difference, torch.zeros_like(difference), estimator), [e[f"extreme_{estimator}"]])
    check(kl.full_kl(policy.view(1, 1, -1), ref.view(1, 1, -1)), [[e["full_kl"]]])
    check(kl.full_kl(ref.view(1, 1, -1), policy.view(1, 1, -1)), [[e["reverse_kl"]]])


@pytest.mark.parametrize("number", ["G26", "G27"])
def test_G26_G27_last_indices(dtype, number):
    _, e = case(number)
    assert masks.last_index(torch.tensor(e["keep_mask"]).bool()).tolist() == e["sequence_length"]
    assert masks.last_index(torch.tensor(e["keep_mask_p1"]).bool()).tolist() == e["score_index"]


@pytest.mark.parametrize(
    ("number", "estimator", "whitens_rewards", "unbiased"), [("G29", "k1", False, False), ("G30", "k3", True, True)]
)
def test_G29_G30_from_scores_to_advantages(dtype, number, estimator, whitens_rewards, unbiased):
    """N+ and TRL keep one cell behind the EOS (p1) for score and value; core reads that as a longer mask."""
    i, e = case(number)
    keep, keep_p1 = torch.tensor(e["keep_mask"]).bool(), torch.tensor(e["keep_mask_p1"]).bool()
    t = {name: torch.tensor(e[name], dtype=dtype) for name in ("logprobs", "ref_logprobs", "scores", "values")}
    reward = rewards.rewards(t["scores"], t["logprobs"], t["ref_logprobs"], keep_p1, i["kl_coef"], estimator)
    check(reward, e["rewards"])
    if whitens_rewards:
        reward = masks.whiten(reward, keep_p1, shift_mean=False, unbiased=True)
    check(reward, e["rewards_used"])
    raw, returns = advantages.gae(reward, t["values"], keep_p1, i["gamma"], i["lam"])
    check(raw, e["advantages_raw"])
    check(returns, e["returns"])
    check(masks.masked_mean(raw, keep), e["adv_mean"])
    check(masks.masked_var(raw, keep, unbiased), e["adv_var"])
    check(masks.whiten(raw, keep, unbiased=unbiased), e["advantages"])


@pytest.mark.parametrize("number", ["G33", "G35"])
def test_G33_G35_rewards_and_advantages_of_deepspeed_chat(dtype, number):
    i, e = case(number)
    t = {name: torch.tensor(i[name], dtype=dtype) for name in ("logprobs", "ref_logprobs", "values", "reward_score")}
    start = i["prompt_length"] - 1
    before_end = torch.arange(t["values"].shape[1]) < torch.tensor(e["ends"]).unsqueeze(1)
    mask = before_end[:, start:]
    limit = i["clip_reward_value"]
    old, ref = t["logprobs"][:, start:], t["ref_logprobs"][:, start:]
    reward = rewards.rewards(t["reward_score"].clamp(-limit, limit), old, ref, mask, i["kl_ctl"])
    check(reward, [row[start:] for row in e["rewards"]])  # which hold 0 from `ends` on
    advantage, returns = advantages.gae(reward, t["values"][:, start:], mask, i["gamma"], i["lam"])
    check(advantage, e["advantages"])
    check(returns, e["returns"])


def test_G34_gae_that_reads_padding(dtype):
    """The first release masked nothing: a full mask reproduces its numbers, leak included."""
    i, e = case("G34")
    start = i["prompt_length"] - 1
    reward, values = (torch.tensor(x, dtype=dtype)[:, start:] for x in (e["rewards"], i["values"]))
    advantage, returns = advantages.gae(reward, values, everything(values), i["gamma"], i["lam"])
    check(advantage, e["advantages"])
    check(returns, e["returns"])


@pytest.mark.parametrize(("centred", "expected"), [(False, "reward_scaling"), (True, "reward_norm_clip")])
def test_G41_running_moments_of_ppo_max(dtype, centred, expected):
    i, e = case("G41")
    scaling, limit = normalise.RunningScaling(centred=centred), i["reward_clip_delta"] if centred else math.inf
    for batch, moments, wanted in zip(i["batches"], e["history"], e[expected], strict=True):
        scores = torch.tensor(batch, dtype=dtype)
        scaling = scaling.updated(scores)
        assert scaling.moments.count == moments["count"]
        assert (scaling.moments.mean, scaling.moments.std) == pytest.approx((moments["mean"], moments["std"]), 1e-9)
        check(scaling.scaled(scores).clamp(-limit, limit), wanted)
    assert (scaling.moments.mean, scaling.moments.std) == pytest.approx(
        (e["check_mean"], e["check_unbiased_std"]), 1e-9
    )


def test_G42_parts_of_ppo_max(dtype):
    i, e = case("G42")
    mask = torch.tensor(i["loss_mask"]).bool()
    names = ("advantages", "new_logprobs", "old_logprobs", "token_entropy")
    raw, new, old, entropy = (torch.tensor(i[name], dtype=dtype) for name in names)
    check(masks.masked_mean(raw, mask), e["adv_mean"])
    check(masks.masked_var(raw, mask), e["adv_var"])
    whitened = masks.whiten(raw, mask, eps=i["whiten_eps"])
    check(whitened[mask], torch.tensor(e["advantages_whitened"], dtype=torch.float64)[mask])
    check(masks.masked_mean(kl.kl(old, new, "k3"), mask), e["approx_kl_k3"])
    check(losses.actor_loss(whitened, old, new, mask, clip=0.2), e["pg_loss"])
    check((masks.masked_mean(entropy, mask) - i["entropy_clip"]).abs(), e["entropy_loss"])


@pytest.mark.parametrize("beta", ["0.05", "0.15", "0.5", "2.0"])
def test_G47_the_optimum_under_a_kl_penalty(dtype, beta):
    """One token, one response for each token of the vocabulary, weighted by its probability: sampling without noise.

    The gradient of E[r] - beta KL is the same whether the KL stands in the reward (k1) or in the objective (full), and
    vanishes at reference * exp(r / beta) / Z.
    """
    i, e = case("G47")
    e = e[beta]
    r, ref, policy = (torch.tensor(i[name], dtype=dtype) for name in ("rewards", "ref_logits", "policy_logits"))
    tokens, V = torch.arange(len(r)).unsqueeze(1), len(r)

    def objective(logits):
        p = logprobs.log_softmax(logits).exp()
        return (p * r).sum() - float(beta) * kl.full_kl(logits.view(1, 1, V), ref.view(1, 1, V)).sum()

    def gradients(logits):
        live = logits.clone().requires_grad_()
        objective(live).backward()
        again = logits.clone().requires_grad_()
        log_probs = logprobs.log_probs(again.expand(V, 1, V), tokens)
        ref_log_probs = logprobs.log_probs(ref.expand(V, 1, V), tokens)
        old, mask = log_probs.detach(), everything(log_probs)
        reward = rewards.rewards(r, old, ref_log_probs, mask, float(beta))
        losses.actor_loss(old.exp() * reward, old, log_probs, mask, count=1).backward()
        return live.grad, -again.grad

    check(objective(policy), e["J_at_pi"])
    check(objective(ref), e["J_at_ref"])
    for gradient in gradients(policy):
        check(gradient, e["grad_logits_at_pi"])
    for gradient in gradients(ref):
        check(gradient, e["grad_logits_at_ref"])
    optimum = ref + r / float(beta)
    check(logprobs.log_softmax(optimum).exp(), e["pi_star"])
    check(objective(optimum), e["J"])
    check(objective(optimum), e["beta_logZ"])
    for gradient in gradients(optimum):
        check(gradient, torch.zeros(V))


def test_G50_whitening_depends_on_the_group(dtype):
    i, e = case("G50")
    x = torch.tensor(i["values"], dtype=dtype)
    check(masks.whiten(x, everything(x), eps=i["eps"]), e["global_"])
    for ranks in i["ranks"]:
        part = x[ranks]
        check(masks.whiten(part, everything(part), eps=i["eps"]), [e["per_rank"][rank] for rank in ranks])
