"""Networks whose linear layers are bfloat16 beforehand compute, bit for bit, what autocast computes."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clearppo.batch import Rollout
from clearppo.models.actor import Actor
from clearppo.models.build import make_policy, make_reference
from clearppo.models.lean import lean_copy, round_linear_layers
from clearppo.models.loading import load_causal_lm
from clearppo.models.policy import FrozenReference
from clearppo.models.reward_model import RewardModel, load_classifier
from tests.models.test_actor import LENGTHS, ragged
from tests.tiny import FAMILIES, tiny_causal_lm, tiny_reward_model


def n_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def rollout_of(batch: Any) -> Rollout:
    prompts, responses, mask = batch
    zeros = torch.zeros(mask.shape)
    return Rollout(
        prompts=prompts, responses=responses, mask=mask, old_log_probs=zeros, old_values=zeros, sampler_log_probs=zeros,
        finish_reasons=("stop",) * len(mask), completions=("",) * len(mask), temperature=0.9, policy_version=0,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_reference_of_an_autocast_policy(tmp_path: Path, family: str, tied: bool) -> None:
    """The same bits as of an exact copy: log-probs, and the full KL from a policy that has moved."""
    policy = make_policy(
        load_causal_lm(tiny_causal_lm(tmp_path, family=family, tie_word_embeddings=tied)), autocast=True
    )
    exact = FrozenReference(deepcopy(policy.actor), policy=policy, micro_batch_size=2)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    lean = make_reference(policy, micro_batch_size=2)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())
    rollout = rollout_of(ragged(*LENGTHS))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert torch.equal(lean.log_probs(rollout), exact.log_probs(rollout))
    assert torch.equal(lean.full_kl(rollout), exact.full_kl(rollout))
    assert float(exact.full_kl(rollout).max()) > 0.001
    head = lean.actor.causal_lm.get_output_embeddings().weight
    embedding = lean.actor.causal_lm.get_input_embeddings().weight
    assert (head.dtype, embedding.dtype) == (torch.bfloat16, torch.float32)
    assert not any(parameter.requires_grad for parameter in lean.actor.parameters())
    assert not lean.actor.training
    own = {id(p) for p in policy.parameters()}
    assert not any(id(p) in own for p in lean.actor.parameters())
    if not tied:
        assert n_bytes(lean.actor) < 0.8 * n_bytes(policy.actor)  # tiny models are mostly embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_autocast_it_is_an_exact_copy(tmp_path: Path, dtype: torch.dtype) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path), dtype=dtype))
    copy = lean_copy(policy.actor)
    for (name, own), other in zip(policy.actor.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(own, other), name
        assert own.dtype == other.dtype
        assert own is not other
        assert not other.requires_grad


def test_a_model_that_reads_its_weights_in_another_way_gets_an_exact_copy(tmp_path: Path) -> None:
    """Here a layer that computes in float32, whatever autocast says."""

    class Careful(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.to(self.weight.dtype)).to(torch.float32)

    model = load_causal_lm(tiny_causal_lm(tmp_path))
    model.model.layers[0].mlp.down_proj.__class__ = Careful
    copy = lean_copy(Actor(model, autocast=True))
    assert {p.dtype for p in copy.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_keeps_its_scores(tmp_path: Path, family: str) -> None:
    path = tiny_reward_model(tmp_path, family=family)
    exact, rounded = load_classifier(path), load_classifier(path)
    rounded.requires_grad_(False)
    round_linear_layers(rounded, but=rounded.score)
    ids, lengths = torch.randint(5, 100, (4, 9)), torch.tensor([9, 4, 1, 6])
    with torch.no_grad():
        scores = RewardModel(exact, autocast=True).scores(ids, lengths)
        assert torch.equal(RewardModel(rounded, autocast=True).scores(ids, lengths), scores)
    assert rounded.score.weight.dtype == torch.float32
    assert n_bytes(rounded) < n_bytes(exact)
