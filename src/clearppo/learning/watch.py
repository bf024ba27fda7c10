"""A look at every answer while it is learned from: how far the policy has gone from the one that wrote it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class Watch(Protocol):
    """Is shown each micro-batch as the loss sees it, and changes nothing."""

    def __call__(
        self, epoch: int, rows: Sequence[int], log_ratio: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]
    ) -> None:
        """In epoch `epoch`, from 0, these rows of the experience were read, and `log_ratio` is log_prob - old_log_prob
        of each of their tokens, 0 outside the mask. It stays on the device: a look at it would make the host wait."""
        ...
