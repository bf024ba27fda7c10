"""The socket between the learning phase and the machines it runs on."""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@runtime_checkable
class Engine(Protocol):
    """One process's view of all processes that train together. On one device every sum is what it was given."""

    device: torch.device

    def wrap(self, module: ModuleT) -> ModuleT:
        """Place a module on the device, and shard it where the engine shards."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients; losses are sums over this process's part divided by global counts."""
        ...

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        """Clip the gradients to the global norm `max_norm` (None = no clipping), step, forget them; the norm before.

        With a norm that is not finite nothing is done, and the gradients stay, for whoever looks for the cause.
        """
        ...

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on the device; None if nobody knows."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        ...

    def gather(self, value: Tensor) -> Tensor:
        """All processes' rows, in rank order."""
        ...
