"""Tensors that are shared out over processes, on disk: one safetensors file a process, with its rows of each.

The files are those of torch's distributed checkpoint (DCP) in its safetensors form, as its HuggingFaceStorageWriter
writes and its HuggingFaceStorageReader reads them: the header says under DCP_SHARDING_INFO where in its tensor each
piece begins. DCP's usual form keeps that in a pickled file, which could run code when it is read; and its writers hold
all that a process writes in memory twice. So the files are written here, tensor by tensor; any number of processes, one
without torch.distributed too, reads of them the rows that it needs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from clearppo.models.whole import InShards, rows_here
from clearppo.train.safetensors import write_tensors

Way = tuple[str, ...]
"""The keys that lead to a tensor in a tree; of lists, places."""
_WHERE = "DCP_SHARDING_INFO"
_ABOUT = {"DCP_VERSION": "1.0", "format": "pt"}


def shard_file(rank: int, world: int) -> str:
    """The name of a process's file, which DCP's readers only ask to end so."""
    return f"shard-{rank + 1:05}-of-{world:05}.safetensors"


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's rows of `tensors`, which are shared out. Raises OSError from the disk."""
    rows = {name: rows_here(tensor) for name, tensor in tensors.items()}
    own = {name: _local(tensor) for name, tensor in tensors.items() if rows[name][0] < rows[name][1]}
    where = {name: {"saved_offsets": [rows[name][0], *(0 for _ in tensor.shape[1:])]} for name, tensor in own.items()}
    with file.open("wb") as stream:
        write_tensors(stream, own, {_WHERE: json.dumps(where), **_ABOUT})


def open_shards(directory: Path) -> dict[str, InShards]:
    """The tensors that all processes have written into this directory; none if there is no such directory. Their files
    stay open as long as the tensors are there. Raises OSError, ValueError or KeyError for files that are not whole."""
    found: dict[str, list[tuple[int, Any, Callable[[], Tensor]]]] = {}
    for file in sorted(directory.glob("*.safetensors")) if directory.is_dir() else ():
        opened: Any = safe_open(file, framework="pt", device="cpu").__enter__()  # it maps the file, and reads by need
        where = json.loads(opened.metadata()[_WHERE])
        for name in opened.keys():  # noqa: SIM118 (no dict)
            first = int(where[name]["saved_offsets"][0])
            found.setdefault(name, []).append((first, opened.get_slice(name), partial(opened.get_tensor, name)))
    return {name: _joined(name, sorted(pieces, key=lambda piece: piece[0])) for name, pieces in found.items()}


def _joined(name: str, pieces: Sequence[tuple[int, Any, Callable[[], Tensor]]]) -> InShards:
    rows: list[tuple[int, int, Callable[[], Tensor]]] = []
    for first, piece, read in pieces:
        if first != (rows[-1][1] if rows else 0):
            raise ValueError(f"{name}: rows are missing in the files of all processes")
        rows.append((first, first + piece.get_shape()[0], read))
    own = pieces[0][2]()
    return InShards(torch.Size([rows[-1][1], *own.shape[1:]]), own.dtype, rows)


def at(tree: Any, way: Way) -> Any:
    """What stands in a tree at the end of this way."""
    for key in way:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


def _local(tensor: Any) -> Tensor:
    return tensor.to_local().detach()
