"""Policy and reference from names and a few choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from clearppo.batch import ALONE, Division
from clearppo.errors import ModelError
from clearppo.models.actor import Actor, SeparateCritic, SharedCritic
from clearppo.models.frozen_layers import Freeze, FrozenLayers
from clearppo.models.lean import lean_copy
from clearppo.models.loading import (
    disable_dropout,
    first_line,
    load_tokenizer,
    quiet_transformers,
    refuse_attention,
    resolve_model,
)
from clearppo.models.policy import AdapterOffReference, FrozenReference, Policy


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters in place of full fine-tuning (Hu et al. 2021)."""

    r: int
    alpha: int
    target_modules: list[str] | str


def make_policy(
    model: Any,
    *,
    separate_critic: Any = None,
    lora: Lora | None = None,
    autocast: bool = False,
    gradient_checkpointing: bool = False,
    freeze: Freeze | None = None,
) -> Policy:
    """Actor and critic around loaded models. Without `separate_critic` the critic is one layer on the actor's states.

    `freeze` is for both: a separate critic has lower layers of its own that do not learn.

    Raises ModelError if the LoRA target modules are not in the model, and what FrozenLayers raises.
    """
    actor = make_actor(
        model, lora=lora, autocast=autocast, gradient_checkpointing=gradient_checkpointing, freeze=freeze
    )
    if separate_critic is None:
        dtype = model.get_input_embeddings().weight.dtype
        return Policy(actor, SharedCritic(actor.hidden_size, dtype).to(actor.device))
    prepare_network(separate_critic, gradient_checkpointing)
    frozen = freeze_network(separate_critic, freeze)
    network = separate_critic
    if lora:
        network = with_lora(separate_critic, lora, head="score", but=frozen_names(separate_critic, frozen))
        for parameter in separate_critic.score.parameters():
            parameter.requires_grad_(True)
    return Policy(actor, SeparateCritic(network, autocast=autocast, frozen=frozen))


def make_actor(
    model: Any,
    *,
    lora: Lora | None = None,
    autocast: bool = False,
    gradient_checkpointing: bool = False,
    freeze: Freeze | None = None,
) -> Actor:
    """An actor around a loaded language model, with adapters if `lora` says so; frozen layers get none.

    Raises ModelError if the LoRA target modules are not in the model, and what FrozenLayers raises.
    """
    prepare_network(model, gradient_checkpointing)
    frozen = freeze_network(model, freeze)
    network = with_lora(model, lora, but=frozen_names(model, frozen)) if lora else model
    return Actor(network, autocast=autocast, frozen=frozen)


def make_reference(
    policy: Policy, *, micro_batch_size: int, micro_batch_tokens: int | None = None, division: Division = ALONE
) -> FrozenReference:
    """The policy's actor as it is now: with LoRA the same weights with adapters off, else a frozen copy, which is lean
    where that changes nothing (`lean_copy`). For the sizes see FrozenReference."""
    sizes: dict[str, Any] = {
        "micro_batch_size": micro_batch_size,
        "micro_batch_tokens": micro_batch_tokens,
        "division": division,
    }
    if hasattr(policy.actor.model, "disable_adapter"):
        return AdapterOffReference(policy.actor, policy=policy, **sizes)
    return FrozenReference(lean_copy(policy.actor), policy=policy, **sizes)


def load_critic(
    name_or_path: str,
    tokenizer: Any,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A separate critic, started from a language model (its head at exactly 0) or from a reward model (with its head).

    It reads the policy's token ids, so its vocabulary must be the policy's. Raises ModelError if it is not.
    """
    path = resolve_model(name_or_path)
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        with quiet_transformers():
            critic = AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype=dtype, trust_remote_code=trust_remote_code, **extra
            )
    except Exception as error:
        refuse_attention(attn_implementation, error)
        reason = "its head has more than one output" if "mismatched" in str(error) else first_line(error)
        raise ModelError(
            f"cannot load the critic {name_or_path}: {reason}. Give a language model, or a reward model with one "
            "output, as --value_model_path."
        ) from error
    if not hasattr(critic, "score") or not hasattr(critic, critic.base_model_prefix):
        raise ModelError(
            f"{name_or_path} ({type(critic).__name__}) cannot be a critic: it has no `score` layer over a backbone. "
            "Use a decoder model, or --critic shared."
        )
    if load_tokenizer(path, trust_remote_code=trust_remote_code).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the critic {name_or_path} has another vocabulary than the policy, whose token ids it would read. "
            "Use a model with the same tokenizer, or leave --value_model_path out to start from the policy's model."
        )
    # from_pretrained keeps what config.json said, for a directory and for the hub alike
    if not any("SequenceClassification" in name for name in critic.config.architectures or []):
        torch.nn.init.zeros_(critic.score.weight)
    return disable_dropout(critic)


def prepare_network(network: Any, gradient_checkpointing: bool) -> None:
    """Switch a loaded network to eval mode, and its activation checkpointing on if asked for."""
    network.eval()
    if gradient_checkpointing:
        # transformers renames it in version 6
        enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        network.enable_input_require_grads()  # with LoRA nothing below the adapters would ask for gradients


def freeze_network(network: Any, freeze: Freeze | None) -> FrozenLayers | None:
    """Freeze the lower layers of a loaded network, if that is asked for; before it gets adapters."""
    return None if freeze is None else FrozenLayers(getattr(network, network.base_model_prefix), freeze)


def frozen_names(network: Any, frozen: FrozenLayers | None) -> list[str]:
    """The names of the network's modules whose weights are frozen, which get no adapters."""
    if frozen is None:
        return []
    prefix = network.base_model_prefix
    return [f"{prefix}.{name}" for name in frozen.names_in(getattr(network, prefix))]


def with_lora(model: Any, lora: Lora, head: str | None = None, but: Sequence[str] = ()) -> Any:
    """`model` with adapters on all of `lora`'s layers but `head` and those named in `but`. `head` says that this is a
    classifier, and what its last layer is called. Raises ModelError if it has no such layers."""
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        fan_in_fan_out=any(type(part).__name__ == "Conv1D" for part in model.modules()),  # GPT-2 stores them transposed
        exclude_modules=[*([head] if head else []), *but] or None,  # a critic's head is new: it learns in full
        task_type="FEATURE_EXTRACTION" if head else "CAUSAL_LM",
    )
    try:
        with quiet_transformers():
            return get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if _is_linear(part)})
        raise ModelError(
            f"lora_target_modules = {lora.target_modules} cannot be used: {first_line(error)}. This model's linear "
            f"layers are {', '.join(names)}; or use all-linear."
        ) from error


def _is_linear(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D"
