"""One process, one device: CPU, one CUDA GPU, or Apple's MPS."""

import ctypes
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clearppo.engines.base import ModuleT, OneProcess
from clearppo.errors import ConfigError, DeviceError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_CLIP_EPS = 1e-6  # what torch adds to the norm before it divides
ALLOCATOR = "CLEARPPO_ALLOCATOR"
"""The environment variable that can leave the allocator as it is: `default`."""


class LocalEngine(OneProcess):
    """Everything stays in this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, module: ModuleT) -> ModuleT:
        return module.to(self.device)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(
        self, optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> float:
        """See Engine.step."""
        parameters = list(parameters)
        self._add_up(parameters)
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        total = nn.utils.get_total_norm([parameter.grad for parameter in learning if parameter.grad is not None])
        norm = float(total)
        if math.isfinite(norm):
            # torch multiplies with 1 where nothing is clipped: a pass over all gradients for nothing.
            if max_norm is not None and norm + _CLIP_EPS > max_norm:
                nn.utils.clip_grads_with_norm_(learning, max_norm, total)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return norm

    def _add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the gradients those of all processes."""

    def free_memory(self) -> int | None:
        return free_memory(self.device)


def select_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises DeviceError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device = mps, but this machine has no Apple GPU that torch can use. Use --device auto.")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(
                f"device = {name}, but torch {torch.__version__} sees no CUDA GPU here. "
                "Use --device auto or --device cpu."
            )
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            raise DeviceError(f"device = {name}, but there are {count} GPUs. Use cuda:0 to cuda:{count - 1}.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device = {name} is none that torch knows. Use --device auto, cpu, cuda or mps.") from None


def be_deterministic() -> None:
    """Have torch use only algorithms that give the same bits every time; from now on, in the whole process.

    cuBLAS needs a workspace of its own for that, which it reads from the environment when it is first used. cuDNN stops
    trying which algorithm is the fastest today.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device (not merely emulated)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if hasattr(torch.cpu, "get_capabilities"):
            capabilities = torch.cpu.get_capabilities()
            return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return bool(torch.cpu._is_avx512_bf16_supported())  # torch before 2.11 or so
    return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None if nobody knows.

    On the CPU of Linux what the system calls available, or what a container leaves of its limit if that is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return None
    of_container = _left_in_container(Path("/sys/fs/cgroup"))
    return available if of_container is None else min(available, of_container)


def _left_in_container(group: Path) -> int | None:
    """What the container's limit leaves, if it has one; the file cache counts as left, for it gives way."""
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(limit - used + int(counts.get("file", 0)), 0)
    except (OSError, ValueError):  # no container, no limit ("max"), or an older kernel
        return None


def keep_freed_memory(*, on_cpu: bool = True) -> bool:
    """Ask glibc not to hand freed blocks below 1 GiB back to the system: mapping fresh pages costs a quarter of a step.

    Only the threshold is moved. Forbidding mmap altogether (M_MMAP_MAX = 0) is as fast, but then freed blocks of
    changing sizes are not joined, and decoding a large batch took 20 GB where 2.4 are enough.
    Returns whether it was done: only for computing `on_cpu`, on Linux with glibc, and not with
    CLEARPPO_ALLOCATOR=default in the environment.
    Raises ConfigError for another word there.
    """
    wanted = os.environ.get(ALLOCATOR, "")
    if wanted not in ("", "default"):
        raise ConfigError(
            f"{ALLOCATOR} = {wanted} is not known. Write {ALLOCATOR}=default to leave the memory allocator as it is, "
            "or leave the variable out."
        )
    if wanted or not on_cpu or not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
