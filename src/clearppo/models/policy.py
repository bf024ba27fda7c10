"""The policy is two models, actor and critic; the reference is the actor as it was before training.

`analyze` is the article's analyze_responses: what the live policy thinks of tokens that were sampled before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearppo.batch import Prompts, Rollout, response_width
from clearppo.core.kl import full_kl
from clearppo.core.logprobs import log_probs, log_probs_and_entropy
from clearppo.models.actor import Actor, SeparateCritic, SharedCritic


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a policy thinks of given response tokens: log p and entropy in nats, value before each token."""

    log_probs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]


class Policy(nn.Module):
    """Actor and critic. With a shared critic both read the same hidden states, in one forward pass."""

    def __init__(self, actor: Actor, critic: SharedCritic | SeparateCritic) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic

    @property
    def device(self) -> torch.device:
        return self.actor.device

    def analyze(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, temperature: float
    ) -> Analysis:
        """Log-prob, entropy and value of every response token, with gradients; masked cells hold 0."""
        return self.analyze_with_logits(prompts, responses, mask, temperature=temperature)[0]

    def analyze_with_logits(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, temperature: float
    ) -> tuple[Analysis, Float[Tensor, "B T V"]]:
        """`analyze`, and the live logits before the temperature divides them; for a full KL in the loss."""
        with self.actor.precision():
            hidden = self.actor.states(prompts, responses, mask)
            logits = self.actor.logits(hidden)
            if isinstance(self.critic, SharedCritic):
                values = self.critic(hidden)
            else:
                values = self.critic(prompts, responses, mask)
        token_log_probs, entropy = log_probs_and_entropy(logits, responses, temperature)
        analysis = Analysis(
            log_probs=token_log_probs.masked_fill(~mask, 0.0),
            entropy=entropy.masked_fill(~mask, 0.0),
            values=values.masked_fill(~mask, 0.0),
        )
        return analysis, logits

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]


class FrozenReference:
    """A frozen copy of the actor. The policy is only looked at for the full KL, which needs both."""

    def __init__(self, actor: Actor, *, policy: Policy, micro_batch_size: int) -> None:
        self.actor = actor
        self.policy = policy
        self.micro_batch_size = micro_batch_size

    @torch.no_grad()
    def log_probs(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """log p_ref of every response token at the rollout's temperature, in nats; masked cells hold 0."""
        out = torch.zeros_like(rollout.old_log_probs)
        for rows, prompts, responses, mask in micro_batches(
            rollout.prompts, rollout.responses, rollout.mask, self.micro_batch_size
        ):
            values = log_probs(self.logits(prompts, responses, mask), responses, rollout.temperature)
            _scatter(out, rows, values.masked_fill(~mask, 0.0))
        return out

    @torch.no_grad()
    def full_kl(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """KL(policy || reference) over the whole vocabulary before every token, in nats; masked cells hold 0."""
        out = torch.zeros_like(rollout.old_log_probs)
        actor, temperature = self.policy.actor, rollout.temperature
        for rows, prompts, responses, mask in micro_batches(
            rollout.prompts, rollout.responses, rollout.mask, self.micro_batch_size
        ):
            reference = self.logits(prompts, responses, mask)
            with actor.precision():
                logits = actor.logits(actor.states(prompts, responses, mask))
            _scatter(out, rows, full_kl(logits, reference, temperature).masked_fill(~mask, 0.0))
        return out

    @torch.no_grad()
    def logits(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Logits before every response token, which no temperature has divided yet; as many rows as are given."""
        with self.actor.precision():
            return self.actor.logits(self.actor.states(prompts, responses, mask))


class AdapterOffReference(FrozenReference):
    """With LoRA: the policy's own weights with the adapters switched off, so that no copy is kept."""

    def logits(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """See FrozenReference."""
        with self.actor.model.disable_adapter():
            return super().logits(prompts, responses, mask)


@torch.no_grad()
def analyze_in_micro_batches(
    policy: Policy, prompts: Prompts, responses: Tensor, mask: Tensor, *, temperature: float, micro_batch_size: int
) -> Analysis:
    """`policy.analyze` without gradients over any number of rows; the micro-batch size changes nothing."""
    kept = {
        name: torch.zeros(responses.shape, device=responses.device, dtype=_result_dtype(policy))
        for name in ("log_probs", "entropy", "values")
    }
    for rows, part, part_responses, part_mask in micro_batches(prompts, responses, mask, micro_batch_size):
        analysis = policy.analyze(part, part_responses, part_mask, temperature=temperature)
        for name, out in kept.items():
            _scatter(out, rows, getattr(analysis, name))
    return Analysis(**kept)


def micro_batches(
    prompts: Prompts, responses: Tensor, mask: Tensor, size: int
) -> Iterator[tuple[list[int], Prompts, Tensor, Tensor]]:
    """Rows in groups of at most `size`, similar lengths together, each cut to its own width."""
    lengths = prompts.mask.sum(dim=1) + mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True).tolist()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        index = torch.tensor(rows, device=responses.device)
        width = response_width(mask[index])
        yield rows, prompts.select(rows), responses[index][:, :width], mask[index][:, :width]


def _scatter(out: Tensor, rows: list[int], values: Tensor) -> None:
    out[torch.tensor(rows, device=out.device), : values.shape[1]] = values.to(out.dtype)


def _result_dtype(policy: Policy) -> torch.dtype:
    parameter = next(policy.actor.parameters())
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
