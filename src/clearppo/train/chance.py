"""The process's own random generators: Python's, NumPy's and torch's. A reward function may draw from any of them."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def chance_state() -> dict[str, Any]:
    """The state of all global generators, as a checkpoint keeps it: tensors and plain values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.uint32)).clone(),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_chance(state: Mapping[str, Any]) -> None:
    """Put all global generators into this state; those of GPUs that this machine has as many of."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().copy()
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(state["cuda"]))


def seed_chance(seed: int) -> None:
    """Start all global generators from a seed, so that a reward function which draws from them does the same again."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def undisturbed_chance() -> Iterator[None]:
    """What is drawn from the global generators inside the block was not drawn for anybody outside."""
    before = chance_state()
    try:
        yield
    finally:
        set_chance(before)
