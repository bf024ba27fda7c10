"""The actor: a causal language model read at response positions, and its critic heads."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearppo.batch import Prompts, Sequences
from clearppo.core.logprobs import log_probs, log_probs_from_hidden
from clearppo.errors import ModelError

LOGITS_TOLERANCE = 1e-4


class Actor(nn.Module):
    """A transformers causal LM, read where it predicts response tokens: response token j at position P - 1 + j.

    The language-model head is applied to response positions only. That this equals the model's own logits (some
    families cap or scale them) is checked once on a probe; where no known rule fits, the model's own logits are used.
    """

    def __init__(self, model: Any, *, autocast: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.autocast = autocast
        # A PeftModel wraps the causal LM; its LoRA layers sit inside, so running the inner model applies them.
        self._causal_lm = [model.get_base_model() if hasattr(model, "get_base_model") else model]
        self._takes_position_ids = "position_ids" in inspect.signature(self.backbone.forward).parameters
        self._head_rule = self._find_head_rule()

    @property
    def causal_lm(self) -> Any:
        """The transformers model without a PEFT wrapper (its layers may be LoRA layers)."""
        return self._causal_lm[0]

    @property
    def backbone(self) -> Any:
        """The transformer without its head."""
        return getattr(self.causal_lm, self.causal_lm.base_model_prefix)

    @property
    def device(self) -> torch.device:
        return self.causal_lm.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        return self.causal_lm.get_input_embeddings().weight.shape[1]

    def precision(self) -> AbstractContextManager[Any]:
        """bf16 autocast over float32 weights if this actor was made for it, else nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()

    def states(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T H"]:
        """The last hidden state before each response token. The caller opens `precision()`."""
        return response_states(self.backbone, prompts, responses, mask, self._takes_position_ids)

    def step(self, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Any) -> Float[Tensor, "B T H"]:
        """Hidden states of `tokens` [B, Q] given a KV cache that it extends; for the decoder."""
        extra = {"position_ids": positions} if self._takes_position_ids else {}
        return self.backbone(
            input_ids=tokens, attention_mask=attention, past_key_values=cache, use_cache=True, **extra
        ).last_hidden_state

    def logits(self, hidden: Float[Tensor, "B T H"]) -> Float[Tensor, "B T V"]:
        """The language-model head on hidden states, in at least float32."""
        logits = self._head_rule(self.causal_lm.get_output_embeddings()(hidden))
        return logits if logits.dtype == torch.float64 else logits.float()

    def sequence_log_probs(self, batch: Sequences) -> Float[Tensor, " N"]:
        """log p(token | the tokens before it) of the N tokens where `batch.loss_mask` is True, row by row, in nats.

        The head is applied to the positions that predict these tokens only, and in chunks wherever it is a plain linear
        layer, so that no [N, V] logits are kept. The temperature is 1: a text was not sampled from anything.
        """
        predicted = batch.loss_mask[:, 1:]
        tokens = batch.ids[:, 1:][predicted][None]
        with self.precision():
            # The last token of a text is a condition for none, so its column need not be run.
            hidden = hidden_states(self.backbone, batch.ids[:, :-1], batch.mask[:, :-1], self._takes_position_ids)
            hidden, head = hidden[predicted][None], self.causal_lm.get_output_embeddings()
            if self._head_rule is _as_it_is and type(head) is nn.Linear:  # a LoRA layer is none
                return log_probs_from_hidden(hidden, head.weight, tokens, bias=head.bias)[0]
            logits = self.logits(hidden)
        return log_probs(logits, tokens)[0]

    def _find_head_rule(self) -> Callable[[Tensor], Tensor]:
        """Which known rule turns head(hidden) into the model's own logits; raises ModelError if none does."""
        config = self.causal_lm.config
        rules: list[Callable[[Tensor], Tensor]] = [_as_it_is]
        if isinstance(cap := getattr(config, "final_logit_softcapping", None), float):
            rules.append(lambda x: torch.tanh(x / cap) * cap)
        if isinstance(scale := getattr(config, "logit_scale", None), int | float):
            rules.append(lambda x: x * scale)
        if isinstance(scaling := getattr(config, "logits_scaling", None), int | float):
            rules.append(lambda x: x / scaling)
        probe = torch.arange(2, 6, device=self.device)[None] % config.get_text_config().vocab_size
        with torch.no_grad():
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

    def forward(self, hidden: Float[Tensor, "B T H"]) -> Float[Tensor, "B T"]:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.score(hidden.to(self.score.weight.dtype)).squeeze(-1)


class SeparateCritic(nn.Module):
    """A critic with its own backbone: a transformers sequence classifier with one label, read at every position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self._classifier = [model.get_base_model() if hasattr(model, "get_base_model") else model]
        self._takes_position_ids = "position_ids" in inspect.signature(self.backbone.forward).parameters

    @property
    def classifier(self) -> Any:
        """The transformers model without a PEFT wrapper."""
        return self._classifier[0]

    @property
    def backbone(self) -> Any:
        return getattr(self.classifier, self.classifier.base_model_prefix)

    def forward(
        self, prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        hidden = response_states(self.backbone, prompts, responses, mask, self._takes_position_ids)
        values = self.classifier.score(hidden).squeeze(-1)
        return values if values.dtype == torch.float64 else values.float()


def response_states(
    backbone: Any, prompts: Prompts, responses: Tensor, mask: Tensor, takes_position_ids: bool
) -> Float[Tensor, "B T H"]:
    """Run left-padded prompts followed by responses; keep the states at positions P - 1 .. P + T - 2 (golden G03)."""
    # The last response token is never a condition for another one, so it need not be run.
    ids = torch.cat([prompts.ids, responses[:, :-1]], dim=1)
    attention = torch.cat([prompts.mask, mask[:, :-1]], dim=1)
    hidden = hidden_states(backbone, ids, attention, takes_position_ids)
    return hidden[:, prompts.ids.shape[1] - 1 :]


def hidden_states(
    backbone: Any, ids: Int[Tensor, "B L"], attention: Bool[Tensor, "B L"], takes_position_ids: bool
) -> Float[Tensor, "B L H"]:
    """The last hidden state at every token of a padded batch; a row's positions count its real tokens."""
    extra = {}
    if takes_position_ids:
        extra["position_ids"] = (attention.long().cumsum(dim=1) - 1).clamp(min=0)
    return backbone(input_ids=ids, attention_mask=attention.long(), use_cache=False, **extra).last_hidden_state


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def plain_weights(causal_lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of the model as if it had never been wrapped: LoRA deltas added, wrapper names removed."""
    lora = {name: module for name, module in causal_lm.named_modules() if hasattr(module, "get_delta_weight")}
    for name, weight in causal_lm.state_dict().items():
        owner = next((owner for owner in _parents(name) if owner in lora), None)
        if owner is None:
            yield name, weight
        elif name.startswith(f"{owner}.base_layer."):
            plain = name.replace(".base_layer.", ".")
            yield plain, _with_delta(lora[owner], weight) if plain == f"{owner}.weight" else weight


def _with_delta(layer: Any, weight: Tensor) -> Tensor:
    merged = weight
    for adapter in layer.active_adapters:
        merged = merged + layer.get_delta_weight(adapter).to(weight.dtype)
    return merged


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end])
