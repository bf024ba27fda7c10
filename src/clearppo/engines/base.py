"""The socket between the phases and the machines that they run on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@runtime_checkable
class Engine(Protocol):
    """One process's view of all processes that train together; a batch's `Division` among them.

    Every process runs the same program on the same whole batches, so that all know the same numbers, and does its share
    of what is heavy. All call the same methods in the same order. On one device every sum is what it was given.
    """

    device: torch.device
    rank: int
    world: int

    @property
    def apart(self) -> bool:
        """Whether this process has parted from the others, by an error, and can ask them nothing any more."""
        ...

    def wrap(self, module: ModuleT) -> ModuleT:
        """Place a module on the device."""
        ...

    def unite(self, network: nn.Module) -> None:
        """Make a network that is built whole one of all processes: with the weights that rank 0 has, or a share of them
        on each. Raises ConfigError if a process has built another one."""
        ...

    def shard(self, network: nn.Module, *, whole: Iterable[nn.Parameter] = (), offload: bool = False) -> None:
        """From now on this process keeps a share of the network's weights, if the engine shares them out: then all must
        pass through it equally often. Its parameters are other objects afterwards. Layers with weights in `whole` stay
        as they are; `offload` keeps the shares in the host's memory. Raises ModelError."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients; losses are sums over this process's part divided by global counts."""
        ...

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        """Add up the gradients of all processes, clip them to the norm `max_norm` (None = no clipping), step, forget
        them; the norm before.

        With a norm that is not finite nothing is done, and the gradients stay, for whoever looks for the cause.
        """
        ...

    def free_memory(self) -> int | None:
        """Bytes that this process can still allocate on the device; None if nobody knows."""
        ...

    def deal(self, costs: Sequence[int]) -> list[int]:
        """See batch.Division."""
        ...

    def passes(self, n: int) -> int:
        """See batch.Division."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """What each process says, in rank order: plain values, as JSON has them."""
        ...

    def share(self, call: Callable[[], Any]) -> Any:
        """What `call` gives on rank 0, where alone it is called: plain values, as JSON has them. A ClearPPOError that
        it raises there is raised on every process."""
        ...

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises ConfigError, on every process, if one has another value under a name than rank 0: it says both."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Around what talks with other processes by other ways than this engine: its time counts as `waited`."""
        ...

    def waited(self) -> float:
        """Seconds so far in which this process talked with others, and waited for those that are late."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """While this is open, an error that ends this process alone is told to the others, which end too; and an error
        that comes of a lost process becomes a DistributedError that names it."""
        ...


class OneProcess:
    """What an engine does with others, where there are none."""

    rank = 0
    world = 1
    apart = False

    def unite(self, network: nn.Module) -> None:
        pass

    def shard(self, network: nn.Module, *, whole: Iterable[nn.Parameter] = (), offload: bool = False) -> None:
        pass

    def deal(self, costs: Sequence[int]) -> list[int]:
        return list(range(len(costs)))

    def passes(self, n: int) -> int:
        return n

    def sum(self, value: Tensor) -> Tensor:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def share(self, call: Callable[[], Any]) -> Any:
        return call()

    def agree(self, facts: Mapping[str, Any]) -> None:
        pass

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def waited(self) -> float:
        return 0.0

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()
