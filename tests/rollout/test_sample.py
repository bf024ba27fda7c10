"""Whose numbers a rollout holds: the sampler's, the learner's, and of a critic of its own the critic's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.models.build import load_critic, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from clearppo.rollout import SamplingSettings, sample
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import Generation
from tests.models.test_actor import ragged
from tests.tiny import tiny_causal_lm


def parts(path: Path, critic: str) -> tuple[Policy, InProcessSampler, Prompts]:
    name = tiny_causal_lm(path)
    tokenizer = load_tokenizer(name)
    separate = load_critic(name, tokenizer, dtype=torch.float64) if critic == "separate" else None
    policy = make_policy(load_causal_lm(name, dtype=torch.float64), separate_critic=separate)
    head = policy.critic.score if separate is None else separate.score
    torch.manual_seed(2)
    torch.nn.init.normal_(head.weight)
    settings = SamplingSettings(max_tokens=6, temperature=0.7, stop_token_ids=frozenset(range(30)))
    prompts, _, _ = ragged((3, 7, 5, 2, 6, 4), (1,) * 6)
    return policy, InProcessSampler(policy, tokenizer, settings, seed=3), prompts


class Shifted:
    """A sampler whose log-probs are off by a tenth, and known to be; without values, if it is told so."""

    def __init__(self, sampler: InProcessSampler, *, values: bool) -> None:
        self.sampler, self.with_values = sampler, values

    def generate(self, prompts: Prompts) -> Generation:
        given = self.sampler.generate(prompts)
        fields = dict(vars(given))
        fields |= {"policy_log_probs": (given.policy_log_probs - 0.1).masked_fill(~given.mask, 0.0), "exact": False}
        fields |= {} if self.with_values else {"values": None}
        return Generation(**fields)

    def load(self, policy: Policy, version: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return self.sampler.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state(state)


def counted(policy: Policy) -> list[str]:
    """The names of the passes that the policy makes from now on."""
    passes: list[str] = []
    for name, part in (("actor", policy.actor), ("critic", policy.critic)):
        if hasattr(part, "backbone"):
            part.backbone.register_forward_hook(lambda *_, name=name: passes.append(name))
    return passes


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("tokens", [None, 20])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_exact_numbers_are_the_learners_whoever_is_asked(tmp_path: Path, critic: str, tokens: int | None) -> None:
    found = []
    for source in ("auto", "learner", "sampler"):
        policy, sampler, prompts = parts(tmp_path, critic)
        found.append(sample(policy, prompts, sampler, old_log_probs=source, micro_batch_tokens=tokens))  # type: ignore[arg-type]
    for rollout in found[1:]:
        assert torch.equal(rollout.responses, found[0].responses)
        same(rollout.old_log_probs, found[0].old_log_probs)
        same(rollout.old_values, found[0].old_values)
    assert float(found[0].old_values.abs().max()) > 0.01
    assert len(set(found[0].mask.sum(dim=1).tolist())) > 1
    assert float(found[0].old_values[~found[0].mask].abs().sum()) == 0.0


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_only_the_sampler_itself_is_believed_when_asked_to(tmp_path: Path, critic: str, values: bool) -> None:
    policy, sampler, prompts = parts(tmp_path, critic)
    exact = sample(policy, prompts, sampler)

    def of(source: Any) -> Any:
        sampler.answered = 0  # the same random numbers again
        return sample(policy, prompts, Shifted(sampler, values=values), old_log_probs=source)

    for source, shift in (("auto", 0.0), ("learner", 0.0), ("sampler", 0.1)):
        rollout = of(source)
        same(rollout.old_log_probs, (exact.old_log_probs - shift).masked_fill(~exact.mask, 0.0))
        same(rollout.old_values, exact.old_values)


def test_no_pass_is_made_that_nobody_needs(tmp_path: Path) -> None:
    for critic, source, expected in (
        ("shared", "sampler", set()),
        ("shared", "auto", set()),
        ("shared", "learner", {"actor"}),
        ("separate", "sampler", {"critic"}),
        ("separate", "learner", {"actor", "critic"}),
    ):
        policy, sampler, prompts = parts(tmp_path, critic)
        generation = sampler.generate(prompts)
        sampler.generate = lambda _, given=generation: given  # type: ignore[method-assign]
        passes = counted(policy)
        sample(policy, prompts, sampler, old_log_probs=source)  # type: ignore[arg-type]
        assert set(passes) == expected, (critic, source)
