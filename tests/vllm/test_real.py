"""vLLM itself: it keeps the contract, has the weights that it is given, and means by its shapes what we mean.

Run by .ci/vllm, which makes an environment for it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.data import encode_prompts
from clearppo.engines.local import LocalEngine
from clearppo.errors import ConfigError
from clearppo.models.build import Lora, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import SamplingSettings
from clearppo.rollout.vllm.engines import Engines
from clearppo.rollout.vllm.launch import Child, Server, free_port
from clearppo.rollout.vllm.memory import SharedWeights
from clearppo.rollout.vllm.protocol import probe, request
from clearppo.rollout.vllm.sampler import VLLMSampler
from tests.contracts.test_sampler import keeps_the_contract
from tests.contracts.test_sampler_vllm import moved
from tests.rollout.vllm_server import CONFIG, VLLMServer, closed
from tests.tiny import tiny_causal_lm
from tests.vllm.conftest import FLAGS, Asked

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def parts(model: str, lora: bool = False) -> tuple[Policy, Prompts]:
    rows = [{"prompt": text} for text in ("The film was", "I", "What do you say", "I", "We")]
    prompts = encode_prompts(rows, load_tokenizer(model), max_prompt_length=None, room=None, source="x")
    adapters = Lora(r=4, alpha=8, target_modules="all-linear") if lora else None
    return make_policy(load_causal_lm(model), lora=adapters), prompts.batch(range(5), 1)


def sampler_of(server: Child, policy: Policy, model: str, **more: Any) -> VLLMSampler:
    how = {"max_tokens": 12, "stop_token_ids": frozenset(range(20, 60)), **more}
    engines = Engines([server.server.url], note=print)
    engines.meet(40)
    processes = LocalEngine(torch.device("cpu"))
    return VLLMSampler(policy, load_tokenizer(model), SamplingSettings(**how), engines, seed=3, processes=processes)


@pytest.mark.parametrize("kind", ["plain", "cut", "lora", "greedy"])
def test_the_contract(server: Child, model: str, kind: str) -> None:
    policy, prompts = parts(model, lora=kind == "lora")
    cut = {"top_k": 9, "top_p": 0.8} if kind == "cut" else {}
    sampler = sampler_of(server, policy, model, temperature=0.0 if kind == "greedy" else 0.7, **cut)
    keeps_the_contract(sampler, moved(policy), prompts)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_learners_after_every_update(server: Child, model: str, temperature: float) -> None:
    policy, prompts = parts(model)
    sampler = sampler_of(server, policy, model, temperature=temperature)
    for version in (1, 2, 3):
        sampler.load(moved(policy), version=version)
        generation = sampler.generate(prompts)
        with torch.no_grad():
            found = policy.analyze(prompts, generation.responses, generation.mask, temperature=temperature).log_probs
        torch.testing.assert_close(generation.log_probs, found, atol=2e-4, rtol=1e-3)


def test_cut_log_probs_are_of_what_was_left(server: Child, model: str) -> None:
    policy, prompts = parts(model)
    generation = sampler_of(server, policy, model, top_k=5, temperature=0.8).generate(prompts)
    assert generation.policy_log_probs is None
    row, length = 2, int(generation.mask[2].sum())
    text = prompts.ids[row][prompts.mask[row]].tolist()
    for place in range(length):
        ids = torch.tensor([text + generation.responses[row, :place].tolist()])
        with torch.no_grad():
            logits = policy.actor.causal_lm(ids).logits[0, -1] / 0.8
        best = logits.topk(5)
        token = int(generation.responses[row, place])
        assert token in best.indices.tolist()
        expected = float(logits[token] - best.values.logsumexp(dim=0))
        assert float(generation.log_probs[row, place]) == pytest.approx(expected, abs=1e-3)


def test_stops_belong_to_the_answer(server: Child, model: str) -> None:
    policy, prompts = parts(model)
    stops = frozenset(range(20, 60))
    generation = sampler_of(server, policy, model).generate(prompts)
    for row, reason in enumerate(generation.finish_reasons):
        tokens = generation.responses[row][generation.mask[row]].tolist()
        assert (tokens[-1] in stops) == (reason == "stop")
        assert not stops.intersection(tokens[:-1])
    free = sampler_of(server, policy, model, stop_token_ids=frozenset()).generate(prompts)
    text = free.completions[2]
    assert free.finish_reasons[2] == "length"  # the EOS of the model's files ends nothing that we did not say
    part = text[3:5]
    ended = sampler_of(server, policy, model, stop_token_ids=frozenset(), stop_strings=(part,)).generate(prompts)
    assert ended.finish_reasons[2] == "stop"
    assert part in ended.completions[2]
    assert text.startswith(ended.completions[2])


def test_rows_have_random_numbers_of_their_own(server: Child, model: str) -> None:
    policy, prompts = parts(model)
    first, second = sampler_of(server, policy, model), sampler_of(server, policy, model)
    made = first.generate(prompts)
    assert torch.equal(made.responses, second.generate(prompts).responses)
    assert made.completions[1] != made.completions[3]  # the same prompt, another row


def test_weights_under_names_that_vllm_does_not_know_are_an_error(server: Child, model: str) -> None:
    policy, _ = parts(model)
    sampler = sampler_of(server, policy, model)
    layer = policy.actor.causal_lm.model.layers[0]
    layer.register_parameter("strange", torch.nn.Parameter(torch.ones(3)))
    with pytest.raises(Exception, match="strange"):
        sampler.load(policy, version=1)
    del layer.strange
    sampler.load(policy, version=2)  # and the engine is none the worse for it


def test_our_bodies_are_vllms_requests(ask: Asked) -> None:
    settings = SamplingSettings(max_tokens=7, temperature=0.7, top_k=5, top_p=0.9, stop_token_ids=frozenset({5, 3}))
    stops = SamplingSettings(max_tokens=7, stop_strings=("ab", "c"))
    bodies = [request([1, 2], settings, 2**63 - 1), request([1], stops, 0), probe([1, 2, 3])]
    script = """
import json, sys
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
for body in json.load(open(sys.argv[1])):
    made = GenerateRequest.model_validate(body)
    for name, value in body["sampling_params"].items():
        found = getattr(made.sampling_params, name)
        print(name, found)
        assert found == value or (name == "stop" and found == (value or [])), (name, found, value)
"""
    assert "top_p 0.9" in ask(script, json.dumps(bodies))


def test_the_server_of_our_tests_answers_in_vllms_shapes(ask: Asked, model: str) -> None:
    served = VLLMServer(model)
    try:
        made = served._generated(request([1, 2, 3], SamplingSettings(max_tokens=3), 7))
        probed = served._generated(probe([1, 2, 3]))
    finally:
        closed(served)
    script = """
import json, sys
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateTokensResponse
data = json.load(open(sys.argv[1]))
for answer in data["answers"]:
    GenerateTokensResponse.model_validate(answer)
    known = set(GenerateTokensResponse.model_fields)
    assert set(answer) <= known, set(answer) - known
    choice = GenerateTokensResponse.model_fields["choices"].annotation.__args__[0]
    assert set(answer["choices"][0]) <= set(choice.model_fields)
import dataclasses
from vllm.config import ModelConfig, ParallelConfig, VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
sections = [("model_config", ModelConfig), ("parallel_config", ParallelConfig)]
sections = dict(sections, weight_transfer_config=WeightTransferConfig)
for name, section in data["config"].items():
    assert name in {field.name for field in dataclasses.fields(VllmConfig)}, name
    known = {field.name for field in dataclasses.fields(sections[name])}
    for option in section:
        assert option in known, option
"""
    ask(script, json.dumps({"answers": [made, probed], "config": CONFIG}))


def test_what_we_send_is_what_the_back_end_takes(ask: Asked) -> None:
    memory = SharedWeights(400, size=512)
    weights = [(name, torch.randn(7, 11)) for name in "abcdefgh"] + [("n", torch.arange(3))]
    pieces = [json.loads(json.dumps(piece)) for piece in memory.pieces(iter(weights), torch.bfloat16)]
    assert len(pieces) > 1
    assert pieces[-1]["total"] == 9
    assert {tuple(piece["dtype_names"]) for piece in pieces[:-1]} == {("bfloat16",) * len(pieces[0]["names"])}
    inside = str(Path(__file__).parents[2] / "src/clearppo/rollout/vllm/inside")
    script = f"""
import json, sys
sys.path.insert(0, {inside!r})
import torch
from clearppo_vllm import MemoryTransferEngine, SharedMemory, Tensors, summed
from clearppo_vllm import WeightTransferEngineFactory as Factory
data = json.load(open(sys.argv[1]))
assert Factory._registry["clearppo"]() is MemoryTransferEngine
SharedMemory(**data["introduction"])
for piece in data["pieces"]:
    Tensors(**piece)
print(summed(torch.arange(77, dtype=torch.int16).view(torch.uint8)))
"""
    told = ask(script, json.dumps({"introduction": memory.introduction(), "pieces": pieces}))
    from clearppo.rollout.vllm.memory import summed

    assert int(told.split()[-1]) == summed(torch.arange(77, dtype=torch.int16).view(torch.uint8))
    memory.close()


def test_a_model_that_vllm_does_not_know_is_one_sentence(vllm_python: str, tmp_path: Path) -> None:
    path = Path(tiny_causal_lm(tmp_path))
    config = json.loads((path / "config.json").read_text())
    config["architectures"], config["model_type"] = ["NobodysForCausalLM"], "nobodys"
    (path / "config.json").write_text(json.dumps(config))
    child = Child.start(Server(model=str(path), port=free_port(), python=vllm_python, flags=FLAGS))
    with pytest.raises(ConfigError, match="vLLM could not be started") as said:
        child.wait(120)
    child.stop()
    assert "nobodys" in str(said.value)


def test_an_engine_ends_with_the_process_that_started_it(vllm_python: str, model: str) -> None:
    script = (
        "import sys, time\n"
        "from clearppo.rollout.vllm.launch import Child, Server, free_port\n"
        f"child = Child.start(Server(model={model!r}, port=free_port(), python={vllm_python!r}, flags={FLAGS!r}))\n"
        "child.wait(200)\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 60
    while any(_session(int(entry.name)) == engine for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        assert time.monotonic() < until, "the engine is still there"
        time.sleep(0.5)


def _session(pid: int) -> int:
    try:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:1]:
            return -1
        return os.getsid(pid)
    except (OSError, IndexError):
        return -1
