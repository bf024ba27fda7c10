"""Policies with frozen lower layers: everything is as if the same weights were frozen and nothing was kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel

from clearppo.engines.local import LocalEngine
from clearppo.errors import ConfigError, ModelError
from clearppo.learning import Objective, Passes, learn
from clearppo.learning.optimiser import adamw
from clearppo.models.build import Lora, load_critic, make_actor, make_policy, make_reference
from clearppo.models.frozen_layers import Freeze
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.models.saving import save_actor, save_critic
from tests.learning.test_learn import Recorder, experience
from tests.models.test_actor import LENGTHS, one_by_one, ragged
from tests.models.test_frozen_layers import Counted, layers_of
from tests.models.test_sequence_log_probs import texts
from tests.tiny import FAMILIES, tiny_causal_lm

FREEZE = Freeze(layers=2, rows=6)
LORA = Lora(r=4, alpha=8, target_modules="all-linear")


def start_of(path: Path, family: str = "llama", **more: Any) -> str:
    return tiny_causal_lm(path, family=family, num_hidden_layers=3, **more)


def policy_from(
    start: str,
    critic: str = "shared",
    *,
    freeze: Freeze | None = FREEZE,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> Policy:
    """A policy whose critic says something, and whose adapters (if any) do."""
    torch.manual_seed(0)  # adapters begin at random
    separate = load_critic(start, load_tokenizer(start), dtype=dtype) if critic == "separate" else None
    policy = make_policy(load_causal_lm(start, dtype=dtype), separate_critic=separate, freeze=freeze, **more)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in policy.trainable():
            if "lora_" in name or "score" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return policy


def plain(policy: Policy) -> Policy:
    """The same without anything kept: its weights stay frozen, its backbones run whole."""
    policy.actor.frozen = None
    if hasattr(policy.critic, "frozen"):
        policy.critic.frozen = None
    return policy


def losses(policy: Policy, **options: Any) -> tuple[Any, list[list[torch.Tensor]]]:
    engine = Recorder()
    stats = learn(
        policy, experience(), engine, torch.optim.SGD(policy.parameters(), lr=0.0),
        objective=Objective(clip=0.2, clip_value=0.2, entropy_coef=0.01, **options),
        passes=Passes(epochs=2, num_mini_batches=2, micro_batch_size=2), generator=torch.Generator().manual_seed(0),
        reference=make_reference(policy, micro_batch_size=2),
    )  # fmt: skip
    return stats, engine.gradients


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_losses_and_gradients(tmp_path: Path, family: str, lora: Lora | None, critic: str) -> None:
    start = start_of(tmp_path, family)
    stats, gradients = losses(policy_from(start, critic, lora=lora))
    expected_stats, expected = losses(plain(policy_from(start, critic, lora=lora)))
    assert dict(stats.sums) == pytest.approx(dict(expected_stats.sums), rel=1e-9)
    assert len(gradients) == 4
    for found, whole in zip(gradients, expected, strict=True):
        assert len(found) > 4
        torch.testing.assert_close(found, whole, atol=1e-11, rtol=1e-8)


def test_a_full_kl_in_the_loss(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    options = {"kl_loss_coef": 0.3, "kl_loss_estimator": "full"}
    stats, gradients = losses(policy_from(start), **options)
    expected_stats, expected = losses(plain(policy_from(start)), **options)
    assert dict(stats.sums) == pytest.approx(dict(expected_stats.sums), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradients, expected, atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_trained_weights(tmp_path: Path, critic: str) -> None:
    """Several steps of AdamW; the frozen weights do not move, and what is saved is a whole model."""
    start, data = start_of(tmp_path / "start"), experience()
    tokenizer, found = load_tokenizer(start), {}
    for name in ("frozen", "plain"):
        policy = policy_from(start, critic)
        if name == "plain":
            plain(policy)
        from_actor, from_critic = ([p for p in net.parameters() if p.requires_grad] for net in policy.children())
        learn(
            policy, data, LocalEngine(torch.device("cpu")), adamw(from_actor, from_critic, learning_rate=0.01),
            objective=Objective(clip=0.2), passes=Passes(epochs=3, num_mini_batches=2, micro_batch_size=2),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        save_actor(policy.actor, tokenizer, tmp_path / name)
        save_critic(policy, tokenizer, tmp_path / name / "value_model")
        found[name] = dict(policy.named_parameters())
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        prompts, responses, mask = ragged(*LENGTHS)
        with torch.no_grad():
            expected = one_by_one(saved, prompts, responses, mask, 1.0)
            live = policy.analyze(prompts, responses, mask, temperature=1.0).log_probs
        for i, row in enumerate(expected):
            torch.testing.assert_close(live[i][mask[i]], row, atol=5e-4, rtol=1e-3)
    assert found["frozen"].keys() == found["plain"].keys()
    torch.testing.assert_close(found["frozen"], found["plain"], atol=1e-9, rtol=1e-7)
    before = dict(policy_from(start, critic).named_parameters())
    moved = {name for name, weight in found["frozen"].items() if not torch.equal(weight, before[name])}
    assert moved
    assert not [name for name in moved if ".layers.0." in name or ".layers.1." in name or "embed" in name]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_shares_the_frozen_layers(tmp_path: Path, family: str, autocast: bool) -> None:
    """Their weights are in memory once, and rows that the policy has read pass through them no more."""
    policy = policy_from(start_of(tmp_path, family), dtype=torch.float32, autocast=autocast)
    data = experience()
    prompts, responses, mask = data.rollout.prompts, data.rollout.responses, data.rollout.mask
    reference = make_reference(policy, micro_batch_size=2)
    ours = {id(parameter) for parameter in policy.actor.parameters()}
    theirs = [parameter for parameter in reference.actor.parameters() if id(parameter) not in ours]
    frozen = policy.actor.frozen
    assert frozen is not None
    assert sum(p.numel() for p in theirs) == sum(p.numel() for p in policy.actor.parameters() if p.requires_grad)
    lower = [Counted(layers_of(actor.backbone)[0]) for actor in (policy.actor, reference.actor)]
    with torch.no_grad():
        live = policy.analyze(prompts, responses, mask, temperature=0.9).log_probs
        assert lower[0].rows == 6
        ref_log_probs = reference.log_probs(replace(data.rollout, temperature=0.9))
        torch.testing.assert_close(ref_log_probs, live.double(), atol=3e-2 if autocast else 1e-5, rtol=1e-4)
        for _, parameter in policy.trainable():
            parameter.add_(0.1)
        again = policy.analyze(prompts, responses, mask, temperature=0.9).log_probs
        assert float((again - live).abs().max()) > 0.1
        assert torch.equal(reference.log_probs(replace(data.rollout, temperature=0.9)), ref_log_probs)
    assert (lower[0].rows, lower[1].rows) == (6, 0)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "embed_tokens"]])
def test_frozen_layers_get_no_adapters(tmp_path: Path, modules: Any) -> None:
    policy = policy_from(start_of(tmp_path), "separate", lora=Lora(r=2, alpha=2, target_modules=modules))
    adapted = {name for name, _ in policy.named_parameters() if "lora_" in name}
    assert {name.split(".layers.")[1][0] for name in adapted} == {"2"}
    assert {name for name, _ in policy.trainable()} == adapted | {"critic.model.base_model.model.score.weight"}


def test_texts_that_are_read_once_are_not_kept(tmp_path: Path) -> None:
    policy = policy_from(start_of(tmp_path))
    lower = Counted(layers_of(policy.actor.backbone)[0])
    prompts, responses, mask = ragged(*LENGTHS)
    with torch.no_grad():
        policy.analyze(prompts, responses, mask, temperature=1.0)
        policy.actor.sequence_log_probs(texts())
        rows = lower.rows
        policy.analyze(prompts, responses, mask, temperature=1.0)
    assert lower.rows == rows


def test_too_many_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--freeze_layers 2 or less"):
        policy_from(start_of(tmp_path), freeze=Freeze(layers=3, rows=4))


def test_a_model_that_looks_ahead_is_refused() -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match="looks ahead of the token"):
        make_actor(BertLMHeadModel(config), freeze=Freeze(layers=1, rows=4))
