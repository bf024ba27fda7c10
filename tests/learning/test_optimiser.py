"""Adam's two forms, learning rates, and parameter groups; golden cases G18 and G19."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from clearppo.learning.optimiser import TFAdam, adamw, rate_scale, set_rate

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.json"
CASES = {case["id"]: case for case in json.loads(GOLDEN.read_text())["cases"]}


def one(x: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([[x]], dtype=torch.float64))


def walk(optimiser: torch.optim.Optimizer, x: nn.Parameter, gradients: list[float]) -> list[float]:
    """Where x is after each step."""
    places = []
    for g in gradients:
        x.grad = torch.tensor([[g]], dtype=torch.float64)
        optimiser.step()
        places.append(x.item())
    return places


def by_hand(x: float, gradients: list[float], *, lr: float, betas: tuple[float, float], eps: float, wd: float):
    """TensorFlow 1's ApplyAdam after AdamW's decay, number by number."""
    m = v = 0.0
    places = []
    for t, g in enumerate(gradients, start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        x -= lr * wd * x
        x -= lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m / (math.sqrt(v) + eps)
        places.append(x)
    return places


@pytest.mark.parametrize(
    ("style", "decay", "expected"),
    [("tf", 0.0, "tf1_adam"), ("torch", 0.0, "torch_adam"), ("torch", 0.01, "torch_adamw_wd0p01")],
)
def test_G18_adam_of_tensorflow_and_of_torch(style: str, decay: float, expected: str) -> None:
    given, told = CASES["G18"]["inputs"], CASES["G18"]["expected"]
    x = one(given["x0"])
    optimiser = adamw(
        [x], learning_rate=given["lr"], betas=(given["beta1"], given["beta2"]), eps=given["eps"], weight_decay=decay,
        style=style,
    )  # fmt: skip
    assert walk(optimiser, x, given["grads"]) == pytest.approx(told[expected], rel=1e-12, abs=1e-12)


def test_G18_tiny_gradients_take_far_smaller_steps_in_tensorflows_form() -> None:
    given, told = CASES["G18"]["inputs"], CASES["G18"]["expected"]
    steps = {}
    for style in ("tf", "torch"):
        x = one(0.0)
        optimiser = adamw([x], learning_rate=given["lr"], betas=(given["beta1"], given["beta2"]), eps=given["eps"],
                          style=style)  # fmt: skip
        places = [0.0, *walk(optimiser, x, given["tiny_grads"])]
        steps[style] = [before - after for before, after in pairwise(places)]
        assert steps[style] == pytest.approx(told[f"step_size_tiny_{style}"], rel=1e-9)
    assert steps["torch"][0] / steps["tf"][0] == pytest.approx(told["ratio_first_step"], rel=1e-9)


def test_tensorflows_form_with_decay_over_many_steps() -> None:
    gradients = torch.randn(200, dtype=torch.float64).tolist()
    numbers = {"lr": 0.01, "betas": (0.8, 0.97), "eps": 1e-3}
    x = one(2.0)
    found = walk(TFAdam([x], **numbers, weight_decay=0.1), x, gradients)
    assert found == pytest.approx(by_hand(2.0, gradients, **numbers, wd=0.1), rel=1e-12)


def test_a_parameter_without_a_gradient_stays_and_keeps_its_own_count_of_steps() -> None:
    numbers = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-5}
    x, late = one(1.0), one(1.0)
    optimiser = TFAdam([x, late], **numbers, weight_decay=0.1)
    walk(optimiser, x, [0.3, 0.2])
    assert late.item() == 1.0
    x.grad = None
    assert walk(optimiser, late, [0.5]) == pytest.approx(by_hand(1.0, [0.5], **numbers, wd=0.1), rel=1e-12)


def test_tensorflows_form_goes_on_from_a_saved_state() -> None:
    x, y = one(1.0), one(1.0)
    whole = walk(TFAdam([x], lr=0.1), x, [0.5, -0.2, 0.1])
    first = TFAdam([y], lr=0.1)
    walk(first, y, [0.5])
    second = TFAdam([y], lr=0.1)
    second.load_state_dict(first.state_dict())
    assert walk(second, y, [-0.2, 0.1]) == whole[1:]


def test_groups_keep_their_own_peak_and_eps_and_decay_matrices_only() -> None:
    actor, critic = nn.Linear(3, 3), nn.Linear(3, 1, bias=False)
    for style, kind in (("torch", torch.optim.AdamW), ("tf", TFAdam)):
        optimiser = adamw(
            list(actor.parameters()), list(critic.parameters()), learning_rate=1.0, critic_learning_rate=2.0,
            eps=1e-6, critic_eps=1e-8, weight_decay=0.1, style=style,
        )  # fmt: skip
        assert isinstance(optimiser, kind)
        assert set_rate(optimiser, 0.5) == 0.5
        assert [(group["lr"], group["eps"], group["weight_decay"]) for group in optimiser.param_groups] == [
            (0.5, 1e-6, 0.1), (0.5, 1e-6, 0.0), (1.0, 1e-8, 0.1),
        ]  # fmt: skip


def test_an_optimiser_without_a_critic() -> None:
    optimiser = adamw([one(1.0)], learning_rate=1.0, critic_learning_rate=7.0)
    assert [group["lr"] for group in optimiser.param_groups] == [1.0]
    assert set_rate(optimiser, 0.25) == 0.25


# ------------------------------------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 0.0, [1, 0.5 + math.cos(math.pi / 4) / 2, 0.5, 0.5 - math.cos(math.pi / 4) / 2]),
        ("inverse_sqrt", 0.5, [1 / 3, 2 / 3, 1, math.sqrt(2 / 3)]),
        ("inverse_sqrt", 0.0, [1, 1, math.sqrt(1 / 2), math.sqrt(1 / 3)]),
    ],
)
def test_learning_rates(schedule: str, warmup: float, expected: list[float]) -> None:
    assert [rate_scale(u, 4, schedule, warmup) for u in range(4)] == pytest.approx(expected)


def test_G19_lm_human_preferences() -> None:
    given, told = CASES["G19"]["inputs"], CASES["G19"]["expected"]
    n = given["lmhp"]["n_updates"]
    rates = [given["lmhp"]["lr"] * rate_scale(u, n, "linear") for u in range(n)]
    assert rates == pytest.approx(told["lmhp_lr"], rel=1e-12)
    rm = given["lmhp_rm"]
    steps = [start // rm["batch"] for start in rm["start_index"]]
    rates = [rm["lr"] * rate_scale(u, rm["num_train"] // rm["batch"], "linear") for u in steps]
    assert rates == pytest.approx(told["lmhp_rm_lr"], rel=1e-12)


def test_G19_instructgpt() -> None:
    given, told = (
        CASES["G19"]["inputs"]["instructgpt"],
        CASES["G19"]["expected"]["instructgpt_factor_linear_assumption"],
    )
    warm = {"warmup_steps": given["warmup_iters"], "warmup_start": given["start_fraction"]}
    assert [rate_scale(u, 500, "constant", **warm) for u in range(12)] == pytest.approx(told, rel=1e-12)


def test_G19_ppo_max() -> None:
    given, told = CASES["G19"]["inputs"]["moss"], CASES["G19"]["expected"]["moss_factor"]
    shape = {"warmup_steps": given["warmup"], "min_lr_ratio": 0.1}
    assert [rate_scale(u, 5000, "inverse_sqrt", **shape) for u in given["steps"]] == pytest.approx(told, rel=1e-12)
    assert rate_scale(20_000, 50_000, "inverse_sqrt", **shape) == 0.1


def test_G19_deepspeed_chat() -> None:
    given, told = CASES["G19"]["inputs"]["deepspeed"], CASES["G19"]["expected"]["deepspeed_cosine_factor"]
    factors = [rate_scale(u, given["total"], "cosine", warmup_steps=given["warmup"]) for u in given["steps"]]
    assert factors == pytest.approx(told, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_lowest_rate_is_where_the_schedule_ends(schedule: str) -> None:
    factors = [rate_scale(u, 100, schedule, min_lr_ratio=0.1) for u in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


def test_a_warm_up_by_ratio_begins_where_it_is_told() -> None:
    factors = [rate_scale(u, 10, "constant", 0.4, warmup_start=0.2) for u in range(6)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_warm_up_that_outlasts_the_run_only_climbs() -> None:
    assert [rate_scale(u, 3, "linear", warmup_steps=6) for u in range(3)] == pytest.approx([0, 1 / 6, 1 / 3])
