"""The golden cases of the named systems, through the functions and with the numbers that their recipes use, in float64.

test_golden_core.py binds the mathematics; here the phases (judge, credit, learn, the optimiser, ...) are given what a
case says and must answer what it says, under the recipe of the case's system. ELSEWHERE and NOT_OFFERED account for
every other case.
"""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Feedback, Sequences
from clearppo.build.learning import ppo_objective
from clearppo.core import masks
from clearppo.core.losses import sft_loss
from clearppo.core.normalise import RunningScaling
from clearppo.engines.local import LocalEngine
from clearppo.learning import Objective, Passes, credit, learn
from clearppo.learning.ppo import ppo_loss
from clearppo.learning.ptx import Ptx, TextStream, accumulate_texts
from clearppo.models.actor import Actor
from clearppo.models.ema import EMA
from clearppo.models.normalise import gain_and_bias
from clearppo.models.policy import Analysis
from clearppo.rollout.draw import draw
from tests.golden.told import (
    CASES,
    case,
    check,
    credited,
    everything,
    judged,
    recipe,
    reward_recipe,
    rollout_of,
    tensor,
)
from tests.learning.test_learn import experience, policy_at

# Cases that no recipe needs to bind again: the functions that every recipe uses are bound by the file named.
ELSEWHERE = {
    "G01": "tests/golden/test_golden_core.py",
    "G02": "tests/golden/test_golden_core.py",
    "G03": "tests/golden/test_golden_core.py",
    "G04": "tests/golden/test_golden_core.py",
    "G05": "tests/train/test_article.py",
    "G07": "tests/golden/test_golden_core.py",
    "G15": "tests/golden/test_golden_core.py",
    "G21": "tests/golden/test_golden_core.py",
    "G25": "tests/golden/test_golden_core.py",
    "G38": "tests/golden/test_golden_reward_model.py",
    "G47": "tests/learns/test_closed_form.py",
}
# Cases whose behaviour no recipe offers, nearly all of them bugs and pitfalls of the originals, which their pages name;
# test_golden_core.py still shows for some of them what input makes core's functions give the same numbers.
# (The correlation in G16 is bound in test_golden_reward_model.py.)
NOT_OFFERED = {
    "G27": "TRL with pad = eos loses the end-of-text token; our masks come from lengths, so there is one rule (G26)",
    "G34": "DeepSpeed-Chat's first release reads padding behind the end",
    "G35": "DeepSpeed-Chat with pad other than eos pays the score and a KL term on the first padding token",
    "G40": "DeepSpeed-Chat's published log prints sums of both losses; ours are logged apart",
    "G16": "lm-human-preferences' losses on scalar labels: its published tasks use best-of-4",
}


def test_every_case_is_accounted_for():
    files = ("test_golden_recipes.py", "test_golden_lm_human_preferences.py")
    source = "".join(Path(__file__).with_name(file).read_text() for file in files)
    names = re.findall(r"^def test((?:_G\d\d)+)_", source, re.M)
    here = {number for name in names for number in name.split("_")[1:]}
    assert here | set(ELSEWHERE) | set(NOT_OFFERED) == set(CASES)
    assert not here & set(ELSEWHERE)
    assert not here & set(NOT_OFFERED)
    repo = Path(__file__).parents[2]
    for number, file in ELSEWHERE.items():
        assert f'"{number}"' in (repo / file).read_text()


# -------------------------------------------------------------------------------- summarize-from-feedback, InstructGPT


def test_G20_the_score_lands_on_the_end_of_text_token():
    i, e = case("G20")
    end, T = i["truncate_token"], len(i["samples"][0])
    lengths = torch.tensor([row.index(end) + 1 if end in row else T for row in i["samples"]])
    mask = torch.arange(T) < lengths[:, None]
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    rewards = judged(recipe("summarize-from-feedback"), rollout_of(mask, zeros), torch.ones(len(mask)), zeros).rewards
    assert rewards.argmax(dim=1).tolist() == e["last_response_index"] == masks.last_index(mask).tolist()
    per_token = tensor(i["per_token_reward_after_token"])
    check((rewards * per_token).sum(dim=1), e["reward"])


@pytest.mark.parametrize("name", ["summarize-from-feedback", "instructgpt"])
def test_G22_a_bias_and_no_gain(name):
    i, e = case("G22")
    assert reward_recipe(name).rm.score_normalisation == "mean"
    references = tensor(i["reference_rewards"])
    gain, bias = gain_and_bias(references, "mean")
    check(tensor([gain, bias]), [1.0, -e["bias"]])
    check(gain * references + bias, e["shifted_reference"])
    check(gain * tensor(i["policy_rewards"]) + bias, e["shifted_policy"])


def test_G24_rewards_pretraining_loss_and_average_of_instructgpt():
    i, e = case("G24")
    config = recipe("instructgpt")
    assert (config.kl.kl_coef, config.ptx.ptx_coef, config.run.ema_decay) == (i["beta"], i["gamma"], i["ema_decay"])
    numbers = [
        tensor([[math.nan if x is None else x for x in row] for row in i[name]])
        for name in ("logprobs", "sft_logprobs")
    ]
    mask = ~numbers[0].isnan()
    feedback = judged(config, rollout_of(mask, numbers[0]), tensor(i["rm_scores"]), numbers[1])
    check(feedback.rewards[mask], [x for row in e["token_rewards"] for x in row])
    check(feedback.rewards.sum(dim=1), e["sequence_reward"])
    ppo_part = feedback.rewards.sum(dim=1).mean()
    check(ppo_part, e["objective_ppo_part"])
    texts = tensor(i["pretrain_token_logprobs"])
    check(ppo_part - config.ptx.ptx_coef * sft_loss(texts, everything(texts)), e["objective_ptx_token_mean"])
    assert averages(i["ema_decay"], i["ema_init"], i["weights"]) == pytest.approx(e["ema"], rel=1e-9)


# ----------------------------------------------------------------------------------------------- TRL and N+


def test_G26_answers_go_through_their_end_of_text_token():
    i, e = case("G26")
    end, T = i["stop_token_id"], len(i["responses"][0])
    lengths = torch.tensor([row.index(end) + 1 if end in row else T for row in i["responses"]])
    mask = torch.arange(T) < lengths[:, None]
    assert mask.int().tolist() == e["keep_mask"]
    assert masks.last_index(mask).tolist() == e["sequence_length"]
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    rewards = judged(recipe("trl"), rollout_of(mask, zeros), torch.ones(len(mask)), zeros).rewards
    assert rewards.argmax(dim=1).tolist() == e["sequence_length"]  # and not at e["score_index"], one token later


@pytest.mark.parametrize(("number", "nplus"), [("G29", True), ("G30", False)])
def test_G29_G30_from_scores_to_advantages(number, nplus):
    """With the one token more that TRL's score and value live on given as a part of the answer."""
    i, e = case(number)
    flags = {"missing_eos_score": "-1", "unbiased_whitening": "false"} if nplus else {"kl_estimator": "k3"}
    config = recipe("trl", **flags)
    keep, longer = torch.tensor(e["keep_mask"]).bool(), torch.tensor(e["keep_mask_p1"]).bool()
    assert (config.kl.kl_coef, config.ppo.gamma, config.ppo.lam) == (i["kl_coef"], i["gamma"], i["lam"])
    rollout = rollout_of(longer, tensor(e["logprobs"]), tensor(e["values"]), ended=e["contains_eos"])
    raw = tensor(i["raw_scores"]) if nplus else tensor(e["scores"])
    feedback = judged(config, rollout, raw, tensor(e["ref_logprobs"]), whiten_rewards=not nplus)
    check(feedback.scores, e["scores"])
    check(feedback.rewards, e["rewards_used"])
    experience = credited(config, rollout, feedback, whiten_advantages=False)
    check(experience.advantages, e["advantages_raw"])
    check(experience.returns, e["returns"])
    check(masks.whiten(experience.advantages, keep, unbiased=config.ppo.unbiased_whitening), e["advantages"])


class Counter(LocalEngine):
    """An engine that counts its steps and takes none."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.steps = 0

    def step(self, optimiser, parameters, max_norm) -> float:
        self.steps += 1
        optimiser.zero_grad(set_to_none=True)
        return 1.0


def test_G32_mini_batches_make_steps_and_thin_no_metric(tmp_path: Path):
    i, e = case("G32")
    policy = policy_at(tmp_path)
    policy.critic.requires_grad_(True)
    data = experience(4)
    for row in e["rows"]:
        config = recipe("trl", num_mini_batches=str(row["num_mini_batches"]))
        engine = Counter()
        passes = Passes(
            epochs=config.ppo.num_ppo_epochs, num_mini_batches=config.ppo.num_mini_batches, micro_batch_size=1
        )
        stats = learn(
            policy, data, engine, torch.optim.SGD(policy.parameters(), lr=0.0), objective=Objective(clip=0.2),
            passes=passes, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert config.ppo.num_ppo_epochs == i["num_ppo_epochs"]
        assert engine.steps == config.ppo.num_ppo_epochs * row["optimizer_steps_per_ppo_epoch_nplus"]
        assert stats.counts["val/ratio"] == config.ppo.num_ppo_epochs * int(data.rollout.mask.sum())
    # The weights never moved, so the mean ratio does not hang on the number of mini-batches: nothing is diluted.
    assert stats.mean("val/ratio") == pytest.approx(float(mean_ratio(policy, data)), rel=1e-9)


def mean_ratio(policy, data):
    rollout = data.rollout
    analysis = policy.analyze(rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature)
    return (analysis.log_probs - rollout.old_log_probs).exp()[rollout.mask].mean().detach()


# ------------------------------------------------------------------------------------------- DeepSpeed-Chat


def test_G33_clipped_scores_and_advantages():
    i, e = case("G33")
    config = recipe("deepspeed-chat")
    assert (config.kl.kl_coef, config.reward.score_clip) == (i["kl_ctl"], i["clip_reward_value"])
    assert (config.ppo.gamma, config.ppo.lam) == (i["gamma"], i["lam"])
    start = i["prompt_length"] - 1
    mask = (torch.arange(len(i["values"][0])) < torch.tensor(e["ends"])[:, None])[:, start:]
    old, ref, values = (tensor(i[name])[:, start:] for name in ("logprobs", "ref_logprobs", "values"))
    rollout = rollout_of(mask, old, values)
    feedback = judged(config, rollout, tensor(i["reward_score"]), ref)
    check(feedback.rewards, [row[start:] for row in e["rewards"]])
    experience = credited(config, rollout, feedback)
    check(experience.advantages, e["advantages"])
    check(experience.returns, e["returns"])


def averages(decay, first, weights):
    """The averaged weight after each of these weights."""
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(module.weight, first)
    ema = EMA(module, decay)
    found = []
    for weight in weights:
        torch.nn.init.constant_(module.weight, weight)
        ema.update()
        found.append(float(next(iter(ema.weights.values()))))
    return found


class Straight(Actor):
    """An actor whose log-probabilities of texts fall along a given gradient."""

    def __init__(self, weights: torch.nn.Parameter, gradient: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.weights, self.gradient = weights, gradient

    def sequence_log_probs(self, batch: Sequences) -> torch.Tensor:
        return -(self.gradient @ self.weights)[None]


class Nothing:
    """A set of one text of two tokens."""

    def __len__(self) -> int:
        return 1

    def batch(self, indices, pad_id: int) -> Sequences:
        both = torch.ones(1, 2, dtype=torch.bool)
        return Sequences(ids=both.long(), mask=both, loss_mask=torch.tensor([[False, True]]))


def test_G39_the_average_and_the_halved_sum_of_gradients():
    i, e = case("G39")
    found = averages(i["beta"], i["ema_init"], i["actor_weights"])
    assert found == pytest.approx(e["weight_ema"], rel=1e-9)

    config = recipe("deepspeed-chat", ptx_coef=str(i["unsup_coef"]), ptx_dataset_name="t", ptx_reduction="mean")
    weights = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    stream = TextStream(Nothing(), pad_id=0, seed=0, device=torch.device("cpu"))
    ptx = Ptx(stream=stream, coef=config.ptx.ptx_coef, reduction=config.ptx.ptx_reduction)
    log_probs = -(tensor(i["ppo_grad"]) @ weights)[None, None]  # one token of ratio 1 and advantage 1
    ones, mask = torch.ones((1, 1), dtype=torch.float64), torch.ones((1, 1), dtype=torch.bool)
    told = Feedback(
        scores=ones[0], raw_scores=ones[0], parts={}, ref_log_probs=ones, kl=ones, rewards=ones
    )  # fmt: skip
    data = credit(rollout_of(mask, torch.zeros_like(ones)), told)
    analysis = Analysis(log_probs=log_probs, values=ones, entropy=ones)
    objective = replace(ppo_objective(config), vf_coef=0.0)
    ppo_loss(analysis, data, objective, torch.tensor(1), share=ptx.share).backward()
    actor, engine = Straight(weights, tensor(i["unsup_grad"])), LocalEngine(torch.device("cpu"))
    accumulate_texts(actor, engine, ptx, n_answers=1, micro_batch_size=1)
    check(weights.grad, e["accumulated_grad_ga1"])


# ------------------------------------------------------------------------------------------------ PPO-max


def test_G41_running_moments():
    i, e = case("G41")
    config = recipe("ppo-max")
    assert config.reward.score_scaling == "running"
    norm, scale = RunningScaling(centred=True), RunningScaling(centred=False)
    for k, batch in enumerate(i["batches"]):
        scores = tensor(batch)
        mask, zeros = torch.ones(len(batch), 1, dtype=torch.bool), torch.zeros(len(batch), 1, dtype=torch.float64)
        rollout = rollout_of(mask, zeros)
        clipped = judged(config, rollout, scores, zeros, scaling=norm, score_clip=i["reward_clip_delta"])
        check(clipped.scores, e["reward_norm_clip"][k])
        check(judged(config, rollout, scores, zeros, scaling=scale, score_clip=None).scores, e["reward_scaling"][k])
        norm, scale = norm.updated(clipped.raw_scores), scale.updated(scores)
        for name, expected in e["history"][k].items():
            assert getattr(norm.moments, name) == pytest.approx(expected, rel=1e-9)
    assert norm.moments.mean == pytest.approx(e["check_mean"], rel=1e-9)
    assert norm.moments.std == pytest.approx(e["check_unbiased_std"], rel=1e-9)


def test_G42_the_clipped_policy_loss():
    """With the case's whitened advantages given: the recipe whitens none, and ours would add 1e-8, not 1e-6."""
    i, e = case("G42")
    mask = torch.tensor(i["loss_mask"]).bool()
    rollout = rollout_of(mask, tensor(i["old_logprobs"]))
    advantages = tensor(e["advantages_whitened"])
    zeros = torch.zeros_like(advantages)
    feedback = Feedback(
        scores=zeros[:, 0], raw_scores=zeros[:, 0], parts={}, ref_log_probs=zeros, kl=zeros, rewards=advantages
    )
    config = recipe("ppo-max")
    experience = credited(config, rollout, feedback, gamma=0.0, lam=0.0)
    check(experience.advantages[mask], advantages[mask].tolist())
    analysis = Analysis(log_probs=tensor(i["new_logprobs"]), values=zeros, entropy=zeros)
    loss = ppo_loss(analysis, experience, replace(ppo_objective(config), vf_coef=0.0), mask.sum())
    check(loss, e["pg_loss"])


def test_G45_the_nucleus_holds_the_token_that_crosses():
    """Ours is the rule of MOSS-RLHF and summarize-from-feedback, not that of lm-human-preferences."""
    i, e = case("G45")
    logits = tensor([i["logits"]])
    assert recipe("ppo-max").sampling.top_p in i["p"]
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for p in i["p"]:
        if p:  # 0 is no option's value
            drawn, _, _ = draw(logits.expand(2000, -1), grid, temperature=1.0, top_p=p)
            assert e["kept_moss"][str(p)] == e["kept_sff"][str(p)]
            least = min(i["logits"][token] for token in e["kept_moss"][str(p)])
            with_ties = [token for token, logit in enumerate(i["logits"]) if logit >= least]  # 3, 4 and 5 are equal
            assert sorted(set(drawn.tolist())) == with_ties
