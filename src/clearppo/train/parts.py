"""The parts of a run that a checkpoint holds beside its weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from clearppo.learning.optimiser import load_optimiser_state, optimiser_state
from clearppo.train.chance import chance_state, set_chance


@runtime_checkable
class Kept(Protocol):
    """A part of a run that a checkpoint holds: a tree of tensors and plain values (train/state_file.py)."""

    def state(self) -> Any: ...

    def load_state(self, state: Any, /) -> None: ...


@runtime_checkable
class Held(Protocol):
    """A part with tensors that may be shared out over processes: all must gather them before one writes its state."""

    tensors: Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Part:
    """A Kept from functions, for what has no such methods."""

    state: Callable[[], Any]
    load_state: Callable[[Any], None]
    tensors: Callable[[], Iterable[torch.Tensor]] = tuple


CHANCE = Part(chance_state, set_chance)


def generator_part(generator: torch.Generator) -> Part:
    """A random generator of the run's own."""

    def load_state(state: torch.Tensor) -> None:
        generator.set_state(state.clone())

    return Part(generator.get_state, load_state)


def optimiser_part(optimiser: torch.optim.Optimizer) -> Part:
    """What the optimiser remembers of each weight."""

    def tensors() -> Iterable[torch.Tensor]:
        groups = (
            optimiser.state.get(parameter, {}) for group in optimiser.param_groups for parameter in group["params"]
        )
        return [value for known in groups for value in known.values() if isinstance(value, torch.Tensor)]

    return Part(lambda: optimiser_state(optimiser), lambda state: load_optimiser_state(optimiser, state), tensors)


def constant_part(value: Any) -> Part:
    """Something that a checkpoint notes, and that nothing is put back from."""
    return Part(lambda: value, lambda _: None)
