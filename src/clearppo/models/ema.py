"""A running average of a model's weights as it learns (InstructGPT, appendix C.4; Polyak & Juditsky 1992)."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from clearppo.models.whole import InShards, put


class EMA:
    """average <- decay * average + (1 - decay) * weight, for each trainable weight, at every `update`.

    It begins at the weights as they are when it is made. At decay 0.992 half of it comes from the last 86 updates. With
    decay None nothing is kept and nothing happens. Averages are kept in float32 at least: a bfloat16 weight would not
    move at all by 0.008 of a small step. With LoRA the adapters' matrices are averaged, one by one, not their product.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self._live = {
            name: weight for name, weight in module.named_parameters() if decay is not None and weight.requires_grad
        }
        self.weights: dict[str, Tensor] = {
            name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in self._live.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        if self.decay is not None:
            for name, weight in self._live.items():
                self.weights[name].lerp_(weight.to(self.weights[name].dtype), 1 - self.decay)

    def state(self) -> dict[str, Tensor]:
        """The averages by the names of their weights; nothing without a decay."""
        return dict(self.weights)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor | InShards]) -> None:
        """Go on from these averages; from the weights as they are now if the state has none."""
        for name, weight in self._live.items():
            put(self.weights[name], state.get(name, weight))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While this is open, the module has the averaged weights, for saving; afterwards its own again."""
        own = {name: weight.detach().clone() for name, weight in self._live.items()}
        try:
            self._put(self.weights)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self._live.items():
            weight.copy_(weights[name])
