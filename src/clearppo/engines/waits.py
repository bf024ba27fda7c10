"""How long a process waits for others: for what they send, and for those that are late."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

# Of torch 2.13, where the older names are still there and warn.
_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Waits:
    """Adds up the seconds in which this process talked with others.

    On a CPU a call returns when all is there. On CUDA the host goes on at once, so events on the stream in which the
    call stands are compared later: FSDP's streams too, where products may run meanwhile.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._open = False
        self._events: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def of(self, device: torch.device) -> Iterator[None]:
        """The time that this is open, on that device; what is opened within counts once."""
        if self._open:
            yield
            return
        self._open = True
        start = _mark(device)
        try:
            yield
        finally:
            self._open = False
            end = _mark(device)
            if isinstance(start, float):
                self._seconds += end - start
            else:
                self._events.append((start, end))

    def seconds(self) -> float:
        """All of them so far; on CUDA once what was asked for is done."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._events = []
        return self._seconds


class _Room:
    """Where FSDP puts what it sends and gets, as torch does by itself."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class TimedAllGather(_Room):
    """FSDP's gathering of a layer's weights, timed (FSDPModule.set_custom_all_gather)."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> dist.Work | None:
        with self._waits.of(output_tensor.device):
            return _gather(output_tensor, input_tensor, group=group, async_op=async_op)


class TimedReduceScatter(_Room):
    """FSDP's sums of a layer's gradients, timed (FSDPModule.set_custom_reduce_scatter)."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        with self._waits.of(output_tensor.device):
            return _scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def _mark(device: torch.device) -> Any:
    """Now, on this device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
