"""A reward model as a scorer. It reads text: its own tokenizer and chat template, whatever those of the policy are."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from clearppo.batch import Rollout
from clearppo.core.masks import widen
from clearppo.data.files import brief
from clearppo.data.judgement import FILE, JudgementTemplate
from clearppo.data.templates import answer_ids
from clearppo.errors import ModelError, RewardError
from clearppo.feedback.scorer import Scores, rows_in_words, shorten
from clearppo.models.loading import context_length, quiet_transformers, resolve_model


class RewardModelScorer:
    """Scores from a transformers sequence classifier with one output.

    It reads a prompt and its answer through `judgement`, the template that it was trained with (judgement.json in its
    directory). Without one a string prompt and its answer are one text, and messages go through the chat template.
    The score is read at the last token of that text, found by its length and never by looking for padding, because the
    padding token may be the EOS. Rows are sorted by length into micro-batches of `batch_size`, and neither their size
    nor the order of the rows changes a score beyond rounding. The head computes in float32 (float64 for such a model).

    Raises ModelError if the model has not one output, or the tokenizer neither a padding token nor an EOS.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        judgement: JudgementTemplate | None = None,
        name: str = "reward_model",
        batch_size: int = 16,
    ) -> None:
        self.name = name
        self.names = (name,)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.judgement = judgement
        self.batch_size = batch_size
        _check_one_output(name, model.config)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if self.pad_id is None:
            raise ModelError(
                f"the tokenizer of reward model {name} has neither a padding token nor an end-of-sequence token. "
                'Set "pad_token" in its tokenizer_config.json.'
            )
        self._head = _linear_head(model)
        self._room = _context(model, tokenizer, has_linear_head=self._head is not None)

    @classmethod
    def load(
        cls,
        path: str,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        trust_remote_code: bool = False,
    ) -> "RewardModelScorer":
        """A directory or a hub name, named after its last part.

        Raises ModelError if it is missing, corrupt, no reward model (a language model's score head would be random), or
        has not one output.
        """
        source = find_reward_model(path, trust_remote_code=trust_remote_code)
        try:
            with quiet_transformers():
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    source, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
                )
        except Exception as error:
            raise ModelError(_cannot_load(path, "weights", error)) from error
        if missing := sorted(info["missing_keys"]):
            raise ModelError(
                f"reward model {path} lacks the weights {', '.join(missing[:3])}: its scores would be random. "
                "Give a directory that was saved after reward-model training."
            )
        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        except Exception as error:
            raise ModelError(_cannot_load(path, "tokenizer", error)) from error
        judgement = _judgement(source)
        return cls(model.to(device), tokenizer, judgement=judgement, name=Path(path).name, batch_size=batch_size)

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Scores:
        """Raises RewardError, naming the row, for an answer longer than the model's context and for a score that is not
        finite; ModelError if the prompts are messages and the tokenizer has no chat template."""
        ids = [self._encode(rollout, row) for row in range(len(rollout))]
        # The longest first: if memory does not suffice it fails at once.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]), reverse=True)
        total = torch.zeros(len(ids), dtype=torch.float32, device=rollout.responses.device)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            total[torch.tensor(rows, device=total.device)] = self._score([ids[row] for row in rows]).to(total.device)
        if wrong := (~total.isfinite()).nonzero().flatten().tolist():
            raise RewardError(
                f"reward model {self.name} gave {float(total[wrong[0]])} for {rows_in_words(wrong, rollout.prompts)}. "
                "Check its weights, or load it in float32."
            )
        return Scores(total=total, parts={self.name: total})

    def _encode(self, rollout: Rollout, row: int) -> list[int]:
        prompt = rollout.prompts.texts[row]
        of_row = f"row {row + 1} ({shorten(prompt)})"
        uses_chat = self.judgement is None or "{conversation}" in self.judgement.text
        if uses_chat and not isinstance(prompt, str) and not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of reward model {self.name} has no chat template, and the prompts are messages. "
                "Use a reward model with one, or give prompts as strings."
            )
        read = answer_ids if self.judgement is None else self.judgement.ids
        try:
            ids = read(self.tokenizer, prompt, rollout.completions[row])
        except ValueError as error:
            raise RewardError(f"reward model {self.name} cannot read {of_row}: {error}. Mend the messages.") from error
        if not ids:
            raise RewardError(f"reward model {self.name}: {of_row} encodes to no token at all. Remove the prompt.")
        if self._room is not None and len(ids) > self._room:
            raise RewardError(
                f"reward model {self.name} reads at most {self._room} tokens, and {of_row} has {len(ids)} "
                "with its answer. Use a smaller --response_length or --max_prompt_length."
            )
        known = self.model.get_input_embeddings().weight.shape[0]
        if max(ids) >= known:
            raise ModelError(
                f"the tokenizer of reward model {self.name} writes token {max(ids)}, the model knows {known} tokens. "
                "Give it the tokenizer that it was trained with."
            )
        return ids

    def _score(self, ids: list[list[int]]) -> Float[Tensor, " B"]:
        device = self.model.get_input_embeddings().weight.device
        lengths = torch.tensor([len(row) for row in ids], device=device)
        width = int(lengths.max())
        tokens = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in ids], device=device)
        attention = (torch.arange(width, device=device) < lengths[:, None]).long()
        if self._head is None:
            return self.model(input_ids=tokens, attention_mask=attention).logits[:, 0].float()
        backbone = getattr(self.model, self.model.base_model_prefix)
        hidden = backbone(input_ids=tokens, attention_mask=attention, use_cache=False).last_hidden_state
        last = widen(hidden[torch.arange(len(ids), device=device), lengths - 1])
        bias = None if self._head.bias is None else widen(self._head.bias)
        return functional.linear(last, widen(self._head.weight), bias)[:, 0].float()


def find_reward_model(path: str, *, trust_remote_code: bool = False) -> str:
    """The directory or hub name of a reward model, by its config alone: known in a second, before its weights are read.

    Raises ModelError if it is missing, no reward model, or has not one output.
    """
    _refuse_missing(path)
    source = resolve_model(path)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(_cannot_load(path, "config", error)) from error
    _check_architecture(path, config)
    _check_one_output(path, config)
    return source


def _judgement(source: str) -> JudgementTemplate | None:
    """The template in judgement.json of a directory, or of a repository on the hub; None if there is none."""
    if os.path.isdir(source):
        return JudgementTemplate.load(source)
    try:
        return JudgementTemplate.load(Path(hf_hub_download(source, FILE)).parent)
    except EntryNotFoundError:  # also where there is no network, and the model came from the cache without it
        return None


def _linear_head(model: Any) -> nn.Linear | None:
    """The head of transformers' decoder classifiers, linear on every token's last hidden state; None for other layouts.

    Their own forward would look for the last token that is not the padding token, and miss an EOS that pads as well.
    Other classifiers (BERT and its kin) pool in their own way, by the attention mask, and are called whole.
    """
    head = getattr(model, "score", None)
    usable = isinstance(head, nn.Linear) and hasattr(model, model.base_model_prefix)
    return head if usable and not model.config.is_encoder_decoder else None


def _context(model: Any, tokenizer: Any, *, has_linear_head: bool) -> int | None:
    """The longest text, in tokens; of encoders the tokenizer knows it better (RoBERTa keeps two for itself)."""
    of_model = context_length(model)
    if has_linear_head or of_model is None:
        return of_model
    return min(of_model, tokenizer.model_max_length)


def _check_one_output(path: str, config: PreTrainedConfig) -> None:
    if config.num_labels != 1:
        raise ModelError(
            f"reward model {path} has num_labels = {config.num_labels}; a reward model has one output. "
            "Give a directory saved with num_labels=1 as --reward_model_path."
        )


def _check_architecture(path: str, config: PreTrainedConfig) -> None:
    names = config.architectures or []
    own_code = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
    if names and not own_code and not any("SequenceClassification" in name for name in names):
        raise ModelError(
            f"{path} is a {names[0]}, not a reward model: it has no trained score head. "
            "Give an AutoModelForSequenceClassification directory with num_labels=1 as --reward_model_path."
        )


def _refuse_missing(path: str) -> None:
    """A path that is spelled like one and is not there is not asked for on the hub, which may take half a minute."""
    spelled_like_a_path = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
    if not path or (spelled_like_a_path and not os.path.exists(os.path.expanduser(path))):
        raise ModelError(f"there is no reward model directory {path!r}. Check --reward_model_path.")


def _cannot_load(path: str, what: str, error: Exception) -> str:
    if os.path.isdir(os.path.expanduser(path)):
        return (
            f"cannot load the {what} of the reward model in {path}: {brief(error)}. Check that the directory is whole."
        )
    return (
        f"cannot load the {what} of reward model {path}. Tried: a local directory (there is none of that name); the "
        f"Hugging Face hub ({brief(error)}). Check the spelling, or give a directory."
    )
