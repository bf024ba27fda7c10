"""A piece of memory that this process writes tensors into, and engines on the same machine read them out of.

It has no name anywhere (memfd): an engine opens it by way of this process, and it goes with the last that has it.
"""

import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from clearppo.errors import ConfigError

SIZE = 2**27
"""Bytes of the memory, if no tensor is larger."""
ALIGNED = 64
TOKEN = 16


class SharedWeights:
    """Memory for tensors of at most `largest` bytes each."""

    def __init__(self, largest: int, *, size: int = SIZE) -> None:
        if not hasattr(os, "memfd_create"):
            raise ConfigError(
                "an engine beside the training process reads weights out of its memory, which needs Linux. Use "
                "--sampler in_process."
            )
        self.size = max(size, largest + ALIGNED) + ALIGNED
        self._token = secrets.token_hex(TOKEN)
        self._fd = os.memfd_create("clearppo-weights", os.MFD_CLOEXEC)
        os.truncate(self._fd, self.size)
        self._map = mmap.mmap(self._fd, self.size)
        self._map[:TOKEN] = bytes.fromhex(self._token)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def introduction(self) -> dict[str, Any]:
        """What an engine must know to open it."""
        return {"pid": os.getpid(), "fd": self._fd, "size": self.size, "token": self._token}

    def pieces(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[dict[str, Any]]:
        """What lies in the memory now, as many tensors as it holds at a time, in `dtype` if they are floating-point.

        Whoever iterates has read a piece when it asks for the next one.
        """
        piece, end, total = _empty(), ALIGNED, 0
        for name, weight in weights:
            tensor = weight.detach()
            tensor = (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
            raw = tensor.reshape(-1).view(torch.uint8)
            if piece["names"] and end + raw.numel() > self.size:
                yield piece
                piece, end = _empty(), ALIGNED
            self._bytes[end : end + raw.numel()].copy_(raw)
            piece["names"].append(name)
            piece["dtype_names"].append(str(tensor.dtype).removeprefix("torch."))
            piece["shapes"].append(list(tensor.shape))
            piece["offsets"].append(end)
            piece["checksums"].append(summed(raw))
            end = -(-(end + raw.numel()) // ALIGNED) * ALIGNED
            total += 1
        yield {**piece, "total": total}

    def close(self) -> None:
        """Give the memory up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _empty() -> dict[str, Any]:
    return {"names": [], "dtype_names": [], "shapes": [], "offsets": [], "checksums": []}


def summed(raw: Tensor) -> int:
    """The checksum of a tensor's bytes; inside/clearppo_vllm.py has the same sum."""
    whole = raw.numel() // 8 * 8
    words = raw[:whole].view(torch.int64)
    return int(words.sum()) ^ int(raw[whole:].to(torch.int64).sum())
