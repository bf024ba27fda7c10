"""A sampler in this process, on the policy's own weights: one prefill, then one token a step, finished rows leave."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clearppo.batch import FinishReason, Prompts, response_width
from clearppo.models.actor import Actor, SharedCritic, plain_weights
from clearppo.models.policy import Policy
from clearppo.rollout.cache import ShrinkingCache
from clearppo.rollout.draw import draw
from clearppo.rollout.sampler import ExactGeneration, Generation, SamplingSettings, TextDecoder


@dataclass
class _Columns:
    """The answers while they grow: [B, T] tensors on the device, and why each row ended."""

    responses: Tensor
    mask: Tensor
    log_probs: Tensor
    policy_log_probs: Tensor
    values: Tensor
    finish: list[FinishReason]
    tokens: list[list[int]] = field(default_factory=list)


class InProcessSampler:
    """Samples with the policy's weights themselves (float32, or pure bfloat16), or with a bfloat16 copy of them.

    A copy is kept when the policy computes in bf16 autocast: a decode step then reads half as much and casts nothing.
    With the weights themselves in float32 or more, generations are exact: their log-probs and, with a shared critic,
    values equal those of one full forward pass to rounding (ExactGeneration).

    A row's random numbers depend on the seed, the call and the row's place, not on when other rows end.
    """

    def __init__(self, policy: Policy, tokenizer: TextDecoder, settings: SamplingSettings, *, seed: int) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.version = 0
        self._random = torch.Generator().manual_seed(seed)
        self._critic = policy.critic if isinstance(policy.critic, SharedCritic) else None
        self._copied = policy.actor.autocast
        self._actor = bf16_copy(policy.actor) if self._copied else policy.actor
        weight = policy.actor.causal_lm.get_input_embeddings().weight
        self.exact = not self._copied and self._critic is not None and weight.dtype in (torch.float32, torch.float64)

    @property
    def device(self) -> torch.device:
        """Where it decodes; prompts must be there."""
        return self._actor.device

    def load(self, policy: Policy, version: int) -> None:
        """Copy the policy's present weights if this sampler keeps a copy; otherwise it sees them anyway."""
        self.version = version
        if self._copied:
            copy_weights(policy.actor, self._actor)

    @torch.no_grad()
    def generate(self, prompts: Prompts) -> Generation:
        """One answer a prompt; decodes at most `settings.max_batch_size` rows at once, with the same result."""
        uniform = torch.rand(len(prompts), self.settings.max_tokens, generator=self._random, dtype=torch.float64)
        size = self.settings.max_batch_size or len(prompts)
        parts = []
        for start in range(0, len(prompts), size):
            rows = list(range(start, min(start + size, len(prompts))))
            columns = self._empty(len(rows))
            for _ in self._decode(prompts.select(rows), uniform[rows], columns):
                pass
            parts.append(columns)
        return self._joined(parts)

    @torch.no_grad()
    def stream(self, prompts: Prompts) -> Iterator[str]:
        """The answer to a single prompt, piece by piece as it grows; for talking to a model."""
        uniform = torch.rand(1, self.settings.max_tokens, generator=self._random, dtype=torch.float64)
        columns = self._empty(1)
        shown = ""
        for _ in self._decode(prompts, uniform, columns):
            text = self._text(columns.tokens[0])
            if text.endswith("\N{REPLACEMENT CHARACTER}"):  # half a character: wait for its other bytes
                continue
            yield text[len(shown) :]
            shown = text

    def _decode(self, prompts: Prompts, uniform: Tensor, columns: _Columns) -> Iterator[None]:
        """Fill `columns` token by token; yields after each step."""
        settings, actor, device = self.settings, self._actor, self._actor.device
        width, rows = prompts.ids.shape[1], list(range(len(prompts)))
        lengths = prompts.mask.sum(dim=1)
        attention = torch.ones(len(prompts), width + settings.max_tokens, dtype=torch.long, device=device)
        attention[:, :width] = prompts.mask
        store = ShrinkingCache(actor.causal_lm.config, width + settings.max_tokens)
        inputs, positions = prompts.ids, (attention[:, :width].cumsum(dim=1) - 1).clamp(min=0)
        uniform = uniform.to(columns.log_probs.dtype).to(device)  # MPS has no float64
        for t in range(settings.max_tokens):
            hidden = actor.step(inputs, attention[:, : width + t], positions, store.cache)[:, -1:]
            index = torch.tensor(rows, device=device)
            tokens, drawn, own = draw(
                actor.logits(hidden).squeeze(1),
                uniform[index, t],
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
            )
            columns.responses[index, t] = tokens
            columns.mask[index, t] = True
            columns.log_probs[index, t] = drawn.to(columns.log_probs.dtype)
            columns.policy_log_probs[index, t] = own.to(columns.log_probs.dtype)
            if self.exact and self._critic is not None:
                columns.values[index, t] = self._critic(hidden).squeeze(1).to(columns.values.dtype)
            going = self._still_going(rows, tokens.tolist(), columns)
            yield
            if not going or t + 1 == settings.max_tokens:
                return
            slots = store.keep(going, len(rows)) if len(going) < len(rows) else list(range(len(rows)))
            rows = [rows[slot] for slot in slots]
            picked = torch.tensor(slots, device=device)
            attention = attention[picked]
            inputs = tokens[picked][:, None]
            positions = (lengths[torch.tensor(rows, device=device)] + t)[:, None]

    def _still_going(self, rows: list[int], tokens: list[int], columns: _Columns) -> list[int]:
        """Note the new tokens and which rows they end; returns the slots whose rows go on."""
        going = []
        for slot, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            columns.tokens[row].append(token)
            if token in self.settings.stop_token_ids or self._ends_in_text(columns.tokens[row]):
                columns.finish[row] = "stop"
            else:
                going.append(slot)
        return going

    def _ends_in_text(self, tokens: list[int]) -> bool:
        if not self.settings.stop_strings:
            return False
        # A stop string of n characters ends with the newest token, so the last n tokens hold it (each has a character
        # at least, but for the pieces of one character, of which there are at most four).
        longest = max(len(text) for text in self.settings.stop_strings)
        before, now = (self.tokenizer.decode(part[-4 * longest - 4 :]) for part in (tokens[:-1], tokens))
        return any(now.count(text) > before.count(text) or now.endswith(text) for text in self.settings.stop_strings)

    def _empty(self, count: int) -> _Columns:
        shape, device = (count, self.settings.max_tokens), self._actor.device
        weight = self._actor.causal_lm.get_input_embeddings().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        zeros = {
            name: torch.zeros(shape, device=device, dtype=dtype) for name in ("log_probs", "policy_log_probs", "values")
        }
        return _Columns(
            responses=torch.zeros(shape, dtype=torch.long, device=device),
            mask=torch.zeros(shape, dtype=torch.bool, device=device),
            finish=["length"] * count,
            tokens=[[] for _ in range(count)],
            **zeros,
        )

    def _joined(self, parts: list[_Columns]) -> Generation:
        def whole(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        mask = whole("mask")
        width = response_width(mask)
        common: dict[str, Any] = {
            "responses": whole("responses")[:, :width],
            "mask": mask[:, :width],
            "log_probs": whole("log_probs")[:, :width],
            "finish_reasons": tuple(reason for part in parts for reason in part.finish),
            "completions": tuple(self._text(tokens) for part in parts for tokens in part.tokens),
            "temperature": self.settings.temperature,
            "policy_version": self.version,
        }
        if not self.exact:
            return Generation(**common)
        return ExactGeneration(
            policy_log_probs=whole("policy_log_probs")[:, :width], values=whole("values")[:, :width], **common
        )

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def bf16_copy(actor: Actor) -> Actor:
    """A plain (adapter-free) model with the actor's present weights in bfloat16, for decoding only."""
    model = deepcopy(actor.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    for parameter in model.parameters():
        # Parameters only: rotary frequencies and other buffers lose positions when rounded to 8 bits.
        parameter.data = parameter.data.to(torch.bfloat16)
        parameter.requires_grad_(False)
    return Actor(model)


def copy_weights(source: Actor, target: Actor) -> None:
    """Write the source's weights (adapters merged) into the target's, in the target's precision."""
    weights = target.causal_lm.state_dict()
    for name, weight in plain_weights(source.causal_lm):
        weights[name].copy_(weight)
