"""A look at every answer while it is learned from: how far the policy has gone from the one that wrote it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.batch import Division
from clearppo.core.masks import kept


@runtime_checkable
class Watch(Protocol):
    """Is shown each micro-batch as the loss sees it, and changes nothing."""

    def __call__(
        self, epoch: int, rows: Sequence[int], log_ratio: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]
    ) -> None:
        """In epoch `epoch`, from 0, these rows of the experience were read, and `log_ratio` is log_prob - old_log_prob
        of each of their tokens, 0 outside the mask. It stays on the device: a look at it would make the host wait."""
        ...


class Look:
    """Shows a mini-batch, the rows `of` of an experience, to a watch, if there is one: each micro-batch once it was
    read. Of several processes each has read a part, and all of it is shown at the end, to whoever watches on any."""

    def __init__(self, watch: Watch | None, division: Division, epoch: int, of: Sequence[int]) -> None:
        self._watch = watch
        self._division = division
        self._epoch = epoch
        self._of = of
        self._seen: list[tuple[list[int], Tensor]] = []

    def show(
        self,
        rows: list[int],
        log_probs: Float[Tensor, "b t"],
        old_log_probs: Float[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
    ) -> None:
        """A micro-batch of these rows of the mini-batch was read; no rows: for company only."""
        log_ratio = kept(log_probs.detach(), mask) - kept(old_log_probs, mask)
        if self._division.world > 1:
            self._seen.append((rows, log_ratio))
        elif self._watch is not None:
            self._watch(self._epoch, [self._of[row] for row in rows], log_ratio, mask)

    def done(self, mask: Bool[Tensor, "b t"]) -> None:
        """All were read; `mask` is the whole mini-batch's. Every process comes here, whether it watches or not."""
        if self._division.world == 1:
            return
        table = torch.zeros(mask.shape, dtype=self._seen[0][1].dtype, device=mask.device)
        for rows, log_ratio in self._seen:
            index = torch.tensor(rows, device=mask.device, dtype=torch.long)
            table[index, : log_ratio.shape[1]] = log_ratio[: len(rows)]
        table = self._division.sum(table)
        if self._watch is not None:
            self._watch(self._epoch, list(self._of), table, mask)
