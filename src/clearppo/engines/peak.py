"""How much memory was taken at most, since somebody last asked."""

import os
from pathlib import Path

import torch

_FORGET = "5"  # Linux: let the peak of the resident set begin anew (man 5 proc)
_STATUS, _STATM, _CLEAR = Path("/proc/self/status"), Path("/proc/self/statm"), Path("/proc/self/clear_refs")


class Peak:
    """The most memory that was taken on a device since `forget`, in bytes.

    On CUDA what tensors took; elsewhere on Linux the resident set of this process, libraries included, where freed
    memory that the allocator keeps counts too. None where the system does not say, or cannot begin anew.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._known = device.type in ("cpu", "cuda")

    def forget(self) -> None:
        """Begin anew with what is taken now."""
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        elif self._known:
            self._known = forget_resident_peak()

    def bytes(self) -> int | None:
        """The most since then."""
        if self._cuda is not None:
            return int(torch.cuda.max_memory_allocated(self._cuda))
        return peak_resident_bytes() if self._known else None


def resident_bytes() -> int | None:
    """What of this process is in memory now; None where nobody says."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def peak_resident_bytes() -> int | None:
    """The most of it since the peak began anew."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, IndexError, ValueError, StopIteration):
        return None


def forget_resident_peak() -> bool:
    """Let the peak begin anew with what is in memory now. Whether the system can (Linux)."""
    try:
        _CLEAR.write_text(_FORGET, encoding="ascii")
    except OSError:
        return False
    return True
