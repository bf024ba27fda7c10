"""One batch ahead: what is drawn, when, by which weights, and what a run that goes on finds of it."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, load_config
from clearppo.data import encode_prompts
from clearppo.engines.local import LocalEngine
from clearppo.errors import RewardError
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import Generation, SamplingSettings
from clearppo.rollout.ahead import AheadSampler
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.train.run import PPORun
from tests.contracts.test_sampler import keeps_the_contract
from tests.distributed.pair import difference
from tests.resume.runs import Killed, KilledAt, options_of
from tests.tiny import tiny_causal_lm

HERE = LocalEngine(torch.device("cpu"))
TABLES = {"responses": torch.long, "mask": torch.bool, "log_probs": None, "policy_log_probs": None}


class OnACopy:
    """Our own decoder on a copy of the policy: an engine with weights of its own, that says how it was asked.

    While `gate` is closed it writes nothing.
    """

    def __init__(self, policy: Policy, tokenizer: Any, settings: SamplingSettings, *, seed: int) -> None:
        self.policy, self.answered, self.version = copy.deepcopy(policy), 0, 0
        self.writer = InProcessSampler(self.policy, tokenizer, settings, seed=seed)
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[tuple[int, int]] = []  # the first row, and the weights that wrote
        self.fails = False

    def order(self, prompts: Prompts) -> Any:
        first, self.answered = self.answered, self.answered + len(prompts)
        return prompts, first

    def ask(self, order: Any) -> Any:
        assert self.gate.wait(20)
        if self.fails:
            raise RewardError("the engine is gone")
        prompts, self.writer.answered = order
        self.asked.append((order[1], self.version))
        found = self.writer.generate(prompts)
        tables = {name: getattr(found, name).tolist() for name in TABLES}
        return {**tables, "finish_reasons": found.finish_reasons, "completions": found.completions}

    def read(self, answers: Any) -> Generation:
        kind = self.policy.actor.causal_lm.get_input_embeddings().weight.dtype
        tables = {name: torch.tensor(answers[name], dtype=dtype or kind) for name, dtype in TABLES.items()}
        return Generation(
            **tables, values=None, exact=False, finish_reasons=tuple(answers["finish_reasons"]),
            completions=tuple(answers["completions"]), temperature=self.writer.settings.temperature,
            policy_version=self.version,
        )  # fmt: skip

    def generate(self, prompts: Prompts) -> Generation:
        return self.read(self.ask(self.order(prompts)))

    def load(self, policy: Policy, version: int) -> None:
        self.policy.load_state_dict(policy.state_dict())
        self.writer.load(self.policy, version)
        self.version = version

    def state(self) -> dict[str, Any]:
        return {"answered": self.answered, "version": self.version}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.answered, self.version = state["answered"], state["version"]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Policy, OnACopy, list[Prompts]]:
    """A policy, an engine with a copy of it, and five batches."""
    torch.manual_seed(0)
    path = tiny_causal_lm(tmp_path)
    tokenizer = load_tokenizer(path)
    policy = make_policy(load_causal_lm(path))
    texts = ("The film was", "I", "What do you say", "It", "The dog", "So", "We", "The food", "Bad", "A film")
    rows = [{"prompt": text} for text in texts]
    prompts = encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="x")
    settings = SamplingSettings(max_tokens=5, stop_token_ids=frozenset(range(20, 60)))
    batches = [prompts.batch(range(first, first + 2), 1) for first in range(0, 10, 2)]
    return policy, OnACopy(policy, tokenizer, settings, seed=1), batches


def learn(policy: Policy) -> None:
    """Other weights than before."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def test_it_keeps_the_contract(made: tuple[Policy, OnACopy, list[Prompts]]) -> None:
    policy, engine, batches = made
    keeps_the_contract(AheadSampler(engine, HERE), policy, batches[0])


def test_every_batch_is_drawn_once_by_the_weights_before(made: tuple[Policy, OnACopy, list[Prompts]]) -> None:
    policy, engine, batches = made
    sampler = AheadSampler(engine, HERE)
    sampler.load(policy, version=0)
    versions, answers = [], []
    for step, prompts in zip(range(5), sampler.watch(iter(batches)), strict=False):
        generation = sampler.generate(prompts)
        versions.append(generation.policy_version)
        answers.append(generation.responses)
        assert not generation.exact
        learn(policy)
        sampler.load(policy, version=step + 1)
    assert versions == [0, 0, 1, 2, 3]
    assert engine.asked == [(0, 0), (2, 0), (4, 1), (6, 2), (8, 3)]  # no batch too many
    again = OnACopy(engine.policy, engine.writer.tokenizer, engine.writer.settings, seed=1)
    again.answered = 8
    assert not torch.equal(again.generate(batches[4]).responses, answers[4])  # which the last weights did not draw


def test_it_writes_while_others_learn_and_gets_no_weights_meanwhile(
    made: tuple[Policy, OnACopy, list[Prompts]],
) -> None:
    policy, engine, batches = made
    sampler = AheadSampler(engine, HERE)
    prompts = sampler.watch(iter(batches))
    engine.gate.set()
    sampler.load(policy, version=0)
    first = next(prompts)
    held = threading.Event()
    ask = engine.ask

    def later(order: Any) -> Any:
        if order[1] == 2:
            held.set()
            engine.gate.clear()
        return ask(order)

    engine.ask = later  # type: ignore[method-assign]
    sampler.generate(first)
    assert held.wait(20)  # it is asked already, and we are not held up
    loading = threading.Thread(target=sampler.load, args=(policy, 1))
    loading.start()
    loading.join(0.3)
    assert loading.is_alive()
    assert engine.version == 0
    engine.gate.set()
    loading.join(20)
    assert engine.version == 1
    assert sampler.generate(next(prompts)).policy_version == 0


def test_what_is_there_already_is_part_of_the_state(made: tuple[Policy, OnACopy, list[Prompts]]) -> None:
    policy, engine, batches = made
    sampler = AheadSampler(engine, HERE)
    sampler.load(policy, version=0)
    watched = sampler.watch(iter(batches))
    sampler.generate(next(watched))
    learn(policy)
    sampler.load(policy, version=1)
    state = sampler.state()
    expected = [sampler.generate(next(watched)).responses for _ in range(2)]
    other = OnACopy(policy, engine.writer.tokenizer, engine.writer.settings, seed=1)
    resumed = AheadSampler(other, HERE)
    resumed.load(policy, version=1)
    resumed.load_state(state)
    resumed.generate(batches[0])  # a self-check does not take it
    resumed.load_state(state)
    watched = resumed.watch(iter(batches[1:]))
    found = [resumed.generate(next(watched)) for _ in range(2)]
    assert [generation.policy_version for generation in found] == [0, 1]
    assert all(torch.equal(one.responses, two) for one, two in zip(found, expected, strict=True))
    resumed.load_state({**state, "answered": 100})  # on with other answers
    resumed.generate(batches[1])
    assert other.asked[-1] == (100, 1)


def test_an_error_is_raised_where_the_answers_are_wanted(made: tuple[Policy, OnACopy, list[Prompts]]) -> None:
    policy, engine, batches = made
    sampler = AheadSampler(engine, HERE)
    sampler.load(policy, version=0)
    watched = sampler.watch(iter(batches))
    engine.gate.clear()
    threading.Timer(0.0, engine.gate.set).start()
    sampler.generate(next(watched))
    sampler.load(policy, version=1)
    engine.fails = True
    sampler.generate(next(watched))
    sampler.load(policy, version=2)
    state = sampler.state()
    assert (state["ahead"], state["answered"]) == (None, 4)  # these rows are asked for again
    with pytest.raises(RewardError, match="the engine is gone"):
        sampler.generate(next(watched))


def run_of(config: PPOConfig, listener: Any = None) -> PPORun:
    """A run whose answers are drawn ahead, by our decoder on a copy of the policy."""
    run = build_ppo(config, listener=listener)
    assert isinstance(run.sampler, InProcessSampler)
    engine = OnACopy(run.policy, run.tokenizer, run.sampler.settings, seed=config.run.seed)
    recipe = replace(run.recipe, old_log_probs="learner")
    return replace(run, sampler=AheadSampler(engine, run.engine), recipe=recipe)


def test_a_run_that_is_killed_goes_on_with_the_answers_that_were_there(tmp_path: Path) -> None:
    options = options_of("ppo", tmp_path, tiny_causal_lm(tmp_path / "model"))
    options |= {"save_steps": "1", "total_episodes": "40", "importance_cap": "2"}

    def config(place: str, **more: str) -> PPOConfig:
        return load_config(PPOConfig, flags={**options, "output_dir": str(tmp_path / place), **more})

    straight = run_of(config("straight"))
    straight.train()
    straight.run_dir.release()
    assert isinstance(straight.sampler, AheadSampler)
    rows = straight.track.history
    assert [row.get("sampling/staleness") for row in rows] == [None, 1.0, 1.0, 1.0, 1.0]
    assert rows[1]["sampling/log_prob_difference"] > 10 * rows[0]["sampling/log_prob_difference"]
    assert any(row["sampling/importance_weight"] != 1.0 for row in rows)
    assert straight.sampler.sampler.answered == 8 + 40  # those of the self-check, and no batch too many
    killed = run_of(config("killed"), KilledAt(17))
    with pytest.raises(Killed):
        killed.train()
    killed.run_dir.release()
    assert 1 <= len(killed.track.history) < 5
    resumed = run_of(config("killed", resume_from_checkpoint="auto"))
    resumed.train()
    assert difference(tmp_path / "straight", tmp_path / "killed")[0] == 0.0
