"""What a run reads, as digests: a checkpoint notes them, and a resumed run must read the same."""

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from clearppo.models.policy import Policy
from clearppo.models.whole import whole


@runtime_checkable
class Weighed(Protocol):
    """A scorer that reads with weights."""

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Their names, and they themselves."""
        ...


def weights_mark(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A digest (SHA-256) of these weights as they are now, their names and types.

    It reads every weight: about a second for a billion bytes.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        weight = whole(weight)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_new_adapter(name: str, weight: Tensor) -> bool:
    """Whether this is a weight of an adapter that learns: drawn at the start, and none of the start model's."""
    return "lora_" in name and weight.requires_grad


def policy_mark(policy: Policy) -> str:
    """The digest of what a policy starts from: the actor, but for new adapters, and what of the critic is frozen."""
    actor = [(name, w) for name, w in policy.actor.named_parameters() if not is_new_adapter(name, w)]
    fixed = [(f"critic {name}", w) for name, w in policy.critic.named_parameters() if not w.requires_grad]
    return weights_mark([*actor, *fixed])


def data_mark(*parts: Any) -> str:
    """A digest (SHA-256) of encoded data: tuples of tuples of numbers and texts, or data classes that hold such."""
    digest = hashlib.sha256()
    for part in parts:
        _take(digest, part)
    return digest.hexdigest()


def _take(digest: Any, part: Any) -> None:
    if is_dataclass(part) and not isinstance(part, type):
        for entry in fields(part):
            digest.update(f"{entry.name}:".encode())
            _take(digest, getattr(part, entry.name))
    elif isinstance(part, tuple | list):
        digest.update(f"{len(part)}[".encode())
        if part and all(type(item) is int for item in part):
            digest.update(array("q", part).tobytes())  # token ids: most of all that there is
        else:
            for item in part:
                _take(digest, item)
    else:
        digest.update((json.dumps(part, sort_keys=True, default=str) + "\n").encode())
