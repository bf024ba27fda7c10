"""AdamW for actor and critic, and a learning rate that is constant within an update."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

Schedule = Literal["constant", "linear", "cosine"]


def adamw(
    actor: Sequence[nn.Parameter],
    critic: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    critic_learning_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-5,
    weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """One optimiser over both; weight decay on matrices only. `initial_lr` of each group is its peak rate."""
    groups = []
    for parameters, rate in ((actor, learning_rate), (critic, critic_learning_rate or learning_rate)):
        for decays in (True, False):
            members = [parameter for parameter in parameters if (parameter.ndim >= 2) == decays]
            if members:
                decay = weight_decay if decays else 0.0
                groups.append({"params": members, "lr": rate, "initial_lr": rate, "weight_decay": decay})
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=devices <= {"cpu", "cuda"})


def rate_scale(update: int, n_updates: int, schedule: Schedule, warmup_ratio: float = 0.0) -> float:
    """The factor on the peak learning rate in update 0, 1, ..., n_updates - 1.

    Linear without warm-up is lm-human-preferences' lr * (1 - update / n_updates): the first update has the full rate
    and the last one is not 0. Warm-up climbs linearly and reaches the peak in update `warmup_ratio * n_updates`.
    """
    warmup = math.ceil(warmup_ratio * n_updates)
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = (update - warmup) / max(n_updates - warmup, 1)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def set_rate(optimiser: torch.optim.Optimizer, scale: float) -> float:
    """Set every group's rate to scale times its peak; returns the first group's (the actor's)."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * scale
    return float(optimiser.param_groups[0]["lr"])
