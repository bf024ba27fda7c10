"""What every Sampler must do. To test one of your own, call `keeps_the_contract` with it."""

from pathlib import Path

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.rollout import FakeSampler, Sampler, SamplingSettings
from clearppo.rollout.inprocess import InProcessSampler
from tests.tiny import tiny_causal_lm


def keeps_the_contract(sampler: Sampler, policy, prompts: Prompts) -> None:
    """Shapes, masks without holes, zeros behind them, reasons and texts, versions, nothing changed."""
    before = prompts.ids.clone()
    generation = sampler.generate(prompts)
    B, T = generation.responses.shape
    assert B == len(prompts) == len(generation.completions) == len(generation.finish_reasons)
    assert generation.mask.shape == generation.log_probs.shape == (B, T)
    lengths = generation.mask.sum(dim=1)
    assert (lengths >= 1).all()
    assert torch.equal(generation.mask, torch.arange(T) < lengths[:, None])
    assert int(lengths.max()) == T
    assert (generation.log_probs[generation.mask] <= 0).all()
    assert (generation.log_probs[~generation.mask] == 0).all()
    assert (generation.responses[~generation.mask] == 0).all()
    assert set(generation.finish_reasons) <= {"stop", "length"}
    assert torch.equal(prompts.ids, before)
    sampler.load(policy, version=17)
    assert sampler.generate(prompts).policy_version == 17


@pytest.mark.parametrize("kind", ["fake", "in process", "in process, bf16"])
def test_samplers(tmp_path: Path, kind: str) -> None:
    path = tiny_causal_lm(tmp_path)
    tokenizer = load_tokenizer(path)
    policy = make_policy(load_causal_lm(path), autocast="bf16" in kind)
    rows = [{"prompt": text} for text in ("The film was", "I", "What do you say")]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x").batch(range(3), 1)
    settings = SamplingSettings(max_tokens=7, stop_token_ids=frozenset(range(20, 60)))
    sampler = FakeSampler([5, 6]) if kind == "fake" else InProcessSampler(policy, tokenizer, settings, seed=0)
    keeps_the_contract(sampler, policy, prompts)
