"""Reading a model at response positions: the same numbers as transformers gives, for every family and layout."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Gemma2Config, Gemma2ForCausalLM

from clearppo.batch import Prompts, Rollout
from clearppo.errors import ModelError
from clearppo.models.actor import Actor, SeparateCritic, SharedCritic, plain_weights
from clearppo.models.build import Lora, load_critic, make_policy, make_reference
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import analyze_in_micro_batches, micro_batches
from clearppo.models.saving import save_actor, save_adapter, save_critic
from tests.tiny import FAMILIES, tiny_causal_lm, tiny_reward_model, tiny_tokenizer

LORA = Lora(r=4, alpha=8, target_modules="all-linear")


def ragged(n_prompt: tuple[int, ...], n_response: tuple[int, ...], *, extra_left: int = 0, extra_right: int = 0):
    """Left-padded prompts and right-padded responses of these lengths, with `extra` columns of padding."""
    P, T = max(n_prompt) + extra_left, max(n_response) + extra_right
    generator = torch.Generator().manual_seed(3)
    ids, responses = torch.zeros(len(n_prompt), P, dtype=torch.long), torch.zeros(len(n_prompt), T, dtype=torch.long)
    for row, (p, t) in enumerate(zip(n_prompt, n_response, strict=True)):
        ids[row, P - p :] = torch.randint(5, 100, (p,), generator=generator)
        responses[row, :t] = torch.randint(5, 100, (t,), generator=generator)
    prompt_mask = torch.arange(P) >= P - torch.tensor(n_prompt)[:, None]
    mask = torch.arange(T) < torch.tensor(n_response)[:, None]
    prompts = Prompts(ids=ids, mask=prompt_mask, texts=("",) * len(n_prompt), columns={})
    return prompts, responses, mask


LENGTHS = ((3, 7, 5), (4, 2, 6))


def one_by_one(model, prompts, responses, mask, temperature):
    """Each row alone, without any padding, by the plain model: log-probs of its response tokens."""
    rows = []
    for i in range(len(responses)):
        prompt, response = prompts.ids[i][prompts.mask[i]], responses[i][mask[i]]
        logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1].double() / temperature
        rows.append(logits.log_softmax(-1).gather(1, response[:, None]).squeeze(1))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_each_row_alone(tmp_path: Path, family: str) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path, family=family))
    policy = make_policy(model)
    prompts, responses, mask = ragged(*LENGTHS)
    with torch.no_grad():
        analysis = policy.analyze(prompts, responses, mask, temperature=0.7)
        expected = one_by_one(model, prompts, responses, mask, 0.7)
    for i, row in enumerate(expected):
        torch.testing.assert_close(analysis.log_probs[i][mask[i]].double(), row, atol=2e-5, rtol=1e-4)
    assert (analysis.log_probs[~mask] == 0).all()


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_padding_changes_nothing(tmp_path: Path, critic: str) -> None:
    path = tiny_causal_lm(tmp_path)
    separate = None
    if critic == "separate":
        separate = load_critic(path, load_tokenizer(path), dtype=torch.float64)
        torch.nn.init.normal_(separate.score.weight)
    policy = make_policy(load_causal_lm(path, dtype=torch.float64), separate_critic=separate)
    if critic == "shared":
        torch.nn.init.normal_(policy.critic.score.weight)
    with torch.no_grad():
        plain = policy.analyze(*ragged(*LENGTHS), temperature=1.0)
        prompts, responses, mask = ragged(*LENGTHS, extra_left=3, extra_right=2)
        padded = policy.analyze(prompts, responses, mask, temperature=1.0)
    T = plain.log_probs.shape[1]
    for name in ("log_probs", "values", "entropy"):
        torch.testing.assert_close(getattr(padded, name)[:, :T], getattr(plain, name), atol=1e-12, rtol=1e-10)
    assert float(plain.values.abs().max()) > 0.1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_of_any_size_give_the_same(tmp_path: Path, size: int) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64))
    batch = ragged(*LENGTHS)
    with torch.no_grad():
        whole = policy.analyze(*batch, temperature=0.9)
    parts = analyze_in_micro_batches(policy, *batch, temperature=0.9, micro_batch_size=size)
    torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(parts.values, whole.values, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tokens", [1, 11, 16, 24, None])
def test_a_token_budget_changes_nothing_and_is_kept(tmp_path: Path, tokens: int | None) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64))
    batch = ragged(*LENGTHS, extra_left=2)  # rows of 7, 9 and 11 tokens
    with torch.no_grad():
        whole = policy.analyze(*batch, temperature=0.9)
    sizes = {"micro_batch_size": 2, "micro_batch_tokens": tokens}
    parts = analyze_in_micro_batches(policy, *batch, temperature=0.9, **sizes)
    torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(parts.entropy, whole.entropy, atol=1e-12, rtol=1e-10)
    groups = [rows for rows, *_ in micro_batches(*batch, 2, tokens)]
    assert groups == ([[2], [1], [0]] if tokens in (1, 11, 16) else [[2, 1], [0]])
    zeros = torch.zeros(batch[2].shape, dtype=torch.float64)
    rollout = Rollout(
        prompts=batch[0], responses=batch[1], mask=batch[2], old_log_probs=zeros, old_values=zeros,
        sampler_log_probs=zeros, finish_reasons=("stop",) * 3, completions=("",) * 3, temperature=0.9, policy_version=0,
    )  # fmt: skip
    reference = make_reference(policy, **sizes)
    torch.testing.assert_close(reference.log_probs(rollout), whole.log_probs, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(reference.full_kl(rollout), zeros, atol=1e-12, rtol=0)


def test_under_autocast_the_log_probs_are_near_and_the_critics_heads_compute_in_float32(tmp_path: Path) -> None:
    """The backbone and the head round to bfloat16's 8 bits; a value does not."""
    path, batch = tiny_causal_lm(tmp_path), ragged(*LENGTHS)
    for separate in (False, True):
        analyses = []
        for autocast in (False, True):
            critic = load_critic(path, load_tokenizer(path), dtype=torch.float32) if separate else None
            policy = make_policy(load_causal_lm(path), separate_critic=critic, autocast=autocast)
            torch.manual_seed(1)
            torch.nn.init.normal_((policy.critic.classifier if critic is not None else policy.critic).score.weight)
            with torch.no_grad():
                analyses.append(policy.analyze(*batch, temperature=1.0))
        exact, mixed = analyses
        assert mixed.values.dtype == mixed.log_probs.dtype == mixed.entropy.dtype == torch.float32
        assert not torch.equal(mixed.values, mixed.values.bfloat16().float())
        for name in ("log_probs", "entropy", "values"):
            difference = (getattr(mixed, name) - getattr(exact, name)).abs()
            assert 0 < float(difference.mean()) < 0.1


def test_a_model_that_caps_its_logits_is_read_with_its_cap() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, initializer_range=0.5,
        attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = model(ids).logits
        actor = Actor(model)
        found = actor.logits(actor.backbone(ids).last_hidden_state)
    assert 0.04 < float(expected.abs().max()) < 0.0501
    torch.testing.assert_close(found, expected)


def test_a_model_whose_logits_follow_no_known_rule_is_refused(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path))
    forward = model.forward
    model.forward = lambda **kwargs: type("Out", (), {"logits": forward(**kwargs).logits ** 3})
    with pytest.raises(ModelError, match="report the architecture"):
        Actor(model)


def test_the_shared_critic_starts_at_zero_and_a_separate_one_too(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    for separate in (None, load_critic(path, load_tokenizer(path), dtype=torch.float32)):
        policy = make_policy(load_causal_lm(path), separate_critic=separate)
        with torch.no_grad():
            assert (policy.analyze(*ragged(*LENGTHS), temperature=1.0).values == 0).all()


def test_a_critic_from_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    path, reward = tiny_causal_lm(tmp_path / "m"), tiny_reward_model(tmp_path / "r")
    critic = load_critic(reward, load_tokenizer(path), dtype=torch.float32)
    policy = make_policy(load_causal_lm(path), separate_critic=critic)
    prompts, responses, mask = ragged(*LENGTHS)
    with torch.no_grad():
        values = policy.analyze(prompts, responses, mask, temperature=1.0).values
    raw = AutoModelForSequenceClassification.from_pretrained(reward)
    prefix = torch.cat([prompts.ids[1], responses[1, :1]])[None]  # row 1 fills the prompt's width: no padding
    with torch.no_grad():
        expected = raw.score(raw.model(prefix).last_hidden_state)[0, -1, 0]
    torch.testing.assert_close(values[1, 1], expected, atol=1e-5, rtol=1e-5)


def test_a_critic_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path / "m")
    other = tiny_reward_model(tmp_path / "r", tokenizer=tiny_tokenizer(vocab_size=150))
    with pytest.raises(ModelError, match="another vocabulary"):
        load_critic(other, load_tokenizer(path), dtype=torch.float32)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_trains_adapters_only_and_its_reference_is_the_start(tmp_path: Path, family: str) -> None:
    path = tiny_causal_lm(tmp_path, family=family)
    policy = make_policy(load_causal_lm(path), lora=LORA)
    names = [name for name, _ in policy.trainable()]
    assert names
    assert all("lora_" in name or name == "critic.score.weight" for name in names)
    for name, parameter in policy.trainable():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    prompts, responses, mask = ragged(*LENGTHS)
    plain = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        live = policy.analyze(prompts, responses, mask, temperature=1.0).log_probs
        expected = one_by_one(plain, prompts, responses, mask, 1.0)
    rollout = Rollout(
        prompts=prompts, responses=responses, mask=mask, old_log_probs=live, old_values=live, sampler_log_probs=live,
        finish_reasons=("stop",) * 3, completions=("",) * 3, temperature=1.0, policy_version=0,
    )  # fmt: skip
    reference = make_reference(policy, micro_batch_size=2).log_probs(rollout)
    for i, row in enumerate(expected):
        torch.testing.assert_close(reference[i][mask[i]].double(), row, atol=2e-5, rtol=1e-4)
    assert float((live - reference).abs().max()) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_what_is_saved_loads_in_transformers_and_computes_the_same(
    tmp_path: Path, family: str, lora: Lora | None, critic: str
) -> None:
    path = tiny_causal_lm(tmp_path / "start", family=family)
    tokenizer = load_tokenizer(path)
    separate = load_critic(path, tokenizer, dtype=torch.float32) if critic == "separate" else None
    policy = make_policy(load_causal_lm(path), separate_critic=separate, lora=lora)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_actor(policy.actor, tokenizer, tmp_path / "saved")
    save_critic(policy, tokenizer, tmp_path / "saved" / "value_model")
    prompts, responses, mask = ragged(*LENGTHS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    values_of = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved" / "value_model")
    with torch.no_grad():
        analysis = policy.analyze(prompts, responses, mask, temperature=1.0)
        expected = one_by_one(loaded, prompts, responses, mask, 1.0)
        sentence = torch.cat([prompts.ids[1], responses[1, :1]])[None]
        value = values_of(sentence, attention_mask=torch.ones_like(sentence)).logits[0, 0]
    for i, row in enumerate(expected):
        torch.testing.assert_close(analysis.log_probs[i][mask[i]].double(), row, atol=5e-5, rtol=1e-4)
    if tokenizer.pad_token_id not in sentence:  # the loader finds the last token by its padding id
        torch.testing.assert_close(analysis.values[1, 1], value, atol=5e-5, rtol=1e-4)
    if lora:
        save_adapter(policy.actor, tmp_path / "adapter")
        assert (tmp_path / "adapter" / "adapter_config.json").is_file()
        assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_plain_weights_have_the_names_of_a_model_without_lora(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(path).state_dict()
    policy = make_policy(load_causal_lm(path), lora=LORA)
    weights = dict(plain_weights(policy.actor.causal_lm))
    assert set(weights) == set(plain)
    for name, weight in weights.items():  # lora_B starts at 0
        torch.testing.assert_close(weight, plain[name])


def test_lora_modules_that_are_not_there_are_named(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path))
    with pytest.raises(ModelError, match=r"linear layers are .*q_proj"):
        make_policy(model, lora=Lora(r=4, alpha=8, target_modules=["nothing_such"]))


def test_critic_classes() -> None:
    assert SharedCritic(8, torch.bfloat16).score.weight.dtype == torch.float32
    assert SharedCritic(8, torch.float64).score.weight.dtype == torch.float64
    assert SeparateCritic.__doc__
