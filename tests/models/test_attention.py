"""Attention by products of matrices against torch's own, in values and gradients; when which of them is taken."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from clearppo.models import attention
from clearppo.models.actor import Actor
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.saving import save_actor
from tests.models.test_actor import LENGTHS, ragged
from tests.tiny import FAMILIES, tiny_causal_lm


def inputs(L: int, n_heads: int = 6, n_groups: int = 2, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(L)
    shapes = [(2, n, L, 16) for n in (n_heads, n_groups, n_groups)]
    return [torch.randn(s, generator=generator).mul(2).to(dtype).requires_grad_() for s in shapes]


def layer(n_heads: int = 6, n_groups: int = 2) -> Any:
    return SimpleNamespace(is_causal=True, num_key_value_groups=n_heads // n_groups)


def by_hand(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Token by token, in float64."""
    B, n_heads, L, _ = query.shape
    share = n_heads // key.shape[1]
    rows = []
    for b in range(B):
        for t in range(L):
            for h in range(n_heads):
                k, v = key[b, h // share, : t + 1], value[b, h // share, : t + 1]
                rows.append((k @ query[b, h, t] * scale).softmax(0) @ v)
    return torch.stack(rows).view(B, L, n_heads, -1)


@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_causal_attention(heads: tuple[int, int], scaling: float | None) -> None:
    """As near to float64 as torch's own, in the values and in each gradient."""
    given = inputs(7, *heads)
    wide = [x.detach().double().requires_grad_() for x in given]
    expected = by_hand(*wide, 0.25 if scaling is None else scaling)
    slope = torch.randn(expected.shape, dtype=torch.float64)
    of_expected = torch.autograd.grad(expected, wide, slope)
    errors = []
    for ours in (True, False):
        if ours:
            out, nothing = attention.attention(layer(*heads), *given, None, scaling=scaling)
            assert nothing is None
        else:
            with attention.torchs_own():
                out, _ = attention.attention(layer(*heads), *given, None, scaling=scaling)
        assert out.shape == expected.shape
        assert out.dtype == torch.bfloat16
        found = (out, *torch.autograd.grad(out, given, slope.bfloat16()))
        pairs = zip(found, (expected, *of_expected), strict=True)
        errors.append([float(((f.double() - e).norm() / e.norm()).detach()) for f, e in pairs])
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 0.01
        assert ours < 1.5 * theirs


def test_under_autocast_queries_and_keys_come_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the rotary positions leave them; they are rounded as torch rounds them."""
    query, key, value = inputs(9)
    plain, _ = attention.attention(layer(), query, key, value, None)
    seen = spy(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = attention.attention(layer(), query.float(), key.float(), value, None)
    assert torch.equal(mixed, plain)
    assert len(seen) == 1


def spy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that go our way from now on."""
    seen = []
    real = attention.causal_products
    monkeypatch.setattr(attention, "causal_products", lambda q, *rest: seen.append(q.shape[2]) or real(q, *rest))
    return seen


@pytest.mark.parametrize(
    ("change", "ours"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"dtype": torch.float64}, False),
        ({"L": attention.LONGEST + 1}, False),
        ({"L": 1}, False),
        ({"attention_mask": torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()}, False),
        ({"is_causal": False}, False),
        ({"position_bias": torch.zeros(1, 6, 7, 7)}, False),
        ({"position_ids": torch.arange(7)[None], "use_cache": False, "sliding_window": 100}, True),
    ],
)
def test_when_it_is_taken(change: dict[str, Any], ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch)
    given = inputs(change.pop("L", 7), dtype=change.pop("dtype", torch.bfloat16))
    mask = change.pop("attention_mask", None)
    out, _ = attention.attention(layer(), *given, mask, **change)
    assert (len(seen) == 1) == ours
    assert out.shape == (2, given[0].shape[2], 6, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_in_autocast_takes_it(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probs and gradients are as near to those in float32 as with torch's own attention."""
    path, batch = tiny_causal_lm(tmp_path, family=family), ragged(*LENGTHS)
    seen, found = spy(monkeypatch), []
    for autocast, ours in ((False, True), (True, True), (True, False)):
        policy = make_policy(load_causal_lm(path), autocast=autocast)
        seen.clear()  # of the probes
        with attention.torchs_own() if not ours else torch.enable_grad():
            log_probs = policy.analyze(*batch, temperature=1.0).log_probs
            # Mistral sees 8 tokens back here, and its texts are longer: then transformers makes a mask.
            assert (len(seen) == 2) == (autocast and ours and family != "mistral")
            log_probs.sum().backward()
        slopes = torch.cat([p.grad.flatten() for p in policy.actor.parameters() if p.grad is not None])
        found.append((log_probs.detach(), slopes))
    exact, mixed, theirs = found
    for e, m, t in zip(exact, mixed, theirs, strict=True):
        error = (m - e).norm() / e.norm()
        assert 0 < float(error) < 0.05
        assert float(error) < 1.5 * float((t - e).norm() / e.norm())


def test_nothing_of_it_is_saved(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path / "start")
    policy = make_policy(load_causal_lm(path), autocast=True)
    assert policy.actor.causal_lm.config._attn_implementation == attention.NAME
    save_actor(policy.actor, load_tokenizer(path), tmp_path / "end")
    assert attention.NAME not in json.dumps(json.loads((tmp_path / "end" / "config.json").read_text()))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "end").config._attn_implementation == "sdpa"


def test_what_the_user_chose_stays(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    eager = load_causal_lm(path, attn_implementation="eager")
    assert Actor(eager, autocast=True).causal_lm.config._attn_implementation == "eager"
    assert Actor(load_causal_lm(path)).causal_lm.config._attn_implementation == "sdpa"


def test_an_architecture_that_asks_for_the_name_keeps_it(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path))
    forward = model.model.forward

    def asks(**kwargs: Any) -> Any:
        out = forward(**kwargs)
        if model.config._attn_implementation != "sdpa":
            out.last_hidden_state = out.last_hidden_state + 1e-3
        return out

    model.model.forward = asks
    actor = Actor(model, autocast=True)
    assert actor.causal_lm.config._attn_implementation == "sdpa"
