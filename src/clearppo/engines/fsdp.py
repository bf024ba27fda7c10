"""Several processes that share out the weights of every layer (FSDP2), with their gradients and the optimiser's memory.

A layer's weights are gathered when it computes and given up behind it. Embeddings, the last norm and the heads, which
are read outside of any layer, stay on every process; their gradients are added up as in plain data parallel.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

from clearppo.engines.group import Group
from clearppo.engines.parallel import ParallelEngine
from clearppo.engines.waits import TimedAllGather, TimedReduceScatter
from clearppo.errors import ModelError

_CLIP_EPS = 1e-6  # what torch adds to the norm before it divides


class ShardedEngine(ParallelEngine):
    """One of several processes that have a share of the layers' weights each."""

    def __init__(self, device: torch.device, group: Group) -> None:
        super().__init__(device, group)
        self._mesh = init_device_mesh(device.type, (self.world,))
        self._has_shards = False

    def shard(self, network: nn.Module, *, whole: Iterable[nn.Parameter] = (), offload: bool = False) -> None:
        """See Engine. Raises ModelError for a network that does not say what its layers are."""
        layers, stay = list(_layers(network)), set(map(id, whole))
        if not layers:
            raise ModelError(
                f"--sharding full cannot be used with {type(network).__name__}: transformers does not say what its "
                "layers are. Leave it out."
            )
        self._has_shards = True
        place = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if offload else OffloadPolicy()
        for layer in layers:
            if not isinstance(layer, FSDPModule) and stay.isdisjoint(map(id, layer.parameters())):
                of_layer = {"mesh": self._mesh, "reshard_after_forward": True, "offload_policy": place}
                sharded: Any = fully_shard(layer, **of_layer)
                sharded.set_gradient_divide_factor(1.0)  # losses are over global counts: gradients are sums
                sharded.set_force_sum_reduction_for_comms(True)
                sharded.set_custom_all_gather(TimedAllGather(self.group.waits))
                sharded.set_custom_reduce_scatter(TimedReduceScatter(self.group.waits))

    def passes(self, n: int) -> int:
        """See batch.Division: a layer's weights are gathered by all, so all make as many passes as the busiest."""
        return max(1, *self.gather(n)) if self._has_shards else super().passes(n)

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        """See Engine.step."""
        parameters = list(parameters)
        if not self._has_shards:
            return super().step(optimiser, parameters, max_norm)
        shared = {id(parameter) for parameter in parameters if hasattr(parameter, "full_tensor")}
        self._add_up([parameter for parameter in parameters if id(parameter) not in shared])
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        squares = torch.zeros(2, dtype=torch.float64, device=self.device)
        for parameter in learning:
            square = _local(parameter.grad).double().square().sum()
            squares[int(id(parameter) in shared)] += square.to(self.device)  # which may be in the host's memory
        norm = math.sqrt(float(squares[0]) + float(self.sum(squares[1])))
        if math.isfinite(norm):
            if max_norm is not None and norm + _CLIP_EPS > max_norm:
                for parameter in learning:
                    _local(parameter.grad).mul_(max_norm / (norm + _CLIP_EPS))
            known = set(map(id, parameters))
            for group in optimiser.param_groups:  # what is frozen for a while may have been given a gradient
                for parameter in group["params"]:
                    parameter.grad = parameter.grad if id(parameter) in known else None
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return norm


def _local(gradient: Any) -> Tensor:
    """This process's part of a gradient."""
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The decoder layers of all transformers models in a network."""
    kinds: Sequence[str] = sorted({
        name for module in network.modules() for name in (getattr(module, "_no_split_modules", None) or ())
    })  # fmt: skip
    found = [module for module in network.modules() if type(module).__name__.removeprefix("FSDP") in kinds]
    inner = {id(part) for layer in found for part in layer.modules() if part is not layer}
    return (layer for layer in found if id(layer) not in inner)
