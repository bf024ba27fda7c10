"""The actor: a causal language model read at response positions, and its critic heads."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearppo.batch import Sequences
from clearppo.errors import ModelError
from clearppo.models.frozen_layers import FrozenLayers
from clearppo.models.fused_layers import is_plain_adapter
from clearppo.models.head import Head, as_it_is
from clearppo.models.layout import Layout
from clearppo.models.network import Network, at, scored
from clearppo.models.whole import is_shared_out, whole

LOGITS_TOLERANCE = 1e-4


class Actor(Network):
    """A transformers causal LM, read where it predicts response tokens: response token j at position P - 1 + j.

    The language-model head is applied to these positions only. That this equals the model's own logits (some families
    cap or scale them) is checked once on a probe.
    """

    def __init__(self, model: Any, *, autocast: bool = False, frozen: FrozenLayers | None = None) -> None:
        super().__init__(model, autocast=autocast, frozen=frozen)
        self._head_rule = self._find_head_rule()

    @property
    def causal_lm(self) -> Any:
        """The transformers model without a PEFT wrapper (its layers may be LoRA layers)."""
        return self.inner

    @property
    def head(self) -> Head:
        """The language-model head."""
        return Head(self.causal_lm.get_output_embeddings(), self._head_rule)

    def states(self, texts: Layout) -> Float[Tensor, "N H"]:
        """The last hidden state before each response token. The caller opens `precision()`."""
        return at(self.kept_states(texts.ids, texts.lengths), texts.cells)

    def logits(self, hidden: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape V"]:
        """The language-model head on hidden states, in at least float32."""
        return self.head.logits(hidden)

    def sequence_log_probs(self, batch: Sequences) -> Float[Tensor, " N"]:
        """log p(token | the tokens before it) of the N tokens where `batch.loss_mask` is True, row by row, in nats.

        The head is applied to the positions that predict these tokens only, and no [N, V] logits are kept. The
        temperature is 1: a text was not sampled from anything.
        """
        predicted = batch.loss_mask[:, 1:]
        # The last token of a text is a condition for none, so its column need not be run.
        ids, lengths = batch.ids[:, :-1], batch.mask[:, :-1].sum(dim=1)
        with self.precision():
            hidden = at(self.hidden_states(ids, lengths), predicted.flatten().nonzero().squeeze(1))
            return self.head.log_probs(hidden, batch.ids[:, 1:][predicted])

    @torch.no_grad()
    def _find_head_rule(self) -> Callable[[Tensor], Tensor]:
        """Which known rule turns head(hidden) into the model's own logits; raises ModelError if none does."""
        config = self.causal_lm.config
        rules: list[Callable[[Tensor], Tensor]] = [as_it_is]
        if isinstance(cap := getattr(config, "final_logit_softcapping", None), float):
            rules.append(lambda x: torch.tanh(x / cap) * cap)
        if isinstance(scale := getattr(config, "logit_scale", None), int | float):
            rules.append(lambda x: x * scale)
        if isinstance(scaling := getattr(config, "logits_scaling", None), int | float):
            rules.append(lambda x: x / scaling)
        probe = torch.arange(2, 6, device=self.device)[None] % config.get_text_config().vocab_size
        with self.precision():
            expected = self.causal_lm(input_ids=probe, use_cache=False).logits
            raw = self.causal_lm.get_output_embeddings()(
                self.backbone(input_ids=probe, use_cache=False).last_hidden_state
            )
            for rule in rules:
                if (rule(raw) - expected).abs().max() <= LOGITS_TOLERANCE * expected.abs().max().clamp(min=1):
                    return rule
        raise ModelError(
            f"the logits of {type(self.causal_lm).__name__} are not its output embedding applied to its last hidden "
            "state, nor capped or scaled in a way that ClearPPO knows. Please report the architecture."
        )


class SharedCritic(nn.Module):
    """The article's critic: one linear layer on the actor's last hidden state. It starts at exactly 0.

    Without bias, as in transformers' sequence classifiers, so that it can be saved as one.
    """

    def __init__(self, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        # The head stays in float32 under pure bfloat16: values are regressed, and bf16 has 8 bits.
        self.score = nn.Linear(hidden_size, 1, bias=False, dtype=torch.promote_types(dtype, torch.float32))
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape"]:
        return scored(self.score, hidden)


class SeparateCritic(Network):
    """A critic with its own backbone: a transformers sequence classifier with one label, read at every position.

    Its last layer computes in the precision of its weights, under autocast too.
    """

    @property
    def classifier(self) -> Any:
        """The transformers model without a PEFT wrapper."""
        return self.inner

    def forward(self, texts: Layout) -> Float[Tensor, " N"]:
        """The value before each response token, in float32 at least."""
        with self.precision():
            hidden = at(self.kept_states(texts.ids, texts.lengths), texts.cells)
        values = scored(self.classifier.score, hidden)
        return values if values.dtype == torch.float64 else values.float()


def plain_weights(causal_lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of the model as if it had never been wrapped: LoRA deltas added, wrapper names removed."""
    lora = {name: module for name, module in causal_lm.named_modules() if hasattr(module, "get_delta_weight")}
    for name, weight in causal_lm.state_dict().items():
        weight = whole(weight)
        owner = next((owner for owner in _parents(name) if owner in lora), None)
        if owner is None:
            yield name, weight
        elif name.startswith(f"{owner}.base_layer."):
            plain = name.replace(".base_layer.", ".")
            yield plain, _with_delta(lora[owner], weight) if plain == f"{owner}.weight" else weight


def plain_shapes(causal_lm: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The names of `plain_weights`, in order, each with its whole shape and type; nothing is gathered or computed."""
    lora = {name for name, module in causal_lm.named_modules() if hasattr(module, "get_delta_weight")}
    shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
    for name, weight in causal_lm.state_dict().items():
        owner = next((owner for owner in _parents(name) if owner in lora), None)
        if owner is None or name.startswith(f"{owner}.base_layer."):
            shapes[name.replace(".base_layer.", ".") if owner else name] = weight.shape, weight.dtype
    return shapes


def _with_delta(layer: Any, weight: Tensor) -> Tensor:
    merged = weight
    for adapter in layer.active_adapters:
        if adapter not in layer.r:  # of two adapters on one model each may have layers of its own
            continue
        # One pass over the weight, not three; and what is shared out over processes must be gathered in any case.
        quick = weight.dtype == torch.float32 or is_shared_out(layer.lora_A[adapter].weight)
        if quick and is_plain_adapter(layer, adapter):
            a, b = whole(layer.lora_A[adapter].weight), whole(layer.lora_B[adapter].weight)
            merged = torch.addmm(merged, b.to(weight.dtype), a.to(weight.dtype), alpha=layer.scaling[adapter])
        else:
            merged = merged + layer.get_delta_weight(adapter).to(weight.dtype)
    return merged


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end])
