"""Adam for actor and critic, in PyTorch's form and in TensorFlow's, and a learning rate constant within an update."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from clearppo.models.whole import InShards, is_shared_out, put, whole

Schedule = Literal["constant", "linear", "cosine", "inverse_sqrt"]
AdamStyle = Literal["torch", "tf"]


class TFAdam(torch.optim.Optimizer):
    """Adam as TensorFlow 1 has it, whose eps is not scaled by the bias correction (Kingma & Ba's "eps hat").

        x <- x - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)          after x <- x * (1 - lr * decay)

    PyTorch divides v by 1 - beta2^t before it adds eps. So here eps weighs 32 times as much in the first step (beta2 =
    0.999), and parameters whose gradients are near eps or below it move far less in the first hundreds of steps: that
    is how lm-human-preferences trained (eps 1e-5). The decay is AdamW's; TensorFlow's Adam had none.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        state["step"] += 1
        (beta1, beta2), t = group["betas"], state["step"]
        m, v = state["m"], state["v"]
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        parameter.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-rate)


def adamw(
    actor: Sequence[nn.Parameter],
    critic: Sequence[nn.Parameter] = (),
    *,
    learning_rate: float,
    critic_learning_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-5,
    critic_eps: float | None = None,
    weight_decay: float = 0.0,
    style: AdamStyle = "torch",
) -> torch.optim.Optimizer:
    """One optimiser over both; weight decay on matrices only. `initial_lr` of each group is its peak rate.

    The critic's parameters may have a rate and an eps of their own. `style` "tf" is TFAdam.
    """
    groups: list[dict[str, Any]] = []
    first = 0
    of_critic = (critic_learning_rate or learning_rate, eps if critic_eps is None else critic_eps)
    for parameters, (rate, own_eps) in ((actor, (learning_rate, eps)), (critic, of_critic)):
        for decays in (True, False):
            members = [parameter for parameter in parameters if (parameter.ndim >= 2) == decays]
            decay = weight_decay if decays else 0.0
            for shared_out in (False, True):  # one kernel moves tensors of one kind
                places = [place for place, member in enumerate(members) if is_shared_out(member) == shared_out]
                if places:
                    groups.append(
                        {
                            "params": [members[place] for place in places],
                            "places": [first + place for place in places],
                            "lr": rate,
                            "initial_lr": rate,
                            "eps": own_eps,
                            "weight_decay": decay,
                        }
                    )
            first += len(members)
    if style == "tf":
        return TFAdam(groups, betas=betas)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, betas=betas, fused=devices <= {"cpu", "cuda"})


def optimiser_state(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the optimiser remembers of each parameter, in order: tensors and numbers; nothing before the first step.

    The groups' settings are no part of it: they come from the options, and the rate from the schedule.
    """
    return [dict(optimiser.state.get(parameter, {})) for parameter, _ in _members(optimiser)]


@torch.no_grad()
def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Sequence[Mapping[str, Any]]) -> None:
    """Remember this instead: for each parameter what `optimiser_state` gave, on the CPU or elsewhere.

    Every tensor is laid out in memory as the optimiser itself would have done it. Raises ValueError if the state is of
    another number of parameters.
    """
    members = _members(optimiser)
    if len(members) != len(state):
        raise ValueError(f"the state of {len(state)} parameters for an optimiser of {len(members)}")
    optimiser.state.clear()
    for (parameter, fused), known in zip(members, state, strict=True):
        if known:
            optimiser.state[parameter] = {name: _beside(parameter, value, fused) for name, value in known.items()}


def _members(optimiser: torch.optim.Optimizer) -> list[tuple[nn.Parameter, bool]]:
    """Every parameter in order, whether shared out or not, and whether a fused kernel moves it."""
    found: list[tuple[int, nn.Parameter, bool]] = []
    for group in optimiser.param_groups:
        places = group.get("places") or range(len(found), len(found) + len(group["params"]))
        fused = bool(group.get("fused"))
        found += [(place, member, fused) for place, member in zip(places, group["params"], strict=True)]
    return [(member, fused) for _, member, fused in sorted(found, key=lambda each: each[0])]


def _beside(parameter: nn.Parameter, value: Any, fused: bool) -> Any:
    """A remembered value in memory of its own, where and as torch would keep it for this parameter."""
    if not isinstance(value, torch.Tensor | InShards):
        return value
    if value.shape != parameter.shape:  # Adam's count of steps; fused kernels want it beside the parameter
        return whole(value).to(parameter.device if fused else "cpu", copy=True)
    beside = torch.zeros_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format)
    put(beside, value)
    return beside


def rate_scale(
    update: int,
    n_updates: int,
    schedule: Schedule,
    warmup_ratio: float = 0.0,
    *,
    warmup_steps: int | None = None,
    warmup_start: float = 0.0,
    min_lr_ratio: float = 0.0,
) -> float:
    """The factor on the peak learning rate in update u = 0, 1, ..., n_updates - 1.

    Warm-up climbs linearly from `warmup_start` in the first update to 1 in update W: `warmup_steps`, or, without it,
    ceil(warmup_ratio * n_updates). From 0 a warm-up by ratio climbs with 1 / (W + 1) at first, so that no update of a
    short run is wasted; one by steps begins at 0 in truth, as DeepSpeed-Chat's (and transformers') does. Then, with p =
    (u - W) / (n_updates - W):

        constant       1
        linear         1 - p                   lm-human-preferences: full rate first, and the last one is not 0
        cosine         (1 + cos(pi * p)) / 2   DeepSpeed-Chat, transformers
        inverse_sqrt   sqrt(W / u)             PPO-max; without warm-up as if W were 1

    With `min_lr_ratio` linear and cosine end there instead of at 0 (GPT-3's "down to 10 %"); inverse_sqrt, which has no
    end, and the warm-up are cut off below it (PPO-max).
    """
    warmup = math.ceil(warmup_ratio * n_updates) if warmup_steps is None else warmup_steps
    if update < warmup:
        start = 1 / (warmup + 1) if warmup_steps is None and warmup_start == 0 else warmup_start
        return max(start + (1 - start) * update / warmup, min_lr_ratio)
    progress = (update - warmup) / max(n_updates - warmup, 1)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress * (1.0 - min_lr_ratio)
        case "cosine":
            return min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "inverse_sqrt":
            return max(math.sqrt(max(warmup, 1) / max(update, 1)), min_lr_ratio)


def set_rate(optimiser: torch.optim.Optimizer, scale: float) -> float:
    """Set every group's rate to scale times its peak; returns the first group's (the actor's)."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * scale
    return float(optimiser.param_groups[0]["lr"])
