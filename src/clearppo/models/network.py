"""A loaded transformers model whose backbone is read at chosen tokens: what actor, critic and reward model share."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from clearppo.errors import ModelError
from clearppo.models import attention
from clearppo.models.frozen_layers import FrozenLayers
from clearppo.models.fused_layers import fuse_layers, unfuse_layers

CAUSAL_TOLERANCE = 1e-4
HALF_TOLERANCE = 0.05  # the rounding of bfloat16, through all layers


class Network(nn.Module):
    """A transformers model, maybe wrapped by PEFT, that reads whole texts, padded on the right.

    Behind a right-padded end nothing is read by a model that looks back only. So it gets no attention mask, which lets
    attention take its fastest way and makes no [B, 1, L, L] mask; and its positions are simply the columns. Whether it
    looks back only is found out on a probe; a model that does not gets the mask.

    `frozen` are the backbone's layers that do not learn, if there are any. Raises ModelError if there are and the model
    looks ahead.
    """

    def __init__(self, model: Any, *, autocast: bool = False, frozen: FrozenLayers | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.autocast = autocast
        self.frozen = frozen
        # A PeftModel wraps the model; its LoRA layers sit inside, so running the inner model applies them.
        self._inner = [model.get_base_model() if hasattr(model, "get_base_model") else model]
        if hasattr(self.backbone, "warn_if_padding_and_no_attention_mask"):
            # It would warn of every text that ends in an EOS which is the padding token too.
            self.backbone.warn_if_padding_and_no_attention_mask = _say_nothing
        self._needs_mask = False
        self._needs_mask = self._looks_ahead()
        if frozen is not None and self._needs_mask:
            raise ModelError(
                f"--freeze_layers cannot be used with {type(self.inner).__name__}: it looks ahead of the token that it "
                "reads. Leave it out, or use a decoder."
            )
        self._choose_attention()
        self._choose_layers()

    @property
    def inner(self) -> Any:
        """The transformers model without a PEFT wrapper (its layers may be LoRA layers)."""
        return self._inner[0]

    @property
    def backbone(self) -> Any:
        """The transformer without its head."""
        return getattr(self.inner, self.inner.base_model_prefix)

    @property
    def device(self) -> torch.device:
        return self.inner.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        return self.inner.get_input_embeddings().weight.shape[1]

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self.inner.get_input_embeddings().weight.shape[0]

    def precision(self) -> AbstractContextManager[Any]:
        """bf16 autocast over float32 weights if this network was made for it, else nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    @contextmanager
    def without_autocast(self) -> Iterator[None]:
        """While this is open, `precision()` is the weights' own."""
        autocast, self.autocast = self.autocast, False
        try:
            yield
        finally:
            self.autocast = autocast

    def hidden_states(self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L H"]:
        """The last hidden state at every token of texts that are right-padded with anything; any number behind an end.

        The caller opens `precision()`.
        """
        extra = {}
        if self._needs_mask:
            inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
            extra["attention_mask"] = inside.long()
        return self.backbone(input_ids=ids, use_cache=False, **extra).last_hidden_state

    def kept_states(self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L H"]:
        """`hidden_states` of texts that will be read again: what frozen layers make of them is kept."""
        return self.hidden_states(ids, lengths) if self.frozen is None else self.frozen.states(ids, lengths)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _looks_ahead(self) -> bool:
        """Whether the states of two texts that begin alike differ before the texts do."""
        left, right = self._probe()[:, :2]
        return not bool((left - right).abs().max() <= CAUSAL_TOLERANCE * left.abs().max().clamp(min=1))

    @torch.no_grad()
    def _choose_attention(self) -> None:
        """Our own attention where torch's is slow, unless the architecture asks what its attention is called."""
        config = getattr(self.inner, "config", None)
        half = self.autocast or next(self.inner.parameters()).dtype in attention.HALF
        if config is None or not half or self.device.type != "cpu" or config._attn_implementation != "sdpa":
            return
        expected = self._probe()
        config._attn_implementation = attention.NAME
        with attention.torchs_own():
            if not torch.equal(self._probe(), expected):
                config._attn_implementation = "sdpa"

    @torch.no_grad()
    def _choose_layers(self) -> None:
        """Layers of our own, that keep less for the backward pass, where they are known and compute the same."""
        expected = self._probe()
        if fuse_layers(self.inner):
            half = self.autocast or expected.dtype in attention.HALF
            tolerance = HALF_TOLERANCE if half else CAUSAL_TOLERANCE
            if not (self._probe() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1):
                unfuse_layers(self.inner)

    def _probe(self) -> Float[Tensor, "2 4 H"]:
        """The states of two texts of four tokens that differ behind the second."""
        texts = torch.tensor([[2, 3, 4, 5], [2, 3, 5, 6]], device=self.device)
        texts %= self.inner.get_input_embeddings().weight.shape[0]
        with self.precision():
            return self.hidden_states(texts, torch.full_like(texts[:, 0], 4))


def at(hidden: Float[Tensor, "B L H"], cells: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
    """The states at these cells, counted row by row through the batch: cell = row * L + column."""
    return hidden.flatten(0, 1).index_select(0, cells)


def scored(head: nn.Linear, hidden: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape"]:
    """One number for each state, by a linear layer of one output: in the layer's own precision, under autocast too."""
    with torch.autocast(hidden.device.type, enabled=False):
        return functional.linear(hidden.to(head.weight.dtype), head.weight, head.bias).squeeze(-1)


def _say_nothing(*_: Any) -> None:
    pass
