"""A reward model as a scorer. It reads text: its own tokenizer and chat template, whatever those of the policy are."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from clearppo.batch import ALONE, Division, Rollout
from clearppo.data.files import brief
from clearppo.data.judgement import FILE, JudgementTemplate
from clearppo.data.templates import answer_ids
from clearppo.errors import ModelError, RewardError, ScoreError
from clearppo.feedback.scorer import Scores, rows_in_words, shorten
from clearppo.models.actor import Actor
from clearppo.models.lean import own_memory, round_linear_layers
from clearppo.models.loading import context_length, quiet_transformers, resolve_model
from clearppo.models.resting import Resting
from clearppo.models.reward_model import HEAD, RewardModel, length_sorted
from clearppo.models.trunk import TrunkReward


@runtime_checkable
class Reader(Protocol):
    """What gives texts of token ids their scores."""

    @property
    def device(self) -> torch.device: ...

    @property
    def room(self) -> int | None:
        """The longest text, in tokens, or None if nobody knows."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        ...

    def scores(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The score of each text, right-padded with the padding token, at its last token."""
        ...


class RewardModelScorer:
    """Scores from a transformers sequence classifier with one output, or from a reward model on the policy's trunk.

    It reads a prompt and its answer through `judgement`, the template that it was trained with (judgement.json in its
    directory). Without one a string prompt and its answer are one text, and messages go through the chat template.
    The score is read at the last token of that text, found by its length and never by looking for padding, because the
    padding token may be the EOS. At most `batch_size` rows and `batch_tokens` cells (None: no limit) are in the model
    at once, and neither these limits nor the order of the rows change a score beyond rounding. Every process reads its
    share of the texts (`division`), and has the scores of all.

    With `autocast` a decoder's float32 weights compute in bf16 autocast (and its linear layers are rounded beforehand,
    which changes nothing); its head computes in float32 in any case (float64 for such a model). An encoder, whose head
    is out of reach, stays in its own precision.

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
        batch_tokens: int | None = None,
        autocast: bool = False,
    ) -> None:
        self.name = name
        self.names = (name,)
        self.model = model
        self.tokenizer = tokenizer
        self.judgement = judgement
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.division: Division = ALONE
        self.resting: Resting | None = None
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if self.pad_id is None:
            raise ModelError(
                f"the tokenizer of reward model {name} has neither a padding token nor an end-of-sequence token. "
                'Set "pad_token" in its tokenizer_config.json.'
            )
        self._reader = model if isinstance(model, TrunkReward) else _reader(model, tokenizer, name, autocast)

    @classmethod
    def load(
        cls,
        path: str,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        trust_remote_code: bool = False,
        *,
        batch_tokens: int | None = None,
        autocast: bool = False,
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
        return cls(
            model.to(device),
            _tokenizer(path, source, trust_remote_code),
            judgement=_judgement(source),
            name=Path(path).name,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            autocast=autocast,
        )

    @classmethod
    def on_trunk(
        cls,
        path: str,
        actor: Actor,
        batch_size: int,
        trust_remote_code: bool = False,
        *,
        batch_tokens: int | None = None,
    ) -> "RewardModelScorer":
        """A directory whose adapter is put on the policy's own weights; the merged ones are not read.

        Raises CannotShareError if it has none for these weights; else as `load` does.
        """
        source = find_reward_model(path, trust_remote_code=trust_remote_code)
        return cls(
            TrunkReward(actor, Path(source)),
            _tokenizer(path, source, trust_remote_code),
            judgement=_judgement(source),
            name=Path(path).name,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
        )

    @torch.no_grad()
    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Every weight of the reward model, by name, to tell it from another one."""
        return self.model.weights() if isinstance(self.model, TrunkReward) else self.model.named_parameters()

    def __call__(self, rollout: Rollout) -> Scores:
        """Raises RewardError, naming the row, for an answer longer than the model's context and for a score that is not
        finite; ModelError if the prompts are messages and the tokenizer has no chat template."""
        total = self.marks(self.encoded(rollout.prompts.texts, rollout.completions)).to(rollout.responses.device)
        if wrong := (~total.isfinite()).nonzero().flatten().tolist():
            raise ScoreError(
                f"reward model {self.name} gave {float(total[wrong[0]])} for {rows_in_words(wrong, rollout.prompts)}. "
                "Check its weights, or load it in float32."
            )
        return Scores(total=total, parts={self.name: total})

    def encoded(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[int]]:
        """The tokens that are read of each prompt (text or messages) with its answer. Raises as `__call__`."""
        pairs = zip(prompts, completions, strict=True)
        return [self._encode(prompt, completion, row) for row, (prompt, completion) in enumerate(pairs)]

    @torch.no_grad()
    def marks(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, " N"]:
        """The score of each text of `encoded`, float32 on the model's device; finite or not."""
        with contextlib.nullcontext() if self.resting is None else self.resting.at_hand():
            device = self._reader.device
            total = torch.zeros(len(ids), dtype=torch.float32, device=device)
            for rows, texts, lengths in length_sorted(
                ids, self.batch_size, device, tokens=self.batch_tokens, fill=self.pad_id, division=self.division
            ):
                scores = self._reader.scores(texts, lengths).float()
                total[torch.tensor(rows, device=device, dtype=torch.long)] = scores[: len(rows)]
        return self.division.sum(total)

    def _encode(self, prompt: Any, completion: str, row: int) -> list[int]:
        of_row = f"row {row + 1} ({shorten(prompt)})"
        uses_chat = self.judgement is None or "{conversation}" in self.judgement.text
        if uses_chat and not isinstance(prompt, str) and not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of reward model {self.name} has no chat template, and the prompts are messages. "
                "Use a reward model with one, or give prompts as strings."
            )
        read = answer_ids if self.judgement is None else self.judgement.ids
        try:
            ids = read(self.tokenizer, prompt, completion)
        except ValueError as error:
            raise RewardError(f"reward model {self.name} cannot read {of_row}: {error}. Mend the messages.") from error
        if not ids:
            raise RewardError(f"reward model {self.name}: {of_row} encodes to no token at all. Remove the prompt.")
        room, known = self._reader.room, self._reader.vocabulary
        if room is not None and len(ids) > room:
            raise RewardError(
                f"reward model {self.name} reads at most {room} tokens, and {of_row} has {len(ids)} "
                "with its answer. Use a smaller --response_length or --max_prompt_length."
            )
        if max(ids) >= known:
            raise ModelError(
                f"the tokenizer of reward model {self.name} writes token {max(ids)}, the model knows {known} tokens. "
                "Give it the tokenizer that it was trained with."
            )
        return ids


class _Whole:
    """A classifier that pools in its own way, by the attention mask (BERT and its kin), and is called whole."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        room = context_length(model)
        # Of encoders the tokenizer knows it better: RoBERTa keeps two places for itself.
        self.room = None if room is None else min(room, tokenizer.model_max_length)
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self._model.get_input_embeddings().weight.device

    def scores(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        attention = (torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)).long()
        return self._model(input_ids=ids, attention_mask=attention).logits[:, 0]


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


def _reader(model: Any, tokenizer: Any, name: str, autocast: bool) -> Reader:
    """The reader of transformers' decoder classifiers, whose head is linear on every token's last hidden state; of
    other layouts the classifier whole.

    A decoder's own forward would look for the last token that is not the padding token, and miss an EOS that pads as
    well.
    """
    _check_one_output(name, model.config)
    model.eval().requires_grad_(False)
    head = getattr(model, HEAD, None)
    if (
        not isinstance(head, nn.Linear)
        or not hasattr(model, model.base_model_prefix)
        or model.config.is_encoder_decoder
    ):
        return _Whole(model, tokenizer)
    if autocast and model.get_input_embeddings().weight.dtype == torch.float32:
        round_linear_layers(model, but=head)
        own_memory(model)
        return RewardModel(model, autocast=True)
    return RewardModel(model)


def _tokenizer(path: str, source: str, trust_remote_code: bool) -> Any:
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(_cannot_load(path, "tokenizer", error)) from error


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
