"""学习 alone: the part of a PPO run that learns, and one iteration of it from a recorded batch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearppo.batch import Experience, Stats
from clearppo.engines.base import Engine, ModuleT, OneProcess
from clearppo.learning import Objective, Passes, Ptx, Watch, credit, learn
from clearppo.learning.faults import Fault
from clearppo.learning.optimiser import load_optimiser_state, optimiser_state, set_rate
from clearppo.models.ema import EMA
from clearppo.models.network import Network
from clearppo.models.policy import Analysis, FrozenReference, Policy, analyze_in_micro_batches
from clearppo.train.ppo import Recipe
from clearppo.train.replay.batch import RecordedBatch
from clearppo.train.weights import load_weights

Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What learns in a run of PPO, with the numbers that it learns by. `reference` is there where the loss reads it."""

    policy: Policy
    engine: Engine
    optimiser: torch.optim.Optimizer
    ema: EMA
    generator: torch.Generator
    ptx: Ptx | None
    reference: FrozenReference | None
    recipe: Recipe
    objective: Objective
    passes: Passes

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return dict(self.policy.trainable())

    def state(self) -> dict[str, Any]:
        """All that the next iteration's learning depends on, in the form of a checkpoint's tree."""
        weights = {name: weight.detach() for name, weight in self.learned.items()}
        texts = {} if self.ptx is None else {"texts": self.ptx.stream.state()}
        return {
            "weights": {"prefix": "", "files": {}, "tensors": weights},
            "late": {"optimiser": optimiser_state(self.optimiser), "average": self.ema.state()},
            "round": {"early": {"generator": self.generator.get_state(), **texts}},
        }

    def restore(self, tree: Tree, directory: Path) -> None:
        """Go back to a `state`, or to that of a checkpoint in this directory. Raises CheckpointError if it is of a run
        that learns other weights."""
        early = tree["round"]["early"]
        load_weights(self.learned, tree["weights"], directory)
        load_optimiser_state(self.optimiser, tree["late"]["optimiser"])
        self.ema.load_state(tree["late"]["average"])
        self.generator.set_state(early["generator"].clone())
        if self.ptx is not None:
            self.ptx.stream.load_state(early["texts"])
        self.policy.forget()

    def look(self, batch: RecordedBatch) -> Analysis:
        """What the policy thinks of the answers now. It reads them in the portions in which sampling and judging did,
        so that frozen layers keep what they kept then."""
        rollout = batch.rollout
        return analyze_in_micro_batches(
            self.policy, rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature,
            **self.passes.portions,
        )  # fmt: skip

    @property
    def keeps_rows(self) -> bool:
        """Whether it has frozen layers, of whose first reading the last bits depend on."""
        networks = (self.policy.actor, self.policy.critic)
        return any(isinstance(network, Network) and network.frozen is not None for network in networks)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """An iteration's learning: from what, what was measured, at which rate, and how many optimiser steps it took."""

    experience: Experience
    stats: Stats
    learning_rate: float
    steps: int


def rate_factor(learner: Learner, batch: RecordedBatch) -> float:
    """What the schedule's rate was multiplied with when this batch was learned from: 1, or less after an alarm."""
    planned = learner.optimiser.param_groups[0]["initial_lr"] * learner.recipe.rate_scale(batch.step - 1)
    recorded = batch.meta["learning_rate"]
    return 1.0 if planned in (0.0, recorded) else recorded / planned


def learn_again(
    learner: Learner,
    batch: RecordedBatch,
    *,
    factor: float = 1.0,
    watch: Watch | None = None,
    first: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> Learned:
    """Learn from a batch as the loop does, and end the iteration; nothing is sampled, and nobody is asked for a score.
    `first` is shown the gradients of the first optimiser step, before clipping."""
    recipe, policy = learner.recipe, learner.policy
    engine = _Observed(learner.engine, policy.trainable(), first)
    rate = set_rate(learner.optimiser, recipe.rate_scale(batch.step - 1) * factor)
    experience = credit(batch.rollout, batch.feedback, **recipe.crediting)
    stats = learn(
        policy,
        experience,
        engine,
        learner.optimiser,
        objective=learner.objective,
        passes=learner.passes,
        generator=learner.generator,
        reference=learner.reference,
        ptx=learner.ptx,
        critic_only=batch.step <= recipe.critic_warmup_steps,
        guard=_Patient(),
        watch=watch,
    )
    learner.ema.update()
    policy.forget()
    return Learned(experience=experience, stats=stats, learning_rate=rate, steps=engine.steps)


class _Patient:
    """A guard that leaves out what cannot be learned from, as the run did: it went on."""

    def good(self) -> None: ...

    def bad(self, fault: Fault) -> None: ...


class _Observed(OneProcess):
    """An Engine whose steps are counted, and whose first gradients are shown."""

    def __init__(
        self,
        engine: Engine,
        named: list[tuple[str, nn.Parameter]],
        first: Callable[[Mapping[str, Tensor]], None] | None,
    ) -> None:
        self.engine = engine
        self.device = engine.device
        self.steps = 0
        self._named = named
        self._first = first

    def wrap(self, module: ModuleT) -> ModuleT:
        return self.engine.wrap(module)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        if self._first is not None and not self.steps:
            self._first({name: weight.grad for name, weight in self._named if weight.grad is not None})
        self.steps += 1
        return self.engine.step(optimiser, parameters, max_norm)

    def free_memory(self) -> int | None:
        return self.engine.free_memory()
