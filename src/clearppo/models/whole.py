"""Weights that are shared out: each process has a part of every tensor (torch's DTensor), and sometimes all is needed.

To gather one, all processes must take part. So what only one of them reads, to write it into files, is gathered by all
beforehand and held (`held`) while it does. Where each process can write its own rows nothing is gathered (`rows_here`),
and what was written so is read by rows too (`InShards`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_held: dict[int, Tensor] = {}
_clocks: list[Callable[[], contextlib.AbstractContextManager[None]]] = []


@dataclass(frozen=True)
class InShards:
    """A tensor whose rows lie in several files, read when they are asked for: `pieces` are the first row of each, the
    row behind its last, and what reads it, in order and without gaps."""

    shape: torch.Size
    dtype: torch.dtype
    pieces: Sequence[tuple[int, int, Callable[[], Tensor]]]

    def rows(self, begin: int, end: int) -> Tensor:
        """These rows, on the CPU."""
        found = [
            read()[max(begin, first) - first : min(end, last) - first]
            for first, last, read in self.pieces
            if first < end and begin < last
        ]
        return torch.cat(found) if found else torch.empty(0, *self.shape[1:], dtype=self.dtype)


def is_shared_out(tensor: Any) -> bool:
    """Whether this process has a part of the tensor only."""
    return hasattr(tensor, "full_tensor")


def rows_here(tensor: Any) -> tuple[int, int]:
    """The first row of a tensor that is shared out that this process has, and the one behind its last: FSDP2 cuts into
    equal numbers of rows, and the last processes may have fewer, or none."""
    n, mesh = tensor.shape[0], tensor.device_mesh
    each = -(-n // mesh.size())
    begin = min(mesh.get_local_rank() * each, n)
    return begin, min(begin + each, n)


def whole(tensor: Tensor | InShards) -> Tensor:
    """All of a tensor that is shared out, from what is held or from all processes, or that lies in several files;
    another tensor as it is."""
    if isinstance(tensor, InShards):
        return tensor.rows(0, tensor.shape[0])
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
def put(into: Any, value: Tensor | InShards) -> None:
    """Copy `value`, the whole of it, into a tensor; of one that is shared out each process fills its part."""
    if is_shared_out(value):
        into.copy_(value)
    elif is_shared_out(into):
        begin, end = rows_here(into)
        into.to_local().copy_(value.rows(begin, end) if isinstance(value, InShards) else value[begin:end])
    else:
        into.copy_(whole(value))


def _gathered(part: Any) -> Tensor:
    with contextlib.ExitStack() as watched:
        for clock in _clocks:
            watched.enter_context(clock())
        return part.full_tensor()


def _place(part: Any) -> int:
    return int(part.to_local().data_ptr())
