"""Frozen weights that are in the host's memory, and on the device only while somebody reads with them."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


class Resting:
    """The weights of `module`, which must not change, are put away from `device` until they are `at_hand`; those of
    `but`, which another module shares, stay."""

    def __init__(self, module: nn.Module, device: torch.device, *, but: Iterable[nn.Parameter] = ()) -> None:
        shared = set(map(id, but))
        tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in shared]
        pinned = device.type == "cuda"  # from such memory a GPU copies while the program goes on
        self._device = device
        self._away = [
            (tensor, host.pin_memory() if pinned else host)
            for tensor, host in ((tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors)
        ]
        self._readers = 0
        self._put_away()

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[None]:
        """While this is open, once or within itself, the weights are on the device."""
        if self._readers == 0:
            for tensor, host in self._away:
                tensor.data = host.to(self._device, copy=True, non_blocking=True)
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._put_away()

    def _put_away(self) -> None:
        for tensor, host in self._away:
            tensor.data = host
