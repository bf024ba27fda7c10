"""The policy is two models, actor and critic; the reference is the actor as it was before training.

`analyze` is the article's analyze_responses: what the live policy thinks of tokens that were sampled before.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearppo.batch import ALONE, Division, Prompts, Rollout, response_width, shares
from clearppo.models.actor import Actor, SeparateCritic, SharedCritic
from clearppo.models.head import Head
from clearppo.models.layout import Layout, lay_out
from clearppo.models.network import Network
from clearppo.models.resting import Resting


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
        return self.read(lay_out(prompts, responses, mask), temperature=temperature)

    def read(self, texts: Layout, *, temperature: float, values: Float[Tensor, "B T"] | None = None) -> Analysis:
        """`analyze` of texts that are laid out already: the host does not wait for the device. With `values` a separate
        critic has read them before."""
        return self._analysis(texts, self._states(texts), temperature, values)

    def read_with_kl(
        self,
        texts: Layout,
        reference: "FrozenReference",
        *,
        temperature: float,
        values: Float[Tensor, "B T"] | None = None,
    ) -> tuple[Analysis, Float[Tensor, "B T"]]:
        """`read`, and KL(policy || reference) over the whole vocabulary before every token, with gradients of the
        policy; for a full KL in the loss. No logits are kept."""
        with reference.at_hand():
            other = reference.states(texts)  # first, because it may switch the policy's own adapters off and on again
            hidden = self._states(texts)
            with self.actor.precision():
                kl = self.actor.head.full_kl(hidden, reference.head, other, temperature)
        return self._analysis(texts, hidden, temperature, values), texts.spread(kl)

    def _states(self, texts: Layout) -> Float[Tensor, "N H"]:
        with self.actor.precision():
            return self.actor.states(texts)

    def _analysis(self, texts: Layout, hidden: Tensor, temperature: float, values: Tensor | None) -> Analysis:
        with self.actor.precision():
            log_probs, entropy = self.actor.head.log_probs_and_entropy(hidden, texts.tokens, temperature)
        if values is None:
            values = texts.spread(self.critic(hidden if isinstance(self.critic, SharedCritic) else texts))
        return Analysis(log_probs=texts.spread(log_probs), entropy=texts.spread(entropy), values=values)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def forget(self) -> None:
        """Keep nothing of what frozen layers have made of answers."""
        for network in (self.actor, self.critic):
            if isinstance(network, Network) and network.frozen is not None:
                network.frozen.forget()


class FrozenReference:
    """A frozen copy of the actor. The policy is only looked at for the full KL, which needs both.

    At most `micro_batch_size` rows are in the model at once, and at most `micro_batch_tokens` cells (None: no limit).
    Every process reads its share of the rows, and has the numbers of all.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        policy: Policy,
        micro_batch_size: int,
        micro_batch_tokens: int | None = None,
        division: Division = ALONE,
    ) -> None:
        self.actor = actor
        self.policy = policy
        self.division = division
        self.micro_batch_size = micro_batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.resting: Resting | None = None

    def at_hand(self) -> AbstractContextManager[None]:
        """While this is open, the weights are where they compute, if they are not there anyway."""
        return contextlib.nullcontext() if self.resting is None else self.resting.at_hand()

    @property
    def head(self) -> Head:
        """What makes the reference's logits of its `states`."""
        return self.actor.head

    @torch.no_grad()
    def log_probs(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """log p_ref of every response token at the rollout's temperature, in nats; masked cells hold 0."""
        out = torch.zeros_like(rollout.old_log_probs)
        with self.at_hand():
            for rows, texts in self._portions(rollout):
                hidden = self.states(texts)
                with self.actor.precision():
                    log_probs = self.head.log_probs(hidden, texts.tokens, rollout.temperature)
                scatter(out, rows, texts.spread(log_probs))
        return self.division.sum(out)

    @torch.no_grad()
    def full_kl(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """KL(policy || reference) over the whole vocabulary before every token, in nats; masked cells hold 0."""
        out = torch.zeros_like(rollout.old_log_probs)
        actor = self.policy.actor
        with self.at_hand():
            for rows, texts in self._portions(rollout):
                other = self.states(texts)
                with actor.precision():
                    kl = actor.head.full_kl(actor.states(texts), self.head, other, rollout.temperature)
                scatter(out, rows, texts.spread(kl))
        return self.division.sum(out)

    @torch.no_grad()
    def states(self, texts: Layout) -> Float[Tensor, "N H"]:
        """The reference's last hidden state before every response token; as many rows as are given."""
        with self.actor.precision():
            return self.actor.states(texts)

    def _portions(self, rollout: Rollout) -> Iterator[tuple[list[int], Layout]]:
        sizes = self.micro_batch_size, self.micro_batch_tokens, self.division
        for rows, prompts, responses, mask in micro_batches(rollout.prompts, rollout.responses, rollout.mask, *sizes):
            yield rows, lay_out(prompts, responses, mask)


class AdapterOffReference(FrozenReference):
    """With LoRA: the policy's own weights with the adapters switched off, so that no copy is kept."""

    @property
    def head(self) -> Head:
        """See FrozenReference."""
        return self.actor.head.bare

    def states(self, texts: Layout) -> Float[Tensor, "N H"]:
        """See FrozenReference."""
        with self.actor.model.disable_adapter():
            return super().states(texts)


@torch.no_grad()
def analyze_in_micro_batches(
    policy: Policy,
    prompts: Prompts,
    responses: Tensor,
    mask: Tensor,
    *,
    temperature: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    division: Division = ALONE,
) -> Analysis:
    """`policy.analyze` without gradients over any number of rows; the size of the micro-batches changes nothing. Every
    process reads its share, and has the numbers of all."""
    kept = {
        name: torch.zeros(responses.shape, device=responses.device, dtype=_result_dtype(policy))
        for name in ("log_probs", "entropy", "values")
    }
    for rows, part, part_responses, part_mask in micro_batches(
        prompts, responses, mask, micro_batch_size, micro_batch_tokens, division
    ):
        analysis = policy.analyze(part, part_responses, part_mask, temperature=temperature)
        for name, out in kept.items():
            scatter(out, rows, getattr(analysis, name))
    return Analysis(**{name: division.sum(out) for name, out in kept.items()})


def micro_batches(
    prompts: Prompts, responses: Tensor, mask: Tensor, size: int, tokens: int | None = None, division: Division = ALONE
) -> Iterator[tuple[list[int], Prompts, Tensor, Tensor]]:
    """This process's rows in `shares` of at most `size` rows and `tokens` cells of prompt and response, each cut to its
    width. Where a row is read for company only there are no rows, and no token in the mask."""
    lengths = (prompts.mask.sum(dim=1) + mask.sum(dim=1)).tolist()
    for rows, counts in shares(lengths, division, max_rows=size, max_tokens=tokens):
        index = torch.tensor(rows, device=responses.device)
        inside = mask[index] & counts
        width = response_width(inside)
        yield rows if counts else [], prompts.select(rows), responses[index][:, :width], inside[:, :width]


def scatter(out: Tensor, rows: list[int], values: Tensor) -> None:
    """Write the values of these rows, which come first, into their places in a table of all rows."""
    index = torch.tensor(rows, device=out.device, dtype=torch.long)
    out[index, : values.shape[1]] = values[: len(rows)].to(out.dtype)


def _result_dtype(policy: Policy) -> torch.dtype:
    parameter = next(policy.actor.parameters())
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
