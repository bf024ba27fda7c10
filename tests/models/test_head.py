"""What is read through a head: the same by the fused way, through adapters and rules, and beside another head."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clearppo.core import head as core
from clearppo.core.kl import full_kl
from clearppo.core.logprobs import log_probs_and_entropy
from clearppo.models.build import Lora, make_policy, make_reference
from clearppo.models.head import Head
from clearppo.models.layout import lay_out
from clearppo.models.loading import load_causal_lm
from tests.models.test_actor import LENGTHS, ragged
from tests.tiny import tiny_causal_lm

TOKENS = torch.tensor([3, 0, 9, 9, 4, 1, 7])


def capped(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x / 2) * 2


class Wrapped(nn.Module):
    """As a LoRA layer: it is a linear layer, but not only."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 10, dtype=torch.float64)
        self.weight = self.base_layer.weight
        self.more = nn.Parameter(torch.randn(10, 4, dtype=torch.float64))

    def get_base_layer(self) -> nn.Module:
        return self.base_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x @ self.more.T


def heads() -> list[Head]:
    torch.manual_seed(0)
    linear = nn.Linear(4, 10, dtype=torch.float64)
    return [
        Head(linear),
        Head(nn.Linear(4, 10, bias=False, dtype=torch.float64)),
        Head(linear, capped),
        Head(Wrapped()),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_head_equals_its_logits(number: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs, entropy and the KL from another head, with gradients; in groups of two rows."""
    monkeypatch.setattr(Head, "_rows", lambda *_: 2)
    head, other = heads()[number], heads()[3]
    assert head.is_plain == (number < 2)
    hidden, theirs = (torch.randn(7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    parameters = [hidden, *{id(p): p for p in head.layer.parameters()}.values()]
    log_probs, entropy = head.log_probs_and_entropy(hidden, TOKENS, temperature)
    kl = head.full_kl(hidden, other, theirs, temperature)
    logits = head.logits(hidden)
    plain = (
        *log_probs_and_entropy(logits, TOKENS, temperature),
        full_kl(logits, other.logits(theirs).detach(), temperature),
    )
    for found, expected in zip((log_probs, entropy, kl), plain, strict=True):
        torch.testing.assert_close(found, expected)
        of_found = torch.autograd.grad(found.square().sum(), parameters, retain_graph=True)
        for f, e in zip(
            of_found, torch.autograd.grad(expected.square().sum(), parameters, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(f, e)
    assert torch.autograd.grad(kl.sum(), theirs, allow_unused=True) == (None,)  # the other one never learns
    torch.testing.assert_close(head.log_probs(hidden, TOKENS, temperature), plain[0])


def test_the_bare_head_has_no_adapter() -> None:
    wrapped = heads()[3]
    assert wrapped.bare.is_plain
    assert wrapped.bare.layer is wrapped.layer.base_layer
    assert heads()[0].bare.is_plain


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "lm_head"]])
def test_full_kl_and_its_gradient_with_adapters(tmp_path: Path, modules: Any) -> None:
    """Against whole logits of a policy and of its base alone; adapters on the head as well."""
    path = tiny_causal_lm(tmp_path, tie_word_embeddings=False)
    lora = Lora(r=4, alpha=8, target_modules=modules)
    policy = make_policy(load_causal_lm(path, dtype=torch.float64), lora=lora)
    with torch.no_grad():
        for name, parameter in policy.trainable():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    assert policy.actor.head.is_plain == (modules == "all-linear")
    batch, base = ragged(*LENGTHS), load_causal_lm(path, dtype=torch.float64)
    reference = make_reference(policy, micro_batch_size=2)
    analysis, kl = policy.read_with_kl(lay_out(*batch), reference, temperature=0.8)
    weights = torch.arange(1.0, 1 + kl.numel(), dtype=torch.float64).view(kl.shape)
    learning = [p for _, p in policy.trainable() if p is not policy.critic.score.weight]
    loss = (kl * weights).sum() + analysis.log_probs.sum()
    found = torch.autograd.grad(loss, learning)

    prompts, responses, mask = batch
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(len(responses)):
        prompt, response = prompts.ids[i][prompts.mask[i]], responses[i][mask[i]]
        ids, start = torch.cat([prompt, response])[None], len(prompt) - 1
        live = (policy.actor.causal_lm(ids).logits[0, start:-1] / 0.8).log_softmax(-1)
        with torch.no_grad():
            frozen = (base(ids).logits[0, start:-1] / 0.8).log_softmax(-1)
        distance = (live.exp() * (live - frozen)).sum(-1)
        torch.testing.assert_close(kl[i][mask[i]], distance, atol=1e-9, rtol=1e-6)
        picked = live.gather(1, response.unsqueeze(1)).sum()
        expected = expected + (distance * weights[i][mask[i]]).sum() + picked
    for f, e in zip(found, torch.autograd.grad(expected, learning), strict=True):
        torch.testing.assert_close(f, e, atol=1e-8, rtol=1e-6)
    assert (kl[~mask] == 0).all()
    assert float(kl.detach().max()) > 0.01


def test_the_logits_of_all_tokens_are_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the policy nor of the reference: no tensor of N rows by V columns is made."""
    monkeypatch.setitem(core.TILE, "cpu", 2**8)
    monkeypatch.setattr(core, "KEPT_BYTES", 0)
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, intermediate_size=16)))
    reference = make_reference(policy, micro_batch_size=8)
    prompts, responses, mask = ragged((3,) * 8, (12,) * 8)
    n, v = int(mask.sum()), policy.actor.causal_lm.config.vocab_size
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        analysis, kl = policy.read_with_kl(lay_out(prompts, responses, mask), reference, temperature=1.0)
        (analysis.log_probs.sum() + analysis.entropy.sum() + kl.sum()).backward()
    largest = max(e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    assert largest < n * v * 4 / 2


def test_a_copied_actor_has_a_head_of_its_own(tmp_path: Path) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path)))
    copy = deepcopy(policy.actor)
    assert copy.head.layer is not policy.actor.head.layer
    assert copy.head.is_plain
