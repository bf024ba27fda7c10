"""Tensors in the safetensors format, written one after another: the library's own writer holds a second copy of all."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the number types."""
_CHUNK = 64 * 2**20
"""Bytes of a tensor that are in memory once more while it is written."""


def write_tensors(stream: BinaryIO, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """The safetensors format: the header's length, the header, then the numbers of all tensors without gaps, those of
    the widest type first, so that each starts where its type may; on the disk when this returns. What the header says
    beside is `about`. Raises TypeError for a type that the format has not, OSError from the disk."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise TypeError(f"{name}: a tensor of {tensor.dtype}, {tensor.layout} cannot be part of a state.")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {} if about is None else {"__metadata__": dict(about)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        for part in _parts(tensors[name]):
            stream.write(part.contiguous().cpu().view(torch.uint8).numpy().data)
    stream.flush()
    os.fsync(stream.fileno())


def _parts(tensor: Tensor) -> Iterable[Tensor]:
    """Its numbers in order, flat, some at a time."""
    return tensor.reshape(-1).split(max(_CHUNK // tensor.element_size(), 1)) if tensor.numel() else ()
