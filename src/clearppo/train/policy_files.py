"""The model files of a policy: those of a checkpoint, and those of the result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clearppo.engines.base import Engine
from clearppo.models.ema import EMA
from clearppo.models.policy import Policy
from clearppo.models.saving import save_actor, save_adapter, save_critic, written
from clearppo.models.whole import held


@dataclass(frozen=True, kw_only=True)
class PolicyFiles:
    """How a policy is written; with LoRA (`adapter`) a checkpoint holds the adapter alone. `critic` says whether there
    is one to write. Of several processes the first one (`engine`) writes, and all gather what is shared out."""

    policy: Policy
    average: EMA
    tokenizer: Any
    critic: bool
    adapter: bool
    engine: Engine

    def of_checkpoint(self, directory: Path) -> None:
        """Write the files of a checkpoint; what is shared out is held (`weights`)."""
        if self.adapter:
            save_adapter(self.policy.actor, directory / "adapter")
        else:
            save_actor(self.policy.actor, self.tokenizer, directory)

    def weights(self) -> list[Tensor]:
        """What `of_checkpoint` reads."""
        return written(self.policy.actor, adapter=self.adapter)

    def of_result(self, directory: Path) -> None:
        """Write the policy, its critic, and its average below `directory`. All processes call this together."""
        self._gathered(self.policy.parameters(), lambda: self._result(directory))
        if self.average.decay is not None:
            place = directory / "ema_model"
            with self.average.applied():
                actor = self.policy.actor
                self._gathered(actor.parameters(), lambda: save_actor(actor, self.tokenizer, place))

    def _result(self, directory: Path) -> None:
        save_actor(self.policy.actor, self.tokenizer, directory)
        if self.critic:
            save_critic(self.policy, self.tokenizer, directory / "value_model")
        if self.adapter:
            save_adapter(self.policy.actor, directory / "adapter")

    def _gathered(self, weights: Iterable[Tensor], write: Callable[[], None]) -> None:
        first = self.engine.rank == 0
        with held(weights, here=first):
            if first:
                write()
