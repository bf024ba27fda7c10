"""One trunk, four roles: policy, critic, reference and reward model on one set of base weights.

A reward model that was trained with LoRA on the very weights that the policy starts from differs from them in its
adapter and its head only. Both are kept beside the merged model, and PPO with LoRA puts them on the policy's trunk as
a second adapter: policy = base + its own adapter, reference = base, reward model = base + this one.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clearppo.core.masks import widen
from clearppo.errors import ModelError
from clearppo.models.actor import Actor
from clearppo.models.fingerprint import fingerprint
from clearppo.models.loading import context_length, first_line, quiet_transformers
from clearppo.models.network import at
from clearppo.models.reward_model import RewardModel
from clearppo.models.saving import sort_targets
from clearppo.models.whole import whole

ADAPTER = "adapter"  # inside a reward model's directory
RECORD = "trunk.json"
HEAD = "score_head.safetensors"
_NAME = "reward"  # the adapter's name on the policy's trunk
_TOLERANCE = {torch.bfloat16: 0.1}  # of the probe's scores, in units of the largest, or of 1; otherwise as below
_ROUNDING = 1e-3


@torch.no_grad()
def probed(model: RewardModel) -> Float[Tensor, " 4"]:
    """The scores of a probe, which are kept beside an adapter. All processes that share the weights out read it."""
    ids = _probe(model.classifier)
    with model.without_autocast():
        return model.read(model.last_states(ids, torch.full((len(ids),), ids.shape[1], device=ids.device)))


def save_reward_adapter(model: RewardModel, directory: Path, scores: Float[Tensor, " 4"] | None = None) -> None:
    """The adapter in peft's format, the head, and what tells on which weights they belong; `scores` are those of the
    probe, if somebody has read it.

    Raises ValueError for a reward model without an adapter.
    """
    if model.base is None:
        raise ValueError("only a reward model that was trained with LoRA has an adapter to keep")
    weights = {name: whole(weight) for name, weight in model.model.state_dict().items() if "lora_" in name}
    with quiet_transformers():
        model.model.save_pretrained(directory, state_dict=weights)
    sort_targets(directory)
    weight = model.head.weight.detach()
    bias = torch.full((1,), float(model.moved), dtype=weight.dtype)
    if model.head.bias is not None:
        bias += model.head.bias.detach().cpu()
    save_file({"weight": weight.cpu().contiguous(), "bias": bias}, directory / HEAD)
    scores = probed(model) if scores is None else scores
    record = {"base": model.base, "probe": _probe(model.classifier).tolist(), "scores": scores.tolist()}
    (directory / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")


class CannotShareError(ModelError):
    """A reward model cannot stand on the policy's trunk; the sentence says why."""


class TrunkReward:
    """A reward model as an adapter of the policy's trunk, with a head of its own; its scores are the reward model's.

    The adapter is switched on for a forward pass and off again; it never learns, and no reader of the policy's weights
    sees it.

    Raises CannotShareError if `directory` (a reward model's) holds no adapter, or one for other weights than this
    actor's; the actor is then as it was.
    """

    def __init__(self, actor: Actor, directory: Path) -> None:
        self._actor = actor
        self._model = _lora_model(actor)
        place = directory / ADAPTER
        record = _record(place)
        if record["base"] != fingerprint(actor.backbone):
            raise CannotShareError(
                f"the reward model in {directory} was trained on other base weights than the policy's"
            )
        learning = _asked(self._model)
        try:
            with quiet_transformers(), warnings.catch_warnings():
                # What peft would miss here is the classifier's head, which gets no adapter.
                warnings.filterwarnings("ignore", message=".*exclude_modules")
                self._model.load_adapter(str(place), _NAME, torch_device=str(actor.device))
            head = load_file(place / HEAD, device=str(actor.device))
            self._weight, self._bias = widen(head["weight"]), widen(head["bias"])
            self._check(record, place)
        except CannotShareError:
            raise
        except Exception as error:
            _remove(self._model)
            raise CannotShareError(f"the adapter in {place} cannot be loaded: {first_line(error)}") from error
        finally:
            _ask(self._model, learning)

    @property
    def device(self) -> torch.device:
        return self._actor.device

    @property
    def room(self) -> int | None:
        """The longest text, in tokens, or None if the model's config does not say."""
        return context_length(self._actor.causal_lm)

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self._actor.vocabulary

    def weights(self) -> list[tuple[str, Tensor]]:
        """The head's weights, by name; those of the adapter are among the policy's."""
        return [("weight", self._weight), ("bias", self._bias)]

    @torch.no_grad()
    def scores(self, ids: Int[Tensor, "N L"], lengths: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The score of each text, right-padded with anything, at its last token."""
        ends = torch.arange(len(ids), device=ids.device) * ids.shape[1] + lengths - 1
        with _switched_on(self._model), self._actor.precision():
            last = widen(at(self._actor.hidden_states(ids, lengths), ends))
        return nn.functional.linear(last.to(self._weight.dtype), self._weight, self._bias).squeeze(-1)

    def _check(self, record: dict[str, Any], place: Path) -> None:
        """The scores of the probe that was saved with the adapter: the same here, or this is not the same model."""
        ids = torch.tensor(record["probe"], device=self._actor.device)
        expected = torch.tensor(record["scores"], dtype=torch.float64)
        with self._actor.without_autocast():
            found = self.scores(ids, torch.full((len(ids),), ids.shape[1], device=ids.device)).double().cpu()
        dtype = self._actor.causal_lm.get_input_embeddings().weight.dtype
        off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        if not off <= _TOLERANCE.get(dtype, _ROUNDING):
            _remove(self._model)
            raise CannotShareError(f"the adapter in {place} gives other scores on this model than it was saved with")


def _lora_model(actor: Actor) -> Any:
    if not hasattr(actor.model, "load_adapter") or not hasattr(actor.model, "peft_config"):
        raise CannotShareError("the policy has no LoRA adapters")
    return actor.model


def _record(place: Path) -> dict[str, Any]:
    file = place / RECORD
    if not file.is_file():
        raise CannotShareError(f"the reward model has no adapter ({file} is not there); it was trained without LoRA")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"base", "probe", "scores"} <= set(record):
            return record
        reason = "it lacks a field"
    except (ValueError, OSError, TypeError) as error:
        reason = first_line(error)
    raise CannotShareError(f"{file} cannot be read: {reason}")


@contextlib.contextmanager
def _switched_on(model: Any) -> Iterator[None]:
    """While this is open, the reward model's adapter is the active one; afterwards all is as it was."""
    learning, active = _asked(model), model.active_adapter
    model.set_adapter(_NAME, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(active)
        _ask(model, learning)  # peft's switch would make every adapter that it switches on learn


def _asked(model: nn.Module) -> set[int]:
    return {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def _ask(model: nn.Module, learning: set[int]) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in learning)


def _remove(model: Any) -> None:
    if _NAME in model.peft_config:
        learning = _asked(model)
        model.delete_adapter(_NAME)
        _ask(model, learning)


def _probe(model: Any) -> Int[Tensor, "4 8"]:
    embedding = model.get_input_embeddings().weight
    return (torch.arange(32, device=embedding.device) * 37 + 5).view(4, 8) % embedding.shape[0]
