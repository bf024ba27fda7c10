"""How many tokens a micro-batch may hold, from what a token takes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from clearppo.models.build import prepare_network
from clearppo.models.fused_layers import fuse_layers
from clearppo.models.loading import load_causal_lm
from clearppo.models.memory import MOST, saved_bytes, token_budget
from tests.tiny import FAMILIES, tiny_causal_lm


def measured(model: nn.Module, tokens: int) -> int:
    """Bytes that the backward pass of the backbone keeps, each storage once, the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    ids = torch.arange(tokens)[None] % 50 + 5
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = getattr(model, model.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_is_about_what_is_kept(tmp_path: Path, family: str) -> None:
    """Within a factor of two for every family; half of the memory is left for what is not counted."""
    sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    if family != "gpt2":
        sizes["intermediate_size"] = 256
    model = load_causal_lm(tiny_causal_lm(tmp_path, family=family, context=256, **sizes))
    per_token = (measured(model, 200) - measured(model, 100)) / 100
    assert 0.5 < per_token / saved_bytes(model) < 2.0
    before = saved_bytes(model)
    if fuse_layers(model):
        assert saved_bytes(model) < 0.7 * before
        assert 0.5 < (measured(model, 200) - measured(model, 100)) / 100 / saved_bytes(model) < 2.0


def test_checkpointing_keeps_less(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path, num_hidden_layers=8))
    whole = saved_bytes(model)
    prepare_network(model, gradient_checkpointing=True)
    assert saved_bytes(model) < whole / 4


def test_budgets_by_hand(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path))  # llama: 2 layers of 32, 48 between
    a_token = 2 * (10 * 32 + 4 * 48) * 4
    assert saved_bytes(model) == a_token
    assert saved_bytes(model.double()) == 2 * a_token
    model.float()
    none: list[nn.Parameter] = []
    assert token_budget([model], none, 2 * 1000 * a_token) == 512  # half of it holds 1000: the power of two below
    assert token_budget([model, model], none, 2 * 1000 * a_token) == 256
    assert token_budget([model], none, 10**15) == token_budget([model], none, 10**12) == MOST
    learned = list(model.parameters())
    adam = 3 * sum(4 * p.numel() for p in learned)
    assert token_budget([model], learned, adam + 2 * 1024 * a_token) == 1024
    assert token_budget([model], learned, adam + 2 * 1024 * a_token - 8) == 512
    model.requires_grad_(False)
    assert token_budget([model], learned, 2 * 1024 * a_token) == 1024  # what does not learn needs no gradient
    assert token_budget([model], none, 100) == token_budget([model.requires_grad_(True)], learned, 100) == 1


def test_a_width_for_each_layer(tmp_path: Path) -> None:
    """As Gemma 3n has it: the widest counts."""
    model = load_causal_lm(tiny_causal_lm(tmp_path))
    one = saved_bytes(model)
    model.config.__dict__["intermediate_size"] = [8, model.config.intermediate_size]  # Llama's own must be one number
    assert saved_bytes(model) == one
