"""Layers of Llama and its kin by our own functions: transformers' numbers and gradients, from less memory."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from clearppo.models import fused
from clearppo.models.fused_layers import fuse_layers, unfuse_layers
from clearppo.models.loading import load_causal_lm
from tests.tiny import tiny_causal_lm

KIN = ("llama", "qwen2", "qwen3", "mistral")
TEXTS = torch.tensor([[5, 9, 40, 7, 11, 3, 2], [8, 8, 21, 60, 4, 33, 90]])


def run(model: Any, *, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the gradients of a loss on them, by name."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=TEXTS, use_cache=False).logits.float()
    (logits.log_softmax(-1) * torch.linspace(-1, 1, logits.shape[-1])).mean().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def adapted(model: Any, **more: Any) -> Any:
    """With adapters that do something from the start."""
    wrapped = get_peft_model(
        model, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", **more), autocast_adapter_dtype=False
    )
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Any]:
    def make(family: str, **sizes: int) -> Any:
        own = {"num_key_value_heads": 2, "head_dim": 16} if family == "qwen3" else {}
        return load_causal_lm(tiny_causal_lm(tmp_path, family=family, **own, **sizes))

    return make


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", KIN)
def test_float32_logits_and_gradients_are_those_of_transformers(
    family: str, lora: bool, attention: str, tiny: Callable[..., Any]
) -> None:
    model = tiny(family)
    model.set_attn_implementation(attention)
    whole = adapted(model) if lora else model
    logits, gradients = run(whole)
    assert fuse_layers(model)
    found, slopes = run(whole)
    assert not torch.equal(found, torch.zeros_like(found))
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    assert slopes.keys() == gradients.keys()
    assert len(slopes) == 2 * 14 if lora else len(slopes) > 2 * 9
    for name, slope in gradients.items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", KIN)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(family: str, lora: bool, tiny: Callable[..., Any]) -> None:
    model = tiny(family)
    whole = adapted(model) if lora else model
    exact, exact_slopes = run(whole)
    theirs, their_slopes = run(whole, autocast=True)
    fuse_layers(model)
    ours, our_slopes = run(whole, autocast=True)
    assert not torch.equal(ours, exact)  # it is in bfloat16
    assert distance(ours, exact) < 1.3 * distance(theirs, exact)
    errors = [
        [distance(slopes[name], slope) for name, slope in exact_slopes.items()] for slopes in (our_slopes, their_slopes)
    ]
    mean_ours, mean_theirs = (sum(error) / len(error) for error in errors)
    assert mean_ours < 0.05
    assert mean_ours < 1.3 * mean_theirs


def test_adapters_that_are_off_are_off_and_two_add_up(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    plain, _ = run(model)
    whole = adapted(model)
    whole.add_adapter("other", LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in whole.named_parameters():
        if "lora_B.other" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    whole.base_model.set_adapter(["default", "other"])
    expected = run(whole)[0]
    fuse_layers(model)
    found = run(whole)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with whole.disable_adapter(), torch.no_grad():
        off = model(input_ids=TEXTS, use_cache=False).logits
    torch.testing.assert_close(off, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, off, atol=1e-3)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}])
def test_adapters_that_are_more_than_a_product_go_their_own_way(more: dict[str, Any], tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    whole = adapted(model, **more).eval()
    expected = run(whole)[0]
    fuse_layers(model)
    torch.testing.assert_close(run(whole)[0], expected, rtol=1e-5, atol=1e-5)
    if "lora_dropout" in more:  # in training it draws
        whole.train()
        assert not torch.equal(run(whole)[0], run(whole)[0])


def test_what_is_not_known_stays_transformers(tiny: Callable[..., Any]) -> None:
    assert not fuse_layers(tiny("gpt2"))
    model = tiny("llama").double()
    expected = run(model)[0]
    fuse_layers(model)
    assert torch.equal(run(model)[0], expected)  # float64 is nobody's speed; it is the measure of all others


def test_with_a_cache_it_generates_as_ever_and_copies_are_independent(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(TEXTS, **options)
    fuse_layers(model)
    assert torch.equal(model.generate(TEXTS, **options), expected)
    copy = deepcopy(model)
    before = run(model)[0]
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(2.0)
    assert torch.equal(run(model)[0], before)
    assert not torch.equal(run(copy)[0], before)
    unfuse_layers(model)
    torch.testing.assert_close(run(model)[0], before, rtol=1e-5, atol=1e-5)


def test_about_half_is_kept_for_the_backward_pass(tiny: Callable[..., Any]) -> None:
    model = tiny("llama", hidden_size=96, num_attention_heads=4, intermediate_size=256)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept() -> int:
        seen = dict[int, int]()

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in parameters:
                seen[storage.data_ptr()] = storage.nbytes()
            return x

        texts = TEXTS.repeat(16, 1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", dtype=torch.bfloat16):
            states = model.model(input_ids=texts, use_cache=False).last_hidden_state
        del states
        return sum(seen.values())

    theirs = kept()
    fuse_layers(model)
    assert kept() < 0.6 * theirs


def test_frozen_weights_get_no_gradient_and_inputs_do() -> None:
    torch.manual_seed(0)
    weights = [fused.Weight(torch.randn(n, 6, requires_grad=n == 4), torch.randn(n)) for n in (4, 3)]
    x = torch.randn(2, 5, 6, requires_grad=True)
    y = fused.joint_linear(x, weights)
    expected = torch.cat([torch.nn.functional.linear(x, w.full, w.bias) for w in weights], dim=-1)
    torch.testing.assert_close(y, expected)
    slope = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, weights[0].full), slope)
    for ours, theirs in zip(found, torch.autograd.grad(expected, (x, weights[0].full), slope), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(fused.joint_linear(x.detach(), weights[1:]).sum(), weights[1].full)
