"""The weights that a run learns, in a checkpoint: in the model files where these hold their exact bits, else beside."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clearppo.errors import CheckpointError
from clearppo.models.whole import InShards, put, whole


def weights_state(learned: Mapping[str, nn.Parameter], directory: Path, prefix: str) -> dict[str, Any]:
    """Where each of the `learned` weights is kept, by name, once the model's files are in `directory`.

    `files` names the file of each weight that is found there bit for bit, under its name without `prefix`; `tensors`
    holds the others themselves. The files are read back for that, so nothing rests on how they were written.
    """
    files: dict[str, str] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (no dict)
                weight = learned.get(prefix + key)
                if weight is not None and same_bits(whole(weight), stored.get_tensor(key)):
                    files[prefix + key] = file.name
    return {
        "prefix": prefix,
        "files": files,
        "tensors": {name: weight.detach() for name, weight in learned.items() if name not in files},
    }


@torch.no_grad()
def load_weights(learned: Mapping[str, nn.Parameter], state: Mapping[str, Any], directory: Path) -> None:
    """Copy the weights of a checkpoint into the `learned` ones, which stay where they are in memory.

    In place, because the last bits of a product may depend on where in memory a factor lies: a run that is resumed
    begins as every run does, with the weights of its start model. Raises CheckpointError if the checkpoint's weights
    are not these.
    """
    kept = {**state["files"], **state["tensors"]}
    if kept.keys() != learned.keys() or any(
        weight.shape != learned[name].shape for name, weight in state["tensors"].items()
    ):
        other = sorted(kept.keys() ^ learned.keys())
        which = f" ({', '.join(other[:3])}{', ...' if len(other) > 3 else ''})" if other else ""
        raise CheckpointError(
            f"{directory} is of a run that learns other weights{which}. Start from the same models with the same "
            "--use_peft, --lora_r, --lora_target_modules, --critic and --freeze_layers, or leave "
            "--resume_from_checkpoint out."
        )
    for name, weight in stored_weights(state, directory):
        put(learned[name], weight)


def stored_weights(state: Mapping[str, Any], directory: Path) -> Iterator[tuple[str, Tensor | InShards]]:
    """The learned weights of a checkpoint by their names, one after the other, on the CPU."""
    yield from state["tensors"].items()
    for file in sorted(set(state["files"].values())):
        with safe_open(directory / file, framework="pt") as stored:
            for name in [name for name, place in state["files"].items() if place == file]:
                yield name, stored.get_tensor(name.removeprefix(state["prefix"]))


def same_bits(weight: Tensor, stored: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and every bit, wherever they are."""
    if weight.dtype != stored.dtype or weight.shape != stored.shape:
        return False
    own, other = (tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in (weight, stored))
    return torch.equal(own, other)
