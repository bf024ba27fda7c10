"""A nested dict of tensors and plain values on disk, bit for bit, in files that anybody may open: no pickle.

directory/
  state.json            the tree; a tensor stands there as {"$tensor": its name}
  tensors.safetensors   the tensors, each under the way to it ("optimiser/state/0/exp_avg")
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

TREE, TENSORS = "state.json", "tensors.safetensors"
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
_LARGE = 2**63
"""Integers from here on are written as text: other readers of JSON would round them."""
_CHUNK = 64 * 2**20
"""Bytes of a tensor that are in memory once more while it is written."""


def write_state(directory: Path, tree: Mapping[str, Any]) -> None:
    """Write `tree` into the directory, which is made. Leaves: tensors of any device, str, int, float, bool, None.

    Every bit is kept, of infinities, -0.0 and whether a number is NaN too. Lists and dicts with str keys nest.
    Tensors are fetched and written one after another, so that no second copy of them all is ever in memory.
    Raises TypeError for anything else (tuples, sparse and complex tensors), OSError from the disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(tree, (), tensors), allow_nan=False, indent=1)
    with (directory / TENSORS).open("wb") as stream:
        _write_tensors(stream, tensors)
    (directory / TREE).write_text(text + "\n", encoding="utf-8")


def read_state(directory: Path) -> dict[str, Any]:
    """The tree that `write_state` wrote, all tensors on the CPU. The files must be whole: their checksums are looked at
    by whoever keeps them (`Checkpoints`). Raises OSError, ValueError or KeyError for files that are not."""
    tree = json.loads((directory / TREE).read_text(encoding="utf-8"))
    with safe_open(directory / TENSORS, framework="pt", device="cpu") as tensors:
        return _tree(tree, tensors)


def _plain(value: Any, way: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, its tensors put into `tensors`. Keys with a "$" get another, to be no marks."""
    match value:
        case Tensor():
            name = "/".join(way)
            while name in tensors or name in ("", "__metadata__"):  # a key may hold a slash; the second is the format's
                name += "'"
            tensors[name] = value.detach()
            return {"$tensor": name}
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) < _LARGE else {"$int": hex(value)}
        case float():
            return value if math.isfinite(value) else {"$float": str(value)}
        case list():
            return [_plain(item, (*way, str(i)), tensors) for i, item in enumerate(value)]
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"{'/'.join(way)}: a key of type {type(key).__name__} in a state; keys are text.")
            marked = {key: f"${key}" if key.startswith("$") else key for key in value}
            return {marked[key]: _plain(item, (*way, key), tensors) for key, item in value.items()}
        case _:
            raise TypeError(f"{'/'.join(way)}: a {type(value).__name__} cannot be part of a state.")


def _tree(value: Any, tensors: Any) -> Any:
    match value:
        case {"$tensor": str(name)}:
            return tensors.get_tensor(name)
        case {"$int": str(digits)}:
            return int(digits, 16)
        case {"$float": str(word)}:
            return float(word)
        case dict():
            return {key.removeprefix("$"): _tree(item, tensors) for key, item in value.items()}
        case list():
            return [_tree(item, tensors) for item in value]
        case _:
            return value


def _write_tensors(stream: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """The safetensors format: the header's length, the header, then the numbers of all tensors without gaps, those of
    the widest type first, so that each starts where its type may."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise TypeError(f"{name}: a tensor of {tensor.dtype}, {tensor.layout} cannot be part of a state.")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
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
