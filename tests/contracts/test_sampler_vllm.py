"""The sampler of vLLM: the contract, the weights that it must have, and what happens when an engine fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.engines.local import LocalEngine
from clearppo.errors import ConfigError, ModelError, NumbersError, TrainingError
from clearppo.models.build import Lora, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import SamplingSettings, sample
from clearppo.rollout.vllm.engines import Engines
from clearppo.rollout.vllm.launch import require_vllm
from clearppo.rollout.vllm.protocol import row_seed
from clearppo.rollout.vllm.sampler import VLLMSampler
from tests.contracts.test_sampler import keeps_the_contract
from tests.rollout.vllm_server import VLLMServer, closed
from tests.tiny import tiny_causal_lm


@dataclass
class Set:
    """A policy, prompts, servers that have the same start model, and what was said."""

    path: str
    policy: Policy
    prompts: Prompts
    servers: list[VLLMServer]
    notes: list[str]

    def engines(self, **more: Any) -> Engines:
        return Engines([server.url for server in self.servers], note=self.notes.append, **more)

    def sampler(self, engines: Engines | None = None, **more: Any) -> VLLMSampler:
        settings = SamplingSettings(max_tokens=7, stop_token_ids=frozenset(range(20, 60)), **more)
        engines = engines or self.engines()
        engines.meet(20)
        processes = LocalEngine(torch.device("cpu"))
        tokenizer = load_tokenizer(self.path)
        return VLLMSampler(self.policy, tokenizer, settings, engines, seed=3, processes=processes)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Set]:
    path = tiny_causal_lm(tmp_path)
    rows = [{"prompt": text} for text in ("The film was", "I", "What do you say", "I", "We")]
    prompts = encode_prompts(rows, load_tokenizer(path), max_prompt_length=None, room=None, source="x")
    servers = [VLLMServer(path), VLLMServer(path)]
    yield Set(path, make_policy(load_causal_lm(path)), prompts.batch(range(5), 1), servers, [])
    closed(*servers)


def moved(policy: Policy) -> Policy:
    """The policy after something like an update."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return policy


@pytest.mark.parametrize("kind", ["plain", "cut", "lora", "one at a time"])
def test_the_contract(two: Set, kind: str) -> None:
    if kind == "lora":
        lora = Lora(r=4, alpha=8, target_modules="all-linear")
        two.policy = make_policy(load_causal_lm(two.path), lora=lora)
    engines = two.engines(most=1) if kind == "one at a time" else None
    more = {"top_k": 9, "top_p": 0.8, "temperature": 0.7} if kind == "cut" else {"temperature": 0.7}
    sampler = two.sampler(engines, **more)
    moved(two.policy)
    keeps_the_contract(sampler, two.policy, two.prompts)
    assert all("/inference/v1/generate" in server.calls for server in two.servers)


def test_the_answers_are_those_of_the_weights_that_were_loaded(two: Set) -> None:
    sampler = two.sampler(temperature=0.7)
    for version in (1, 2):
        sampler.load(moved(two.policy), version=version)
        generation = sampler.generate(two.prompts)
        with torch.no_grad():
            found = two.policy.analyze(two.prompts, generation.responses, generation.mask, temperature=0.7).log_probs
        torch.testing.assert_close(generation.log_probs, found, atol=3e-5, rtol=1e-4)
        assert not generation.exact
        assert generation.values is None


def test_numbers_that_are_not_known_are_none_and_refused(two: Set) -> None:
    sampler = two.sampler(top_p=0.8)
    assert sampler.generate(two.prompts).policy_log_probs is None
    with pytest.raises(ConfigError, match="--old_log_probs learner"):
        sample(two.policy, two.prompts, sampler, old_log_probs="sampler")
    rollout = sample(two.policy, two.prompts, sampler)
    assert (rollout.sampler_log_probs >= rollout.old_log_probs - 1e-6).all()  # a part of the vocabulary was left out
    assert not torch.allclose(rollout.sampler_log_probs, rollout.old_log_probs, atol=1e-3)
    greedy = two.sampler(top_p=0.8, temperature=0.0)
    generation = greedy.generate(two.prompts)
    assert generation.policy_log_probs is generation.log_probs  # nothing is cut of what is not drawn
    rollout = sample(two.policy, two.prompts, greedy, old_log_probs="sampler")  # as an evaluation does
    assert rollout.old_values.shape == rollout.mask.shape


def test_answers_go_on_from_a_state(two: Set) -> None:
    first, second = two.sampler(), two.sampler()
    first.generate(two.prompts)
    second.load_state(first.state())
    assert torch.equal(first.generate(two.prompts).responses, second.generate(two.prompts).responses)
    assert len({row_seed(3, row) for row in range(1000)} | {row_seed(4, row) for row in range(1000)}) == 2000


def test_rows_of_a_lost_engine_are_asked_of_another_which_is_taken_back(two: Set) -> None:
    whole = two.sampler().generate(two.prompts)
    two.servers[1].die_after = two.servers[1]._answered + 1
    sampler = two.sampler(two.engines(most=1))
    engines = sampler.engines
    assert engines is not None
    assert torch.equal(sampler.generate(two.prompts).responses, whole.responses)
    assert len(engines.well) == 1
    assert "Its answers are asked of the others" in two.notes[0]
    two.servers[1].die_after = None
    sampler.load(moved(two.policy), version=5)
    assert len(engines.well) == 2
    assert "is back" in two.notes[1]
    assert sampler.generate(two.prompts).policy_version == 5
    for server in two.servers:
        server.die_after = 0
    with pytest.raises(TrainingError, match="all 2 vLLM servers are lost") as lost:
        sampler.generate(two.prompts)
    assert lost.value.exit_code == 3


def test_weights_that_did_not_arrive_are_an_error(two: Set) -> None:
    sampler = two.sampler()
    two.servers[0].deaf = True
    with pytest.raises(ModelError, match="nats a token away"):
        sampler.load(moved(two.policy), version=1)


def test_an_update_that_was_left_half_done_is_no_trouble(two: Set) -> None:
    two.servers[0]._new = {}
    sampler = two.sampler()
    sampler.load(moved(two.policy), version=4)
    assert sampler.generate(two.prompts).policy_version == 4


def test_answers_of_other_weights_are_an_error(two: Set) -> None:
    sampler = two.sampler()
    sampler.load(two.policy, version=0)
    two.servers[0]._weights = "somebody's"
    with pytest.raises(TrainingError, match="somebody's") as wrong:
        sampler.generate(two.prompts)
    assert "engines of its own" in str(wrong.value)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda choice: choice.update(finish_reason="abort"), TrainingError, "gave up an answer: abort"),
        (lambda choice: choice["token_ids"].pop(), TrainingError, "gave up an answer"),
        (lambda choice: choice.pop("logprobs"), TrainingError, "without tokens and log-probs"),
        (lambda choice: choice["logprobs"]["content"][0].update(logprob=-9999.0), NumbersError, "no number"),
    ],
)
def test_spoilt_answers_are_one_sentence(two: Set, spoil: Any, error: type[Exception], said: str) -> None:
    def spoilt(answer: Any) -> Any:
        spoil(answer["choices"][0])
        return answer

    sampler = two.sampler()
    two.servers[0].spoil = spoilt
    with pytest.raises(error, match=said):
        sampler.generate(two.prompts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "0.11.2"}, "version 0.11.2"),
        ({"version": ""}, "is no vLLM server: it does not name its version"),
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"backend": "ipc"}, "the back end ipc"),
        ({"weight_transfer_config": None}, "clearppo vllm-serve MODEL"),
        ({"max_model_len": 8}, "--max-model-len 20"),
        ({"model_config": {}}, "VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_servers_that_cannot_serve_are_said_before_any_work(two: Set, change: dict[str, Any], said: str) -> None:
    server = two.servers[0]
    for name, value in change.items():
        if name == "version":
            server.version = value
        elif name in server.config:
            server.config[name] = value
        else:
            section = "weight_transfer_config" if name == "backend" else "model_config"
            server.config[section][name] = value
    with pytest.raises(ConfigError, match=said):
        two.sampler()


def test_another_server_that_speaks_json(two: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = two.engines()
    monkeypatch.setattr(engines.all[0].http, "get", lambda path: [1, 2])
    with pytest.raises(ConfigError, match="is no vLLM server"):
        engines.meet(1)


@pytest.mark.parametrize(("python", "said"), [("/bin/true", "is no Python"), ("/no/such", "cannot be run")])
def test_a_python_that_is_none(python: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        require_vllm(python)


def test_servers_that_are_not_there_or_have_no_address(two: Set) -> None:
    two.servers[0].close()
    with pytest.raises(ConfigError, match="nothing listens there"):
        two.sampler()
    for url in ("localhost:8000", "http://", "ftp://x:1", "http://x:99999", "http://x:1/v1"):
        with pytest.raises(ConfigError, match="--vllm_server_base_url"):
            Engines([url], note=print)
