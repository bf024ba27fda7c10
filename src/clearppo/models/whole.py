"""Weights that are shared out: each process has a part of every tensor (torch's DTensor), and sometimes all is needed.

To gather one, all processes must take part. So what only one of them reads, to write it into files, is gathered by all
beforehand and held (`held`) while it does.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_held: dict[int, Tensor] = {}
_clocks: list[Callable[[], contextlib.AbstractContextManager[None]]] = []


def is_shared_out(tensor: Any) -> bool:
    """Whether this process has a part of the tensor only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is shared out, from what is held or from all processes; another tensor as it is."""
    if not is_shared_out(tensor):
        return tensor
    part: Any = tensor.detach()
    return _held[_place(part)] if _place(part) in _held else _gathered(part)


def timed_by(clock: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """From now on have `clock` look whenever processes gather."""
    _clocks[:] = [clock]


@contextlib.contextmanager
def held(tensors: Iterable[Tensor], *, here: bool) -> Iterator[None]:
    """While this is open, `whole` of these tensors asks no other process. All gather them together; they are kept, in
    the memory of the CPU, where `here` is True."""
    try:
        for tensor in tensors:
            if is_shared_out(tensor):
                part: Any = tensor.detach()
                full = _gathered(part)
                if here:
                    _held[_place(part)] = full.cpu()
        yield
    finally:
        _held.clear()


@torch.no_grad()
def put(into: Any, value: Tensor) -> None:
    """Copy `value`, the whole of it, into a tensor; of one that is shared out each process fills its part."""
    if not is_shared_out(into) or is_shared_out(value):
        into.copy_(value)
        return
    mesh, local = into.device_mesh, into.to_local()
    parts = torch.chunk(value, mesh.size(), dim=0)  # as FSDP2 cuts
    rank = mesh.get_local_rank()
    if rank < len(parts):
        local.copy_(parts[rank])


def _gathered(part: Any) -> Tensor:
    with contextlib.ExitStack() as watched:
        for clock in _clocks:
            watched.enter_context(clock())
        return part.full_tensor()


def _place(part: Any) -> int:
    return int(part.to_local().data_ptr())
