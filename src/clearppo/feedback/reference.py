"""SOCKET Reference: the frozen model that the policy is to stay near."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clearppo.batch import Rollout


@runtime_checkable
class Reference(Protocol):
    """Looks at the tokens of a rollout; never learns. Both results are in nats, at the rollout's temperature."""

    def log_probs(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """log p_ref(token | context) of every response token."""
        ...

    def full_kl(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """KL(policy || reference) over the whole vocabulary before every response token."""
        ...
