"""A look at a batch that a run could not learn from: the same loss on the same numbers, and no weight is moved."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearppo.batch import Experience, Prompts, Rollout, Sequences
from clearppo.data.comparisons import ComparisonBatch
from clearppo.engines.base import ModuleT, OneProcess
from clearppo.learning import Objective, Passes, learn
from clearppo.learning.examine import of_sampling
from clearppo.learning.faults import Fault
from clearppo.learning.reward import RewardObjective, learn_comparisons
from clearppo.learning.sft import learn_demonstrations
from clearppo.models.actor import Actor
from clearppo.models.policy import FrozenReference, Policy
from clearppo.models.reward_model import RewardModel
from clearppo.train.faults import read_fault


def replay(
    directory: str | Path, model: Policy | Actor | RewardModel, *, reference: FrozenReference | None = None
) -> Fault | None:
    """Learn once more from a batch that was saved in output_dir/faults, without a step: what is not finite and where,
    or None if this model learns from it as from any other.

        from clearppo.models.build import make_policy
        from clearppo.models.loading import load_causal_lm
        from clearppo.train.replay import replay

        print(replay("runs/first/faults/step-7", make_policy(load_causal_lm("runs/first/interrupted"))))

    A run of PPO wants a Policy (and its reference, if kl_loss_estimator is full), one of SFT an Actor, a reward model a
    RewardModel. The texts of PPO-ptx are left out. Answers that were left out before learning, for a score that was not
    finite, have no loss: they are looked at for what sampling said of them.

    Raises TypeError for a model of another kind, OSError, ValueError or KeyError if the directory holds no fault.
    """
    fault = read_fault(directory)
    looking, settings = _Looking(), dict(fault.settings)
    engine = _Nowhere(next(model.parameters()).device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    common: dict[str, Any] = {"engine": engine, "optimiser": optimiser, "guard": looking}
    match fault.batch, model:
        case Rollout() as rollout, _:
            place = of_sampling(rollout)
            return None if place is None else replace(fault, place=place)
        case Experience() as batch, Policy():
            once = {"epochs": 1, "num_mini_batches": 1, "early_stop_kl": None}
            learn(
                model,
                _experience(batch, engine.device),
                objective=Objective(**settings["objective"]),
                passes=Passes(**{**settings["passes"], **once}),
                generator=torch.Generator(),
                reference=reference,
                **common,
            )
        case Sequences() as batch, Actor():
            learn_demonstrations(model, batch.to(engine.device), max_grad_norm=None, **settings, **common)
        case ComparisonBatch() as batch, RewardModel():
            objective = RewardObjective(**settings.pop("objective"))
            learn_comparisons(model, batch, objective=objective, **settings, **common)
        case batch, _:
            raise TypeError(f"a batch of {type(batch).__name__} is not learned from by a {type(model).__name__}.")
    return looking.found


class _Looking:
    """A guard that only keeps what it is told."""

    found: Fault | None = None

    def good(self) -> None: ...

    def bad(self, fault: Fault) -> None:
        self.found = fault


class _Nowhere(OneProcess):
    """An Engine that never steps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, module: ModuleT) -> ModuleT:
        return module

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if norm < float("inf"):
            optimiser.zero_grad(set_to_none=True)
        return norm

    def free_memory(self) -> int | None:
        return None


def _experience(batch: Experience, device: torch.device) -> Experience:
    """The batch on a device."""

    def moved(part: Any) -> dict[str, Any]:
        return {name: value.to(device) for name, value in vars(part).items() if isinstance(value, Tensor | Prompts)}

    return replace(batch, rollout=replace(batch.rollout, **moved(batch.rollout)), **moved(batch))
