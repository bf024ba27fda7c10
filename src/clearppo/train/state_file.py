"""A nested dict of tensors and plain values on disk, bit for bit, in files that anybody may open: no pickle.

directory/
  state.json            the tree; a tensor stands there as {"$tensor": its name}
  tensors.safetensors   the tensors, each under the way to it ("optimiser/state/0/exp_avg")
  shards/               those that are shared out over processes, {"$shards": name}: each process writes its own rows
                        (shards.py)
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from clearppo.models.whole import InShards, is_shared_out
from clearppo.train.safetensors import write_tensors
from clearppo.train.shards import Way, open_shards

TREE, TENSORS, SHARDS = "state.json", "tensors.safetensors", "shards"
_LARGE = 2**63
"""Integers from here on are written as text: other readers of JSON would round them."""


def write_state(directory: Path, tree: Mapping[str, Any]) -> dict[str, Way]:
    """Write `tree` into the directory, which is made. Leaves: tensors of any device, str, int, float, bool, None.
    Of tensors that are shared out only the names: they are returned, each with the way to it, and every process must
    write its rows of them (`write_shard`).

    Every bit is kept, of infinities, -0.0 and whether a number is NaN too. Lists and dicts with str keys nest.
    Tensors are fetched and written one after another, so that no second copy of them all is ever in memory.
    Raises TypeError for anything else (tuples, sparse and complex tensors), OSError from the disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, tuple[Way, Tensor]] = {}
    text = json.dumps(_plain(tree, (), tensors), allow_nan=False, indent=1)
    with (directory / TENSORS).open("wb") as stream:
        write_tensors(stream, {name: tensor for name, (_, tensor) in tensors.items() if not is_shared_out(tensor)})
    (directory / TREE).write_text(text + "\n", encoding="utf-8")
    return {name: way for name, (way, tensor) in tensors.items() if is_shared_out(tensor)}


def read_state(directory: Path) -> dict[str, Any]:
    """The tree that `write_state` wrote, all tensors on the CPU; those of several processes are `InShards`, and read
    when they are asked for. The files must be whole: their checksums are looked at by whoever keeps them
    (`Checkpoints`). Raises OSError, ValueError or KeyError for files that are not."""
    tree = json.loads((directory / TREE).read_text(encoding="utf-8"))
    shards = open_shards(directory / SHARDS)
    with safe_open(directory / TENSORS, framework="pt", device="cpu") as tensors:
        return _tree(tree, tensors, shards)


def _plain(value: Any, way: Way, tensors: dict[str, tuple[Way, Tensor]]) -> Any:
    """`value` as JSON has it, its tensors put into `tensors`. Keys with a "$" get another, to be no marks."""
    match value:
        case Tensor():
            name = "/".join(way)
            while name in tensors or name in ("", "__metadata__"):  # a key may hold a slash; the second is the format's
                name += "'"
            tensors[name] = way, value.detach()
            return {"$shards" if is_shared_out(value) else "$tensor": name}
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


def _tree(value: Any, tensors: Any, shards: Mapping[str, InShards]) -> Any:
    match value:
        case {"$tensor": str(name)}:
            return tensors.get_tensor(name)
        case {"$shards": str(name)}:
            return shards[name]
        case {"$int": str(digits)}:
            return int(digits, 16)
        case {"$float": str(word)}:
            return float(word)
        case dict():
            return {key.removeprefix("$"): _tree(item, tensors, shards) for key, item in value.items()}
        case list():
            return [_tree(item, tensors, shards) for item in value]
        case _:
            return value
