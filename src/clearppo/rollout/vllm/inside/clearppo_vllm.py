"""What runs inside of vLLM: a back end of its weight transfer that reads tensors out of another process's memory.

vLLM's own back ends need GPUs (NCCL, CUDA IPC). This one needs one machine: the trainer keeps a piece of memory without
a name (memfd), writes tensors into it and says what lies where; every worker copies them out, checks them, and gives
them to vLLM's loader. Nothing touches the disk, and nothing is left behind, however either side ends.

This directory is put on vLLM's path and `Receiver` given as --worker-extension-cls: so it imports nothing of ClearPPO,
and vLLM may live in an environment that has none.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

BACKEND = "clearppo"


@dataclass
class SharedMemory(WeightTransferInitInfo):
    """Where the trainer's piece of memory is. `token` (hex) stands at its beginning."""

    pid: int
    fd: int
    size: int
    token: str


@dataclass
class Tensors(WeightTransferUpdateInfo):
    """What lies in the piece of memory: tensors one behind the other, each with its first byte and its checksum.

    `total` is how many tensors all pieces of this update hold together; None while more are to come.
    """

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    offsets: list[int]
    checksums: list[int]
    total: int | None = None


class MemoryTransferEngine(WeightTransferEngine[SharedMemory, Tensors]):
    """See the module. Every error names what was wrong; vLLM answers it to whoever asked."""

    init_info_cls = SharedMemory
    update_info_cls = Tensors

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._memory: mmap.mmap | None = None
        self._parameters = {name for name, _ in self.model.named_parameters()}
        self._loaded: set[str] = set()
        self._received = 0

    def init_transfer_engine(self, init_info: SharedMemory) -> None:
        """Map the trainer's memory; it is only read."""
        self.shutdown()
        handle = os.open(f"/proc/{int(init_info.pid)}/fd/{int(init_info.fd)}", os.O_RDONLY)
        try:
            self._memory = mmap.mmap(handle, init_info.size, prot=mmap.PROT_READ)
        finally:
            os.close(handle)
        token = bytes.fromhex(init_info.token)
        if self._memory[: len(token)] != token:
            self.shutdown()
            raise ValueError("the memory that was named is not the trainer's")

    def start_weight_update(self) -> None:
        """Have vLLM's loader begin anew."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._loaded, self._received = set(), 0
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Tensors) -> None:
        """Load what lies in the memory now. Raises ValueError if with the last of it a parameter has no value."""
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        with disable_mtp_completeness_check():
            self._loaded |= self.model.load_weights(self._copies(update_info)) or set()
        if update_info.total is None:
            return
        if self._received != update_info.total:
            raise ValueError(f"{self._received} tensors came of {update_info.total}")
        if missing := sorted(self._parameters - self._loaded):  # here, for an error in finishing ends no update
            raise ValueError(f"{len(missing)} parameters were given no value, such as {missing[0]}")

    def finish_weight_update(self) -> None:
        """Let the loader finish."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Let go of the trainer's memory."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _copies(self, what: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        # The loader may keep a tensor until its layer is whole, and the memory is written anew: so these are copies.
        if self._memory is None:
            raise ValueError("no memory has been named yet")
        for name, dtype_name, shape, offset, checksum in zip(
            what.names, what.dtype_names, what.shapes, what.offsets, what.checksums, strict=True
        ):
            dtype = getattr(torch, dtype_name)
            count = torch.Size(shape).numel()
            size = count * torch.empty((), dtype=dtype).element_size()
            if offset < 0 or offset + size > len(self._memory):
                raise ValueError(f"{name} would lie outside of the memory")
            bytes_ = torch.frombuffer(bytearray(self._memory[offset : offset + size]), dtype=torch.uint8)
            if (found := summed(bytes_)) != checksum:
                raise ValueError(f"{name} arrived damaged: its checksum is {found} and should be {checksum}")
            self._received += 1
            yield name, bytes_.view(dtype).view(shape).to(self.device)


def summed(bytes_: torch.Tensor) -> int:
    """The sum of a tensor's bytes as 64-bit words, as it wraps around; what is left at the end byte by byte."""
    whole = bytes_.numel() // 8 * 8
    words = bytes_[:whole].view(torch.int64)
    return int(words.sum()) ^ int(bytes_[whole:].to(torch.int64).sum())


class Receiver:
    """Mixed into vLLM's workers by --worker-extension-cls: that this module is imported is all that is needed."""


if BACKEND not in WeightTransferEngineFactory._registry:  # a name can be registered once
    WeightTransferEngineFactory.register_engine(BACKEND, MemoryTransferEngine)
