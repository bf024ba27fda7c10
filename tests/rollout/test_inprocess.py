"""The in-process sampler against plain full forward passes of the same model."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.errors import TrainingError
from clearppo.models.build import Lora, load_critic, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy, analyze_in_micro_batches
from clearppo.rollout import Generation, SamplingSettings, sample
from clearppo.rollout.decoder import Decoder, OwnDecoder, TransformersDecoder, make_decoder
from clearppo.rollout.draw import row_stream
from clearppo.rollout.inprocess import InProcessSampler
from tests.rollout.whole_decoder import WholeDecoder
from tests.tiny import FAMILIES, tiny_causal_lm

TEXTS = ["The film was", "I", "What do you say to the dog that is", "the food", "happy dog, and", "It is a"]
STOPS = frozenset(range(20, 70))  # a third of the vocabulary stops an answer, so that rows end at different times


DECODERS: dict[str, Any] = {
    "chosen": make_decoder,
    "transformers": TransformersDecoder,
    "whole": lambda actor: WholeDecoder(actor, joins=False),
    "whole that joins": lambda actor: WholeDecoder(actor, joins=True),
}


def world(tmp_path: Path, family: str = "llama", dtype: torch.dtype = torch.float32, texts: Any = TEXTS, **more):
    path = tiny_causal_lm(tmp_path, family=family, dtype=dtype)
    tokenizer = load_tokenizer(path)
    policy = make_policy(load_causal_lm(path, dtype=dtype), **more)
    if more.get("separate_critic") is None:
        torch.nn.init.normal_(policy.critic.score.weight)
    rows = [{"prompt": text} for text in texts]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x").batch(range(len(rows)), 1)
    return path, tokenizer, policy, prompts


def sampler_of(
    policy: Policy, tokenizer, seed: int = 5, decoder: Decoder | None = None, **settings
) -> InProcessSampler:
    stops = settings.pop("stop_token_ids", STOPS)
    how = SamplingSettings(stop_token_ids=stops, **settings)
    return InProcessSampler(policy, tokenizer, how, seed=seed, decoder=decoder)


def plain_answer(
    policy: Policy, prompt: list[int], random: Random, *, max_tokens: int, temperature: float = 1.0
) -> tuple[list[int], list[float], list[float]]:
    """Tokens, their log-probs and values, by full forward passes over one row and one running sum."""
    model, tokens, log_probs, values = policy.actor.causal_lm, [], [], []
    for _ in range(max_tokens):
        with torch.no_grad():
            out = model(torch.tensor([[*prompt, *tokens]]), output_hidden_states=True, use_cache=False)
        chances = (out.logits[0, -1].double() / temperature).softmax(-1).tolist()
        u, total, token = random.random(), 0.0, -1
        while total <= u:
            token += 1
            total += chances[token]
        tokens.append(token)
        log_probs.append(float(torch.tensor(chances[token], dtype=torch.float64).log()))
        values.append(float(out.hidden_states[-1][0, -1].detach() @ policy.critic.score.weight[0].detach()))
        if token in STOPS:
            break
    return tokens, log_probs, values


def row_of(generation: Generation, i: int, name: str) -> Tensor:
    return getattr(generation, name)[i][generation.mask[i]]


def same(left: Generation, right: Generation) -> None:
    """Token for token; numbers to float64's rounding."""
    assert torch.equal(left.responses, right.responses)
    assert torch.equal(left.mask, right.mask)
    assert (left.finish_reasons, left.completions) == (right.finish_reasons, right.completions)
    for name in ("log_probs", "policy_log_probs", "values"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), atol=1e-11, rtol=1e-9)


# ------------------------------------------------------------------------------------ against full forward passes


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_values_equal_a_plain_forward_pass(tmp_path: Path, family: str, temperature: float) -> None:
    path, tokenizer, policy, prompts = world(tmp_path, family)
    generation = sampler_of(policy, tokenizer, max_tokens=12, temperature=temperature).generate(prompts)
    assert generation.exact
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
    generation = sampler_of(policy, tokenizer, max_tokens=2).generate(prompts)
    assert {"stop", "length"} == set(generation.finish_reasons)
    for i, reason in enumerate(generation.finish_reasons):
        tokens = generation.responses[i][generation.mask[i]].tolist()
        assert [token in range(20, 70) for token in tokens[:-1]] == [False] * (len(tokens) - 1)
        assert (tokens[-1] in range(20, 70)) == (reason == "stop")
        assert reason == "stop" or len(tokens) == 2


# ------------------------------------------------------------------------------------ what a row depends on


@pytest.mark.parametrize("max_batch_size", [None, 1, 2, 4])
@pytest.mark.parametrize("kind", DECODERS)
def test_answers_are_those_of_a_plain_loop_over_one_row(tmp_path: Path, kind: str, max_batch_size: int | None) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    sampler = sampler_of(
        policy,
        tokenizer,
        decoder=DECODERS[kind](policy.actor),
        max_tokens=10,
        temperature=0.8,
        max_batch_size=max_batch_size,
    )
    for call in range(2):  # the second one uses the decoder's buffers again
        generation = sampler.generate(prompts)
        assert generation.responses.shape[1] == int(generation.mask.sum(dim=1).max())
        for i in range(len(prompts)):
            prompt = prompts.ids[i][prompts.mask[i]].tolist()
            tokens, log_probs, values = plain_answer(
                policy, prompt, Random(f"5/{6 * call + i}"), max_tokens=10, temperature=0.8
            )
            assert row_of(generation, i, "responses").tolist() == tokens
            assert generation.finish_reasons[i] == ("stop" if tokens[-1] in STOPS else "length")
            assert row_of(generation, i, "log_probs").tolist() == pytest.approx(log_probs, abs=1e-9)
            assert row_of(generation, i, "policy_log_probs").tolist() == pytest.approx(log_probs, abs=1e-9)
            assert row_of(generation, i, "values").tolist() == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_places_and_neighbours_change_nothing(tmp_path: Path, family: str) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, family, dtype=torch.float64)
    whole = sampler_of(policy, tokenizer, max_tokens=10).generate(prompts)
    for size in (1, 2, 3, 5):
        same(sampler_of(policy, tokenizer, max_tokens=10, max_batch_size=size).generate(prompts), whole)
    order, sampler = [3, 0, 5, 1, 4, 2], sampler_of(policy, tokenizer, max_tokens=10, max_batch_size=4)
    with torch.no_grad():
        moved = sampler._generate(prompts.select(order), [row_stream(5, row) for row in order])
        alone = sampler._generate(prompts.select([2]), [row_stream(5, 2)])
    for place, row in enumerate(order):
        assert row_of(moved, place, "responses").tolist() == row_of(whole, row, "responses").tolist()
        torch.testing.assert_close(row_of(moved, place, "values"), row_of(whole, row, "values"), atol=1e-11, rtol=1e-9)
    assert alone.responses[0].tolist() == row_of(whole, 2, "responses").tolist()


def test_more_tokens_or_padding_change_nothing_before(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    wide = Prompts(
        ids=torch.cat([torch.full((6, 3), 9), prompts.ids], dim=1),
        mask=torch.cat([torch.zeros(6, 3, dtype=torch.bool), prompts.mask], dim=1),
        texts=prompts.texts,
        columns={},
    )
    whole = sampler_of(policy, tokenizer, max_tokens=8).generate(prompts)
    same(sampler_of(policy, tokenizer, max_tokens=8).generate(wide), whole)
    longer = sampler_of(policy, tokenizer, max_tokens=20).generate(prompts)
    assert torch.equal(longer.responses[:, :8].masked_fill(~whole.mask, 0), whole.responses)


def test_the_seed_and_the_number_of_rows_answered_are_all_the_state(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    sampler = sampler_of(policy, tokenizer, max_tokens=10)
    first, second = sampler.generate(prompts), sampler.generate(prompts)
    assert sampler.answered == 12
    assert first.completions != second.completions
    assert sampler_of(policy, tokenizer, max_tokens=10).generate(prompts).completions == first.completions
    assert sampler_of(policy, tokenizer, seed=6, max_tokens=10).generate(prompts).completions != first.completions
    later = sampler_of(policy, tokenizer, seed=6, max_tokens=10)
    later.seed, later.answered = 5, 6
    assert later.generate(prompts).completions == second.completions
    pieces = sampler_of(policy, tokenizer, max_tokens=10)
    parts = [pieces.generate(prompts.select(rows)).completions for rows in ([0, 1], [2], [3, 4, 5])]
    assert tuple(text for part in parts for text in part) == first.completions


def test_equal_prompts_get_answers_of_their_own(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64, texts=["The film was"] * 3 + ["I"] * 3)
    decoder = WholeDecoder(policy.actor, joins=True)
    generation = sampler_of(policy, tokenizer, decoder=decoder, max_tokens=12).generate(prompts)
    assert len(set(generation.completions[:3])) == 3
    assert len(set(generation.completions[3:])) > 1
    [(_, texts, copies)] = decoder.started
    assert copies == [3, 3]
    assert texts == [prompts.ids[i][prompts.mask[i]].tolist() for i in (0, 3)]
    same(sampler_of(policy, tokenizer, max_tokens=12).generate(prompts), generation)


# ------------------------------------------------------------------------------------ who is decoded when


@pytest.mark.parametrize("joins", [True, False])
def test_freed_places_are_filled_a_quarter_at_a_time(tmp_path: Path, joins: bool) -> None:
    texts = [f"{'very ' * (i % 7)}good {i}" for i in range(40)]
    _, tokenizer, policy, prompts = world(tmp_path, texts=texts)
    decoder = WholeDecoder(policy.actor, joins=joins)
    generation = sampler_of(policy, tokenizer, decoder=decoder, max_tokens=8, max_batch_size=8).generate(prompts)
    assert generation.responses.shape[0] == 40
    starts = [(before, sum(copies)) for before, _, copies in decoder.started]
    assert sum(new for _, new in starts) == 40
    assert starts[0] == (0, 8)
    if joins:
        assert any(before for before, _ in starts)
        for before, new in starts[:-1]:
            assert new >= 2  # a quarter of eight
            assert before + new == 8  # every free place is filled
        assert decoder.room[0] == 8
    else:
        assert starts == [(0, 8)] * 5
    lengths = [len(prompt) for _, prompts, _ in decoder.started for prompt in prompts]
    assert lengths == sorted(lengths, reverse=True)


def test_joining_saves_steps(tmp_path: Path) -> None:
    texts = [f"good {i}" for i in range(40)]
    _, tokenizer, policy, prompts = world(tmp_path, texts=texts)
    joining, waiting = WholeDecoder(policy.actor, joins=True), WholeDecoder(policy.actor, joins=False)
    for decoder in (joining, waiting):
        sampler_of(policy, tokenizer, decoder=decoder, max_tokens=12, max_batch_size=8).generate(prompts)
    assert len(joining.live) < 0.8 * len(waiting.live)
    assert sum(joining.live) == sum(waiting.live)  # the same tokens, in fewer steps


# ------------------------------------------------------------------------------------ endings, precision, weights


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
    first = sampler.generate(prompts)
    assert not first.exact
    assert first.values is not None  # not exact, but known
    assert float(first.values.abs().max()) > 0
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


def test_a_critic_with_a_backbone_of_its_own_is_not_asked(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    critic = load_critic(path, load_tokenizer(path), dtype=torch.float32)
    _, tokenizer, policy, prompts = world(tmp_path, separate_critic=critic)
    generation = sampler_of(policy, tokenizer, max_tokens=6).generate(prompts)
    assert generation.values is None
    assert generation.exact
    rollout = sample(policy, prompts, sampler_of(policy, tokenizer, max_tokens=6))
    assert torch.equal(rollout.old_log_probs, generation.policy_log_probs)
    analysis = policy.analyze(prompts, generation.responses, generation.mask, temperature=1.0)
    torch.testing.assert_close(rollout.old_log_probs, analysis.log_probs.detach(), atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(rollout.old_values, analysis.values.detach(), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["chosen", "transformers"])
def test_new_weights_are_those_of_the_last_load(tmp_path: Path, kind: str) -> None:
    _, tokenizer, policy, prompts = world(tmp_path, dtype=torch.float64)
    sampler = sampler_of(policy, tokenizer, decoder=DECODERS[kind](policy.actor), max_tokens=10)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sampler.load(policy, version=4)
    generation = sampler.generate(prompts)
    assert generation.policy_version == 4
    same(generation, sampler_of(policy, tokenizer, max_tokens=10).generate(prompts))


def test_a_policy_that_has_diverged_is_said(tmp_path: Path) -> None:
    _, tokenizer, policy, prompts = world(tmp_path)
    with torch.no_grad():
        next(policy.actor.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match="have diverged"):
        InProcessSampler(
            policy,
            tokenizer,
            SamplingSettings(max_tokens=4),
            seed=0,
            decoder=WholeDecoder(policy.actor, joins=True),
        ).generate(prompts)


def test_a_sampler_that_rests_answers_alike_and_leaves_no_weights(tmp_path: Path) -> None:
    """Between calls its decoder holds nothing, and the policy as it is at the next call is sampled from."""
    _, tokenizer, policy, prompts = world(tmp_path, autocast=True)
    settings = SamplingSettings(max_tokens=6, stop_token_ids=STOPS)
    kept = InProcessSampler(policy, tokenizer, settings, seed=3)
    resting = InProcessSampler(policy, tokenizer, settings, seed=3, resident=False)
    assert isinstance(kept.decoder, OwnDecoder)
    assert isinstance(resting.decoder, OwnDecoder)
    for version in (1, 2):
        assert (n_held(resting.decoder), n_held(kept.decoder)) == (0, 9)  # two layers of four, and the head
        expected, found = kept.generate(prompts), resting.generate(prompts)
        assert torch.equal(found.responses, expected.responses)
        assert torch.equal(found.log_probs, expected.log_probs)
        with torch.no_grad():
            for parameter in policy.actor.parameters():
                parameter.mul_(1.1)
        for sampler in (kept, resting):
            sampler.load(policy, version=version)


def n_held(decoder: OwnDecoder) -> int:
    """How many linear layers it holds the weights of."""
    network = decoder._network
    layers = [linear for layer in network._layers for linear in (layer.qkv, layer.out, layer.up, layer.down)]
    return sum(linear._weight is not None for linear in (*layers, network._head))
