"""What every Sampler must do. To test one of your own, call `keeps_the_contract` with it."""

from pathlib import Path

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.errors import ConfigError
from clearppo.models.build import Lora, load_critic, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import FakeSampler, Generation, Sampler, SamplingSettings
from clearppo.rollout.decoder import TransformersDecoder
from clearppo.rollout.inprocess import InProcessSampler
from tests.tiny import FAMILIES, tiny_causal_lm


def keeps_its_word(generation: Generation, policy: Policy, prompts: Prompts) -> None:
    """An exact generation says what the policy says."""
    with torch.no_grad():
        analysis = policy.analyze(prompts, generation.responses, generation.mask, temperature=generation.temperature)
    torch.testing.assert_close(generation.policy_log_probs, analysis.log_probs, atol=3e-5, rtol=1e-4)
    if generation.values is not None:
        torch.testing.assert_close(generation.values, analysis.values, atol=3e-5, rtol=1e-4)


def keeps_the_contract(sampler: Sampler, policy: Policy, prompts: Prompts) -> None:
    """Shapes, masks without holes, zeros behind them, reasons and texts, versions, nothing changed."""
    before = prompts.ids.clone()
    generation = sampler.generate(prompts)
    B, T = generation.responses.shape
    assert B == len(prompts) == len(generation.completions) == len(generation.finish_reasons)
    assert generation.mask.shape == (B, T)
    lengths = generation.mask.sum(dim=1)
    assert (lengths >= 1).all()
    assert torch.equal(generation.mask, torch.arange(T) < lengths[:, None])
    assert int(lengths.max()) == T
    assert (generation.responses[~generation.mask] == 0).all()
    for numbers in (generation.log_probs, generation.policy_log_probs, generation.values):
        if numbers is not None:
            assert numbers.shape == (B, T)
            assert (numbers[~generation.mask] == 0).all()
    if generation.policy_log_probs is not None:
        assert (generation.policy_log_probs <= generation.log_probs + 1e-6).all()
    assert (generation.log_probs <= 0).all()
    if generation.exact:
        keeps_its_word(generation, policy, prompts)
    assert set(generation.finish_reasons) <= {"stop", "length"}
    assert torch.equal(prompts.ids, before)
    sampler.load(policy, version=17)
    assert sampler.generate(prompts).policy_version == 17


KINDS = ["fake", "in process", "separate critic", "bf16", "few at a time", "cut", "through transformers", "lora"]


@pytest.mark.parametrize("kind", KINDS)
def test_samplers(tmp_path: Path, kind: str) -> None:
    path = tiny_causal_lm(tmp_path)
    tokenizer = load_tokenizer(path)
    critic = load_critic(path, tokenizer, dtype=torch.float32) if kind == "separate critic" else None
    lora = Lora(r=4, alpha=8, target_modules="all-linear") if kind == "lora" else None
    policy = make_policy(load_causal_lm(path), autocast=kind == "bf16", separate_critic=critic, lora=lora)
    rows = [{"prompt": text} for text in ("The film was", "I", "What do you say", "I")]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x").batch(range(4), 1)
    more = {"few at a time": {"max_batch_size": 2}, "cut": {"top_k": 9, "top_p": 0.8, "temperature": 0.7}}.get(kind, {})
    settings = SamplingSettings(max_tokens=7, stop_token_ids=frozenset(range(20, 60)), **more)
    decoder = TransformersDecoder(policy.actor) if kind == "through transformers" else None
    sampler = (
        FakeSampler([5, 6])
        if kind == "fake"
        else InProcessSampler(policy, tokenizer, settings, seed=0, decoder=decoder)
    )
    keeps_the_contract(sampler, policy, prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(tmp_path: Path, family: str) -> None:
    path = tiny_causal_lm(tmp_path, family=family)
    tokenizer = load_tokenizer(path)
    policy = make_policy(load_causal_lm(path))
    rows = [{"prompt": text} for text in ("The film was", "I", "What do you say", "I")]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x").batch(range(4), 1)
    settings = SamplingSettings(max_tokens=7, stop_token_ids=frozenset(range(20, 60)))
    keeps_the_contract(InProcessSampler(policy, tokenizer, settings, seed=0), policy, prompts)


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("max_batch_size", 0), ("top_p", 0.0), ("top_k", -1)])
def test_settings_that_cannot_be_are_said(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} = {value}"):
        SamplingSettings(**{"max_tokens": 4, name: value})
