"""The in-process sampler against plain full forward passes of the same model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.models.build import Lora, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy, analyze_in_micro_batches
from clearppo.rollout import SamplingSettings, sample
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import ExactGeneration
from tests.tiny import FAMILIES, tiny_causal_lm

TEXTS = ["The film was", "I", "What do you say to the dog that is", "the food", "happy dog, and", "It is a"]


def world(tmp_path: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **more):
    path = tiny_causal_lm(tmp_path, family=family, dtype=dtype)
    tokenizer = load_tokenizer(path)
    policy = make_policy(load_causal_lm(path, dtype=dtype), **more)
    torch.nn.init.normal_(policy.critic.score.weight)
    rows = [{"prompt": text} for text in TEXTS]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x").batch(range(6), 1)
    return path, tokenizer, policy, prompts


def sampler_of(policy: Policy, tokenizer, seed: int = 5, **settings) -> InProcessSampler:
    # A third of the vocabulary stops an answer, so that rows end at different times.
    stops = settings.pop("stop_token_ids", frozenset(range(20, 70)))
    return InProcessSampler(policy, tokenizer, SamplingSettings(stop_token_ids=stops, **settings), seed=seed)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_values_equal_a_plain_forward_pass(tmp_path: Path, family: str, temperature: float) -> None:
    path, tokenizer, policy, prompts = world(tmp_path, family)
    generation = sampler_of(policy, tokenizer, max_tokens=12, temperature=temperature).generate(prompts)
    assert isinstance(generation, ExactGeneration)
    lengths = generation.mask.sum(dim=1).tolist()
    assert len(set(lengths)) > 2  # ragged
    model = AutoModelForCausalLM.from_pretrained(path)
    for i in range(len(prompts)):
        prompt, response = prompts.ids[i][prompts.mask[i]], generation.responses[i][generation.mask[i]]
        with torch.no_grad():
            out = model(torch.cat([prompt, response])[None], output_hidden_states=True)
        logits = out.logits[0, len(prompt) - 1 : -1].double() / temperature
        expected = logits.log_softmax(-1).gather(1, response[:, None]).squeeze(1)
        found = generation.policy_log_probs[i][generation.mask[i]]
        torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=1e-4)
        values = policy.critic(out.hidden_states[-1][:, len(prompt) - 1 : -1])[0]
        torch.testing.assert_close(generation.values[i][generation.mask[i]], values, atol=3e-5, rtol=1e-4)
    assert (generation.policy_log_probs[~generation.mask] == 0).all()
    assert (generation.log_probs == generation.policy_log_probs).all()


def test_masks_and_finish_reasons_say_how_rows_ended(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path)
    generation = sampler_of(policy, tokenizer, max_tokens=4).generate(prompts)
    assert {"stop", "length"} == set(generation.finish_reasons)
    for i, reason in enumerate(generation.finish_reasons):
        tokens = generation.responses[i][generation.mask[i]].tolist()
        assert [token in range(20, 70) for token in tokens[:-1]] == [False] * (len(tokens) - 1)
        assert (tokens[-1] in range(20, 70)) == (reason == "stop")
        assert reason == "stop" or len(tokens) == 4


def test_one_seed_one_answer_whatever_the_decoding_batch(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    whole = sampler_of(policy, tokenizer, max_tokens=10).generate(prompts)
    again = sampler_of(policy, tokenizer, max_tokens=10).generate(prompts)
    assert torch.equal(whole.responses, again.responses)
    assert torch.equal(whole.log_probs, again.log_probs)
    for size in (1, 2, 4):
        parts = sampler_of(policy, tokenizer, max_tokens=10, max_batch_size=size).generate(prompts)
        assert torch.equal(parts.responses, whole.responses)
        torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=1e-12, rtol=1e-10)
    other = sampler_of(policy, tokenizer, seed=6, max_tokens=10).generate(prompts)
    assert not torch.equal(other.mask, whole.mask) or not torch.equal(other.responses, whole.responses)


def test_more_padding_on_the_left_changes_nothing(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    wide = Prompts(
        ids=torch.cat([torch.full((6, 3), 9), prompts.ids], dim=1),
        mask=torch.cat([torch.zeros(6, 3, dtype=torch.bool), prompts.mask], dim=1),
        texts=prompts.texts,
        columns={},
    )
    narrow = sampler_of(policy, tokenizer, max_tokens=8).generate(prompts)
    # a batch of all rows is cut to its own width, so decode them without that
    sampler = sampler_of(policy, tokenizer, max_tokens=8)
    columns = sampler._empty(6)
    uniform = torch.rand(6, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        list(sampler._decode(wide, uniform, columns))
    T = narrow.responses.shape[1]
    assert torch.equal(columns.responses[:, :T], narrow.responses)
    torch.testing.assert_close(columns.values[:, :T], narrow.values, atol=1e-12, rtol=1e-10)


def test_stop_strings_end_an_answer_across_tokens(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path)
    free = sampler_of(policy, tokenizer, max_tokens=12, stop_token_ids=frozenset()).generate(prompts)
    text = free.completions[0]
    wanted = text[4:7]
    stopped = sampler_of(policy, tokenizer, max_tokens=12, stop_token_ids=frozenset(), stop_strings=(wanted,)).generate(
        prompts
    )
    assert stopped.finish_reasons[0] == "stop"
    assert wanted in stopped.completions[0]
    n = int(stopped.mask[0].sum())
    assert wanted not in tokenizer.decode(stopped.responses[0, : n - 1].tolist())
    assert torch.equal(stopped.responses[0, :n], free.responses[0, :n])


def test_a_bf16_copy_follows_the_policy_after_load(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, autocast=True, lora=Lora(r=4, alpha=8, target_modules="all-linear"))
    sampler = sampler_of(policy, tokenizer, max_tokens=6)
    assert not isinstance(sampler.generate(prompts), ExactGeneration)
    with torch.no_grad():
        for name, parameter in policy.trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    sampler.load(policy, version=3)
    generation = sampler.generate(prompts)
    assert generation.policy_version == 3
    learner = analyze_in_micro_batches(
        policy, prompts, generation.responses, generation.mask, temperature=1.0, micro_batch_size=6
    )
    tokens = generation.mask.sum()
    after = float((learner.log_probs - generation.log_probs).abs().sum() / tokens)
    stale = sampler_of(make_policy(load_causal_lm(str(tmp_path)), autocast=True), tokenizer, max_tokens=6)
    theirs = analyze_in_micro_batches(
        policy, prompts, (g := stale.generate(prompts)).responses, g.mask, temperature=1.0, micro_batch_size=6
    )
    before = float((theirs.log_probs - g.log_probs).abs().sum() / g.mask.sum())
    assert after < 0.05 < before


def test_the_rollout_takes_exact_numbers_or_the_learners(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path)
    exact = sample(policy, prompts, sampler_of(policy, tokenizer, max_tokens=6))
    learner = analyze_in_micro_batches(
        policy, prompts, exact.responses, exact.mask, temperature=1.0, micro_batch_size=2
    )
    torch.testing.assert_close(exact.old_log_probs, learner.log_probs, atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(exact.old_values, learner.values, atol=3e-5, rtol=1e-4)
    cut = sample(policy, prompts, sampler_of(policy, tokenizer, max_tokens=6, top_k=3))
    assert (cut.sampler_log_probs[cut.mask] >= cut.old_log_probs[cut.mask]).all()
    assert float((cut.sampler_log_probs - cut.old_log_probs).max()) > 0.1


def test_streaming_tells_what_generate_would(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path)
    one = prompts.select([2])
    whole = sampler_of(policy, tokenizer, max_tokens=9).generate(one).completions[0]
    assert "".join(sampler_of(policy, tokenizer, max_tokens=9).stream(one)) == whole
