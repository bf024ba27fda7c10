"""Decoding by the transformers model itself: every architecture that it can run with a cache."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearppo.errors import ModelError
from clearppo.models.actor import Actor, plain_weights
from clearppo.models.lean import round_linear_layers
from clearppo.rollout.decoder.cache import ShrinkingCache

CACHE_NAMES = ("past_key_values", "cache_params")  # the second is Mamba's; a name that is not taken would be ignored


class TransformersDecoder:
    """Runs the actor step by step over a cache whose finished rows leave. Prompts are padded on the left.

    Rows start together: a new one would need the padding of the oldest. With `dtype` bfloat16 a copy of the model
    computes as bf16 autocast does, from linear weights that are bf16 already.
    """

    joins = False

    def __init__(self, actor: Actor, *, dtype: torch.dtype | None = None, why: str = "transformers' own model") -> None:
        self.why = why
        self._copied = dtype is not None and dtype != _weight_dtype(actor)
        self._actor = bf16_copy(actor) if self._copied else actor
        exact_types = (torch.float32, torch.float64)
        self.exact = not self._copied and not actor.autocast and _weight_dtype(actor) in exact_types
        self._takes = inspect.signature(self._actor.backbone.forward).parameters
        names = [name for name in CACHE_NAMES if name in self._takes]
        if not names:
            raise ModelError(
                f"{type(actor.causal_lm).__name__} takes no cache of earlier tokens that ClearPPO knows (it takes "
                f"{', '.join(self._takes)}), so it cannot be decoded. Use another architecture, or report this one."
            )
        self._cache_name = names[0]
        self._length = 0
        self._live = 0
        self._used = 0
        self._store: ShrinkingCache
        self._attention: Tensor
        self._positions: Tensor

    @property
    def device(self) -> torch.device:
        return self._actor.device

    def begin(self, *, rows: int, length: int) -> None:
        """See Decoder. Buffers are made by `start`, which knows the width of the prompts; `rows` is not needed."""
        self._live, self._length = 0, length

    @torch.no_grad()
    def start(self, prompts: list[list[int]], copies: list[int]) -> Float[Tensor, "N H"]:
        """See Decoder. Raises RuntimeError while other rows are live."""
        if self._live:
            raise RuntimeError("this decoder starts rows together only (joins is False): keep([]) or begin() first")
        shortest, width = min(map(len, prompts)), max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        ids = [[0] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        # A short prompt may grow to `length` tokens too, behind its padding.
        total = self._length + width - shortest
        attention = torch.ones(len(prompts), total, dtype=torch.long, device=self.device)
        attention[:, :width] = torch.tensor(mask, device=self.device)
        positions = (attention[:, :width].cumsum(dim=1) - 1).clamp(min=0)
        self._store = ShrinkingCache(self._actor.causal_lm.config, total)
        hidden = self._forward(torch.tensor(ids, device=self.device), attention[:, :width], positions)
        self._live, self._used = sum(copies), width
        self._attention, self._positions = attention, positions[:, -1] + 1
        if any(count != 1 for count in copies):
            origin = torch.repeat_interleave(torch.tensor(copies, device=self.device))
            self._store.select(origin)
            self._pick(origin)
            hidden = hidden[origin]
        return hidden

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        """See Decoder."""
        self._used += 1
        columns = slice(0 if self._store.attends else self._used - 1, self._used)
        hidden = self._forward(tokens[:, None], self._attention[:, columns], self._positions[:, None])
        self._positions = self._positions + 1
        return hidden

    def keep(self, rows: list[int]) -> list[int]:
        """See Decoder."""
        if len(rows) == self._live:
            return list(range(self._live))
        places = self._store.keep(rows, self._live) if rows else []
        self._live = len(places)
        self._pick(torch.tensor(places, dtype=torch.long, device=self.device))
        return places

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """See Decoder."""
        with self._actor.precision():
            return self._actor.logits(hidden)

    @torch.no_grad()
    def load(self, actor: Actor) -> None:
        """See Decoder. Without a copy the actor's weights are seen anyway."""
        self._live = 0
        if self._copied:
            weights = self._actor.causal_lm.state_dict()
            for name, weight in plain_weights(actor.causal_lm):
                weights[name].copy_(weight)
        else:
            self._actor = actor

    def state(self) -> dict[str, int]:
        """See Decoder. Nothing: each batch has buffers of its own."""
        return {}

    def load_state(self, state: Mapping[str, int]) -> None:
        """See Decoder."""
        self._live = 0

    def release(self) -> None:
        """See Decoder. The model itself stays."""
        self._live = 0
        self._store = ShrinkingCache(self._actor.causal_lm.config, 0)

    def _forward(self, ids: Tensor, attention: Tensor, positions: Tensor) -> Float[Tensor, "N H"]:
        """The last column's hidden states; the cache takes up all columns."""
        extra: dict[str, Any] = {self._cache_name: self._store.cache}
        if "position_ids" in self._takes:
            extra["position_ids"] = positions
        with self._actor.precision():
            out = self._actor.backbone(input_ids=ids, attention_mask=attention, use_cache=True, **extra)
        return out.last_hidden_state[:, -1]

    def _pick(self, rows: Int[Tensor, " M"]) -> None:
        self._attention, self._positions = self._attention[rows], self._positions[rows]


def bf16_copy(actor: Actor) -> Actor:
    """An adapter-free copy that computes bit for bit what bf16 autocast over the actor's merged weights computes."""
    model: Any = deepcopy(actor.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    round_linear_layers(model.requires_grad_(False).eval())
    return Actor(model, autocast=True)


def _weight_dtype(actor: Actor) -> torch.dtype:
    return actor.causal_lm.get_input_embeddings().weight.dtype
