"""The reward model: a transformer that reads a whole text and gives it one number, at its last token.

It is a sequence classifier of transformers with one label, so that what is saved here can be loaded by anyone.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from clearppo.batch import ALONE, Division, shares
from clearppo.core.masks import widen
from clearppo.errors import ModelError
from clearppo.models.actor import plain_weights
from clearppo.models.build import Lora, prepare_network, with_lora
from clearppo.models.fingerprint import fingerprint
from clearppo.models.loading import (
    architecture_of,
    context_length,
    disable_dropout,
    first_line,
    quiet_transformers,
    refuse_attention,
    resolve_model,
)
from clearppo.models.network import Network, at, scored
from clearppo.models.saving import contiguous, padding_id

HEAD = "score"  # the name of the last layer in transformers' decoder classifiers


@runtime_checkable
class Judgement(Protocol):
    """The template of what the model reads, as far as it is needed here: it can write itself into a directory."""

    def save(self, directory: Path) -> None: ...


class RewardModel(Network):
    """Texts of token ids, right-padded with anything, and their lengths; one score each, in float32 at least.

    The score is a linear layer on the last hidden state of the text's last token, which is found by its length and
    never by looking for padding. The layer stays in float32 under bfloat16, weights or autocast. What stands behind a
    text's end is not read.

    With LoRA `base` is the fingerprint of the weights below the adapters, and `moved` how far every score has been
    moved in the final norm, which is none of the adapter's (models/normalise.py): both for models/trunk.py.
    """

    def __init__(self, model: Any, *, autocast: bool = False, base: str | None = None) -> None:
        super().__init__(model, autocast=autocast)
        self.base = base
        self.moved = 0.0
        self.head.to(torch.promote_types(self.head.weight.dtype, torch.float32))

    @property
    def classifier(self) -> Any:
        """The transformers model without a PEFT wrapper (its layers may be LoRA layers)."""
        return self.inner

    @property
    def head(self) -> nn.Linear:
        """The layer that makes a score of a hidden state."""
        return self.classifier.score

    @property
    def room(self) -> int | None:
        """The longest text, in tokens, that the model was built for, or None if its config does not say."""
        return context_length(self.classifier)

    def scores(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The score of each text, at its last token. Every length is 1 at least."""
        return self.read(self.last_states(ids, lengths))

    def token_scores(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N L"]:
        """The score at every token, as if the text ended there; 0 behind a text's end."""
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        return self.read(self._states(ids, lengths)).masked_fill(~inside, 0.0)

    def last_states(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        """The last hidden state of each text's last token, in float32 at least: what `read` makes a score of."""
        ends = torch.arange(len(ids), device=ids.device) * ids.shape[1] + lengths - 1
        return widen(at(self._states(ids, lengths), ends))

    def read(self, states: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape"]:
        """The head on hidden states."""
        return scored(self.head, states)

    def save(self, directory: Path, tokenizer: Any, judgement: Judgement) -> None:
        """A directory for AutoModelForSequenceClassification: adapters merged, one label, a padding token, and
        `judgement.json`, the template of what the model reads.

        transformers' own forward reads the last token that is not the padding token. Where that is the EOS as well it
        would miss the end of a text that ends in one, so the model and its tokenizer get another padding token, if the
        tokenizer has any (GPT-2's has not). ClearPPO reads by lengths in any case.
        """
        config, tokenizer = self.classifier.config, deepcopy(tokenizer)
        config.pad_token_id = _padding_beside_eos(config, tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
        with quiet_transformers():
            self.classifier.save_pretrained(directory, state_dict=contiguous(dict(plain_weights(self.classifier))))
            tokenizer.save_pretrained(directory)
        judgement.save(directory)

    def _states(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N L H"]:
        with self.precision():
            return self.hidden_states(ids, lengths)


def length_sorted(
    ids: Sequence[Sequence[int]],
    size: int,
    device: torch.device,
    *,
    tokens: int | None = None,
    fill: int = 0,
    division: Division = ALONE,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(rows, ids right-padded with `fill`, lengths) of at most `size` texts and `tokens` cells at a time (None: any
    number), the longest first: if memory does not suffice it fails at once. Of all texts this process's `shares`; for a
    text that is read for company only there are no rows."""
    for rows, counts in shares([len(text) for text in ids], division, max_rows=size, max_tokens=tokens):
        width = len(ids[rows[0]])
        texts = torch.tensor([[*ids[row], *[fill] * (width - len(ids[row]))] for row in rows], device=device)
        yield rows if counts else [], texts, torch.tensor([len(ids[row]) for row in rows], device=device)


def make_reward_model(
    classifier: Any, *, lora: Lora | None = None, autocast: bool = False, gradient_checkpointing: bool = False
) -> RewardModel:
    """A reward model around a loaded classifier. With `lora` the adapters learn and the head, in full.

    Raises ModelError if the LoRA target modules are not in the model.
    """
    prepare_network(classifier, gradient_checkpointing)
    if lora is None:
        return RewardModel(classifier, autocast=autocast)
    wrapped = with_lora(classifier, lora, head=HEAD)
    classifier.score.requires_grad_(True)
    base = fingerprint(getattr(classifier, classifier.base_model_prefix))
    return RewardModel(wrapped, autocast=autocast, base=base)


def load_classifier(
    name_or_path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    head_std: float | None = None,
    seed: int = 0,
) -> Any:
    """What a reward model starts from, dropout off: a language model with a new head, or a reward model as it is.

    A new head's weights are drawn from a normal distribution of mean 0 and standard deviation `head_std`. None is
    1 / sqrt(d + 1), d the hidden size, as in lm-human-preferences and summarize-from-feedback: scores begin with a
    deviation of about 1. Its bias, if the family has one, is 0.

    Raises ModelError with what was tried; if the model has no linear `score` layer over a decoder; if a reward model
    has more than one output.
    """
    path = resolve_model(name_or_path)
    is_reward_model = "SequenceClassification" in (architecture_of(path) or "")
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    if not is_reward_model:
        extra["num_labels"] = 1
    try:
        with quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True, **extra
            )
    except Exception as error:
        refuse_attention(attn_implementation, error)
        raise ModelError(f"cannot load {name_or_path} to train a reward model: {first_line(error)}.") from error
    # Of a model on the hub it is known only now what it is.
    is_reward_model = not new_head(model)
    _check(name_or_path, model, sorted(info["missing_keys"]), is_reward_model)
    if not is_reward_model:
        _new_head(model.score, head_std, seed)
    return disable_dropout(model)


def new_head(classifier: Any) -> bool:
    """Whether a loaded classifier was a language model, so that its head is new."""
    # from_pretrained keeps what config.json said, for a directory and for the hub alike
    return not any("SequenceClassification" in name for name in classifier.config.architectures or [])


def _padding_beside_eos(config: Any, tokenizer: Any) -> int:
    """The padding token, or where that is the EOS another special token that no text ends in; else the EOS."""
    pad_id = padding_id(config, tokenizer)
    if pad_id != tokenizer.eos_token_id:
        return pad_id
    taken = (None, tokenizer.eos_token_id, tokenizer.bos_token_id)
    others = [token for token in (tokenizer.unk_token_id, *tokenizer.all_special_ids) if token not in taken]
    return others[0] if others else pad_id


def _new_head(head: nn.Linear, std: float | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = (head.in_features + 1) ** -0.5 if std is None else std
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * spread)
        if head.bias is not None:
            head.bias.zero_()


def _check(name: str, model: Any, missing: list[str], is_reward_model: bool) -> None:
    head = getattr(model, HEAD, None)
    backbone = getattr(model, model.base_model_prefix, None)
    if not isinstance(head, nn.Linear) or backbone is None or model.config.is_encoder_decoder:
        raise ModelError(
            f"{name} ({type(model).__name__}) cannot be trained as a reward model: it has no linear `score` layer over "
            "a decoder. Use a decoder language model, such as those of Llama, Qwen, Mistral, GPT-2 or Pythia."
        )
    if head.out_features != 1:
        raise ModelError(
            f"{name} has num_labels = {head.out_features}; a reward model has one output. "
            "Start from a language model, or from a reward model saved with num_labels=1."
        )
    absent = [key for key in missing if is_reward_model or not key.startswith(f"{HEAD}.")]
    if absent:
        raise ModelError(
            f"{name} lacks the weights {', '.join(absent[:3])}, so they would be random. Check that the directory is "
            "whole, and that its config.json belongs to its weights."
        )
