"""The parts of a run that a checkpoint holds beside its weights."""

from collections.abc import Callable
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


@dataclass(frozen=True)
class Part:
    """A Kept from functions, for what has no such methods."""

    state: Callable[[], Any]
    load_state: Callable[[Any], None]


CHANCE = Part(chance_state, set_chance)


def generator_part(generator: torch.Generator) -> Part:
    """A random generator of the run's own."""

    def load_state(state: torch.Tensor) -> None:
        generator.set_state(state.clone())

    return Part(generator.get_state, load_state)


def optimiser_part(optimiser: torch.optim.Optimizer) -> Part:
    """What the optimiser remembers of each weight."""
    return Part(lambda: optimiser_state(optimiser), lambda state: load_optimiser_state(optimiser, state))


def constant_part(value: Any) -> Part:
    """Something that a checkpoint notes, and that nothing is put back from."""
    return Part(lambda: value, lambda _: None)
