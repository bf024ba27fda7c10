"""The running average of weights: goldens G24 and G39, what it leaves alone, and what is saved."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from clearppo.models.build import Lora, make_policy
from clearppo.models.ema import EMA
from clearppo.models.loading import load_causal_lm
from tests.tiny import tiny_causal_lm

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.json"
CASES = {case["id"]: case for case in json.loads(GOLDEN.read_text())["cases"]}


@pytest.mark.parametrize(
    ("number", "names", "expected"),
    [
        ("G24", ("ema_init", "weights", "ema_decay"), "ema"),
        ("G39", ("ema_init", "actor_weights", "beta"), "weight_ema"),
    ],
)
def test_goldens(number: str, names: tuple[str, str, str], expected: str) -> None:
    given = CASES[number]["inputs"]
    first, weights, decay = (given[name] for name in names)
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(module.weight, first)
    ema, found = EMA(module, decay), []
    for weight in weights:
        nn.init.constant_(module.weight, weight)
        ema.update()
        found.append(ema.weights["weight"].item())
    assert found == pytest.approx(CASES[number]["expected"][expected], rel=1e-9)


def test_it_is_put_in_for_saving_and_taken_out_again_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    own, ema = [p.detach().clone() for p in module.parameters()], EMA(module, 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    ema.update()

    def save() -> None:
        with ema.applied():
            for parameter, start in zip(module.parameters(), own, strict=True):
                torch.testing.assert_close(parameter.detach(), start + 0.5)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        save()
    for parameter, start in zip(module.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.detach(), start + 1)
        assert parameter.requires_grad


def test_without_a_decay_nothing_is_kept() -> None:
    module = nn.Linear(2, 2)
    ema, before = EMA(module, None), module.weight.detach().clone()
    ema.update()
    assert ema.weights == {}
    with ema.applied():
        assert torch.equal(module.weight, before)


def test_a_bfloat16_weight_has_its_average_in_float32() -> None:
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.constant_(module.weight, 1.0)
    ema = EMA(module, 0.992)
    nn.init.constant_(module.weight, 1.125)
    for _ in range(10):  # each step is too small for bfloat16
        ema.update()
    assert ema.weights["weight"].item() == pytest.approx(1.125 - 0.125 * 0.992**10, rel=1e-5)
    with ema.applied():
        assert module.weight.dtype == torch.bfloat16
        assert module.weight.item() == pytest.approx(1.0078125)


def test_with_adapters_only_they_are_averaged(tmp_path: Path) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path)), lora=Lora(r=2, alpha=4, target_modules="all-linear"))
    ema = EMA(policy.actor, 0.9)
    assert ema.weights
    assert all("lora_" in name for name in ema.weights)


def test_tied_weights_are_averaged_once(tmp_path: Path) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, tie_word_embeddings=True)))
    model, ema = policy.actor.causal_lm, EMA(policy.actor, 0.75)
    before = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1)
    ema.update()
    with ema.applied():
        torch.testing.assert_close(model.get_output_embeddings().weight.detach(), before + 0.25)
