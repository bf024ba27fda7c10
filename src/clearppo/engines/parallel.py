"""Several processes, each with all weights: rows are dealt out, gradients are added up before every step."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from clearppo.engines.group import Group, require_same
from clearppo.engines.local import LocalEngine, free_memory

BUCKET = 2**25
"""Bytes of gradients that are added up in one message."""


class ParallelEngine(LocalEngine):
    """One of several processes that train the same weights (plain data parallel).

    Sums are of the same bits on all processes, and all take the same step from the same weights.
    """

    def __init__(self, device: torch.device, group: Group) -> None:
        super().__init__(device)
        self.group = group
        self.rank, self.world = group.rank, group.world

    @property
    def apart(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See Engine."""
        return self.group.apart

    def unite(self, network: nn.Module) -> None:
        """See Engine.unite: all get the weights of rank 0. Other weights of a start model are an error, for the files
        differ."""
        tensors = dict([*network.named_parameters(), *network.named_buffers()])
        shapes = {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()}
        require_same(self.group, {f"the shape of the weight {name}": shape for name, shape in shapes.items()})
        other = ""
        for name, tensor in tensors.items():
            own = tensor.detach().clone()
            self.group.spread(tensor.detach())
            if not torch.equal(own, tensor) and not other:
                other = name
        same = [f"weights of their own, as in {name}" if name else "those of process 0" for name in self.gather(other)]
        require_same(self.group, {"the start model": same[self.rank]})

    def deal(self, costs: Sequence[int]) -> list[int]:
        """See batch.Division: the dearest piece first, each to whoever has least to do. All processes find the same."""
        loads = [(0, rank) for rank in range(self.world)]
        mine: list[int] = []
        for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
            load, rank = heapq.heappop(loads)
            heapq.heappush(loads, (load + max(costs[piece], 1), rank))
            if rank == self.rank:
                mine.append(piece)
        return sorted(mine)

    def passes(self, n: int) -> int:
        """See batch.Division: nobody waits for another's passes, but each makes one, to know what is summed."""
        return max(n, 1)

    def sum(self, value: Tensor) -> Tensor:
        return self.group.sum(value)

    def gather(self, value: Any) -> list[Any]:
        return self.group.gather(value)

    def share(self, call: Callable[[], Any]) -> Any:
        return self.group.share(call)

    def waiting(self) -> AbstractContextManager[None]:
        return self.group.waits.of(self.device)

    def waited(self) -> float:
        return self.group.waits.seconds()

    def agree(self, facts: Mapping[str, Any]) -> None:
        require_same(self.group, facts)

    def together(self) -> AbstractContextManager[None]:
        return self.group.together()

    def free_memory(self) -> int | None:
        """See Engine: of the machine's memory a share, where processes share it."""
        free = free_memory(self.device)
        return free if free is None or self.device.type == "cuda" else free // self.group.local_world

    def _add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        there = torch.tensor([parameter.grad is not None for parameter in parameters]).int()
        for parameter, n in zip(parameters, self.sum(there).tolist(), strict=True):
            if n and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            # In float32 at least: a bfloat16 sum over many processes would lose what the last of them adds.
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            whole = self.sum(torch.cat([gradient.reshape(-1).to(wide) for gradient in bucket]))
            for gradient, summed in zip(bucket, whole.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, together as large as one message may be."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        n_bytes = gradient.numel() * gradient.element_size()
        if bucket and (gradient.dtype != bucket[0].dtype or size + n_bytes > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += n_bytes
    if bucket:
        yield bucket
