"""The golden cases of lm-human-preferences, through the functions and with the numbers of its recipe, in float64."""

import itertools

import pytest
import torch

from clearppo.batch import Prompts, Stats
from clearppo.core import masks
from clearppo.core.normalise import FixedMoments
from clearppo.learning.optimiser import adamw, rate_scale
from clearppo.models.layout import lay_out
from clearppo.models.normalise import gain_and_bias
from clearppo.rollout.truncate import Truncation
from tests.golden.told import (
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


def test_G08_rewards_keep_their_mean_and_advantages_lose_it():
    i, e = case("G08")
    x = tensor(i["values"])
    assert i["eps"] == 1e-8
    for name, rewards, advantages in (
        ("lm-human-preferences", "whiten_shift_false_pop", "whiten_shift_true_pop"),
        ("trl", "whiten_shift_false_unbiased", None),
    ):
        config = recipe(name, kl_coef="1", kl_controller="fixed")
        rollout = rollout_of(everything(x), -x)  # with no score the reward is ref - old, which is x
        feedback = judged(config, rollout, torch.zeros(len(x)), torch.zeros_like(x), whiten_rewards=True)
        check(feedback.rewards, e[rewards])
        if advantages:
            plain = judged(config, rollout, torch.zeros(len(x)), torch.zeros_like(x), whiten_rewards=False)
            check(credited(config, rollout, plain, gamma=0.0, lam=0.0).advantages, e[advantages])


def test_G09_advantages_without_a_spread():
    i, e = case("G09")
    x = tensor(i["constant"])
    config = recipe("lm-human-preferences", kl_coef="1", kl_controller="fixed")
    rollout = rollout_of(everything(x), -x)
    feedback = judged(config, rollout, torch.zeros(len(x)), torch.zeros_like(x), whiten_rewards=True)
    check(feedback.rewards, e["constant_shift_false"])
    check(credited(config, rollout, feedback, gamma=0.0, lam=0.0).advantages, e["constant_shift_true"])


def test_G10_rewards_of_fixed_length():
    i, e = case("G10")
    config = recipe("lm-human-preferences")
    assert i["kl_coef"] == config.kl.kl_coef
    old = tensor(i["logprobs"])
    rollout = rollout_of(everything(old), old)
    feedback = judged(config, rollout, tensor(i["scores"]), tensor(i["ref_logprobs"]), whiten_rewards=False)
    check(feedback.kl, e["kl"])
    check(feedback.rewards, e["rewards"])


class Spelled:
    """A tokenizer whose tokens are numbers."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(str(token) for token in token_ids)


def test_G13_truncation_and_the_score_of_an_answer_without_it():
    i, e = case("G13")
    config = recipe("lm-human-preferences")
    responses = torch.tensor(i["responses"])
    mask = everything(responses)
    truncation = Truncation(token_id=i["truncate_token"], after=i["truncate_after"], tokenizer=Spelled())
    completions, reasons = truncation.read(responses, mask)
    assert [reason == "stop" for reason in reasons] == e["valid"]
    kept = [[token for token in row if token != i["padding_token"]] for row in e["postprocessed"]]
    assert [[int(token) for token in text.split()] for text in completions] == kept
    assert config.reward.missing_eos_score == i["penalty"]
    zeros = torch.zeros(responses.shape, dtype=torch.float64)
    rollout = rollout_of(mask, zeros, responses=responses, ended=[reason == "stop" for reason in reasons])
    feedback = judged(config, rollout, tensor(i["raw_scores"]), zeros, whiten_rewards=False)
    check(feedback.scores, e["scores"])
    check(feedback.rewards[:, -1], e["scores"])  # on the last of all 8 tokens, behind the cut


def test_G14_scores_of_mean_0_and_deviation_1():
    i, e = case("G14")
    assert reward_recipe("lm-human-preferences").rm.score_normalisation == "mean-std"
    raw = tensor(i["raw_rewards"])
    gain, bias = gain_and_bias(raw, "mean-std")
    check(tensor([gain, bias]), [e["gain"], e["bias"]])
    check(gain * raw + bias, e["normalized"])
    check(FixedMoments.of(raw).scaled(raw), e["normalized"])  # the same in PPO, of --score_scaling reference


def test_G17_positions_count_real_tokens():
    i, e = case("G17")
    tokens = torch.tensor(i["tokens"])
    real = tokens != i["padding_token"]  # the original's own rule, for making its case
    ahead = torch.ones((len(tokens), 1))  # the last response token is a condition for none: append one
    before = real[:, :3].sort(dim=1, stable=True)  # here prompts stand at the right end of their columns
    ids = tokens[:, :3].gather(1, before.indices)
    prompts = Prompts(ids=ids, mask=before.values, texts=("",) * len(tokens), columns={})
    responses, mask = torch.cat([tokens[:, 3:], ahead.long()], dim=1), torch.cat([real[:, 3:], ahead.bool()], dim=1)
    texts = lay_out(prompts, responses, mask.sort(dim=1, descending=True, stable=True).values)
    # Without gaps the positions are the columns, which is what models count by themselves.
    for row, positions in enumerate(torch.tensor(e["position_ids"])):
        columns = torch.arange(int(real[row].sum()))
        assert positions[real[row]].tolist() == columns.tolist()
        assert texts.ids[row, columns].tolist() == tokens[row][real[row]].tolist()
    assert masks.last_index(real).tolist() == e["rm_scored_index"]


@pytest.mark.parametrize(
    ("name", "expected", "tiny"),
    [("lm-human-preferences", "tf1_adam", "step_size_tiny_tf"), ("trl", "torch_adam", "step_size_tiny_torch")],
)
def test_G18_adam(name, expected, tiny):
    i, e = case("G18")
    optim = recipe(name, learning_rate=str(i["lr"]), adam_epsilon=str(i["eps"])).optim
    assert (optim.adam_beta1, optim.adam_beta2, optim.weight_decay) == (i["beta1"], i["beta2"], 0.0)

    def positions(gradients, decay=0.0):
        x = torch.nn.Parameter(torch.full((1, 1), i["x0"], dtype=torch.float64))
        optimiser = adamw(
            [x], learning_rate=optim.learning_rate, betas=(optim.adam_beta1, optim.adam_beta2), eps=optim.adam_epsilon,
            weight_decay=decay, style=optim.adam_style,
        )  # fmt: skip
        found = [x.item()]
        for gradient in gradients:
            x.grad = torch.full_like(x, gradient)
            optimiser.step()
            found.append(x.item())
        return found

    check(tensor(positions(i["grads"])[1:]), e[expected], rtol=1e-12)
    if name == "trl":
        check(tensor(positions(i["grads"], i["adamw_weight_decay"])[1:]), e["torch_adamw_wd0p01"], rtol=1e-12)
    steps = positions(i["tiny_grads"])
    # x stands near 1, so that a step of 3e-8 is known to eight digits only
    check(tensor([a - b for a, b in itertools.pairwise(steps)]), e[tiny], rtol=1e-7)


def scale_of(optim, update, n):
    return rate_scale(
        update, n, optim.lr_scheduler_type, optim.warmup_ratio, warmup_steps=optim.warmup_steps,
        warmup_start=optim.warmup_start, min_lr_ratio=optim.min_lr_ratio,
    )  # fmt: skip


def test_G19_schedules():
    i, e = case("G19")
    first = recipe("lm-human-preferences").optim
    n = i["lmhp"]["n_updates"]
    assert first.learning_rate == i["lmhp"]["lr"]
    check(tensor([first.learning_rate * scale_of(first, u, n) for u in range(n)]), e["lmhp_lr"])

    rm = reward_recipe("lm-human-preferences")
    assert (rm.optim.learning_rate, rm.run.batch_size) == (i["lmhp_rm"]["lr"], i["lmhp_rm"]["batch"])
    updates = [start // rm.run.batch_size for start in i["lmhp_rm"]["start_index"]]
    n = i["lmhp_rm"]["num_train"] // rm.run.batch_size
    check(tensor([rm.optim.learning_rate * scale_of(rm.optim, u, n) for u in updates]), e["lmhp_rm_lr"])

    gpt = recipe("instructgpt")
    assert (gpt.optim.warmup_steps, gpt.optim.warmup_start) == (
        i["instructgpt"]["warmup_iters"],
        i["instructgpt"]["start_fraction"],
    )
    expected = e["instructgpt_factor_linear_assumption"]
    check(tensor([scale_of(gpt.optim, u, gpt.num_iterations) for u in range(len(expected))]), expected)

    most = recipe("ppo-max")
    assert most.optim.warmup_steps == i["moss"]["warmup"]
    check(tensor([scale_of(most.optim, u, 5000) for u in i["moss"]["steps"]]), e["moss_factor"])

    chat = recipe("deepspeed-chat")
    assert (chat.optim.warmup_steps, chat.num_iterations) == (i["deepspeed"]["warmup"], i["deepspeed"]["total"])
    factors = [scale_of(chat.optim, u, chat.num_iterations) for u in i["deepspeed"]["steps"]]
    check(tensor(factors), e["deepspeed_cosine_factor"])


def test_G46_the_variance_explained_is_a_ratio_of_means():
    i, e = case("G46")
    stats = Stats.empty()
    for error in i["val_error_per_minibatch"]:
        stats += Stats(sums={"val/error": 10 * error}, counts={"val/error": 10.0})  # 10 tokens each
    variance = sum(i["returns_var_per_minibatch"]) / 4
    assert 1 - stats.mean("val/error") / variance == pytest.approx(e["var_explained"], rel=1e-12)


def test_G50_whitening_is_over_the_whole_batch():
    """The original whitens on each of its ranks; one process has the whole, whatever its micro-batches."""
    i, e = case("G50")
    x = tensor(i["values"])
    config = recipe("lm-human-preferences", kl_coef="1", kl_controller="fixed")
    rollout = rollout_of(everything(x), -x)
    feedback = judged(config, rollout, torch.zeros(len(x)), torch.zeros_like(x), whiten_rewards=False)
    check(credited(config, rollout, feedback, gamma=0.0, lam=0.0).advantages, e["global_"])
