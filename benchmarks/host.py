"""The machine that a timing belongs to, and what its matrix products can do."""

import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.apart import ROOT
from benchmarks.output import machine
from clearppo.engines.peak import peak_resident_bytes, resident_bytes


def host() -> dict[str, Any]:
    """Processor, cores, threads, memory, GPU, versions, and the commit if this is a checkout."""
    known = machine("clearppo", "peft")
    known.pop("peak_memory_mb")
    known |= {"cpu": _processor(), "memory_gb": _memory_gb(), "python": platform.python_version(), "commit": _commit()}
    if torch.cuda.is_available():
        known["gpu"] = torch.cuda.get_device_name()
    return known


def matrix_peak(dtype: torch.dtype, device: torch.device, *, seconds: float = 0.5) -> float:
    """FLOP/s of the best of several products of two square matrices: what the machine can do in this precision."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    torch.mm(a, b)
    while best == float("inf") or time.perf_counter() - began < seconds:
        wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was told; the CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb() -> int:
    """The largest resident set of this process since its peak was last forgotten, in MB.

    On Linux read from /proc: what getrusage says there begins with the peak of the process that started this one.
    """
    found = peak_resident_bytes()
    if found is not None:
        return found // 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def resident_mb() -> int | None:
    """What is resident now, in MB; None where nobody says."""
    found = resident_bytes()
    return None if found is None else found // 2**20


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gb() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError):
        return None


def _commit() -> str | None:
    """The commit, with a + if the working tree differs from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT, text=True, capture_output=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
