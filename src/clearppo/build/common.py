"""What the commands need alike: a device, how models are loaded and how answers are drawn."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from clearppo.config import AnswerConfig, NetworkConfig, OptimConfig, ReadModelConfig, SamplingConfig
from clearppo.engines.local import (
    LocalEngine,
    be_deterministic,
    free_memory,
    has_fast_bf16,
    keep_freed_memory,
    select_device,
)
from clearppo.engines.peak import Peak
from clearppo.errors import ConfigError
from clearppo.models.build import Lora, make_policy
from clearppo.models.loading import (
    DTYPES,
    context_length,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
)
from clearppo.models.memory import token_budget
from clearppo.models.policy import Policy
from clearppo.rollout.sampler import SamplingSettings

DECODE_BATCH = 64
"""Answers written at once where memory must stay bounded and the user does not say; more gain little."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A language model as it comes from the disk, with its tokenizer and the directory or hub name of both."""

    path: str
    model: Any
    tokenizer: Any


def pad_id(tokenizer: Any) -> int:
    """The padding token, or the EOS where there is none: masks come from lengths, so any token will do."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def make_engine(device: str, *, deterministic: bool = False) -> LocalEngine:
    """The engine on this device, made ready for training. Raises DeviceError for a device that is not there."""
    if deterministic:
        be_deterministic()  # before the device is touched
    engine = LocalEngine(select_device(device))
    Peak(engine.device).forget()  # a run's memory is counted from here
    keep_freed_memory(on_cpu=engine.device.type == "cpu")
    return engine


def load_model(config: ReadModelConfig, *, note: Callable[[str], None]) -> Loaded:
    """The language model that `config` names; `note` is told of work that takes long. Raises ModelError."""
    path = resolve_model(config.model_name_or_path, note=note)
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    return Loaded(path=path, model=load_causal_lm(path, **loading(config)), tokenizer=tokenizer)


def load_policy(name_or_path: str, engine: LocalEngine) -> Policy:
    """A model that answers and does not learn, in bfloat16 where the hardware has it. Raises ModelError."""
    model = load_causal_lm(resolve_model(name_or_path))
    return make_policy(engine.wrap(model), autocast=has_fast_bf16(engine.device))


def room_for_prompts(model: Any, response_length: int) -> int | None:
    """The longest prompt, in tokens, that the model's context has room for beside a response; None if nobody knows.

    Raises ConfigError if there is no room at all.
    """
    context = context_length(model)
    if context is not None and context <= response_length:
        raise ConfigError(
            f"response_length = {response_length} leaves no room for a prompt in this model's context of "
            f"{context} tokens. Use a smaller --response_length."
        )
    return None if context is None else context - response_length


def loading(config: ReadModelConfig) -> dict[str, Any]:
    """The keywords that all loaders of models/ take."""
    return {
        "dtype": DTYPES[config.dtype],
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }


def training(config: NetworkConfig, device: torch.device) -> dict[str, Any]:
    """The keywords that all makers of networks that learn take in models/."""
    lora = Lora(r=config.lora_r, alpha=config.lora_alpha, target_modules=config.lora_target_modules)
    return {
        "lora": lora if config.use_peft else None,
        "autocast": uses_autocast(config, device),
        "gradient_checkpointing": config.gradient_checkpointing,
    }


def uses_autocast(config: ReadModelConfig, device: torch.device) -> bool:
    """Whether forward passes run in bf16 autocast: as asked for, or wherever the hardware gains by it."""
    if config.dtype != "float32":
        return False
    return has_fast_bf16(device) if config.bf16 == "auto" else bool(config.bf16)


def optimising(optim: OptimConfig) -> dict[str, Any]:
    """The keywords of `adamw` that every command has."""
    return {
        "learning_rate": optim.learning_rate,
        "betas": (optim.adam_beta1, optim.adam_beta2),
        "eps": optim.adam_epsilon,
        "weight_decay": optim.weight_decay,
        "style": optim.adam_style,
    }


def learned_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of `network` that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def micro_batch_tokens(
    asked: int | Literal["auto"] | None,
    device: torch.device,
    networks: Sequence[Any],
    learned: Iterable[nn.Parameter],
) -> int | None:
    """How many tokens may be in `networks` (transformers models) at once: as asked for, or what memory allows; None:
    any number, also where nobody knows how much memory there is."""
    if asked != "auto":
        return asked
    free = free_memory(device)
    return None if free is None else token_budget(networks, learned, free)


def n_bytes(network: nn.Module) -> int:
    """Bytes of the weights of `network`, those that do not learn included."""
    return bytes_of(network.parameters())


def bytes_of(weights: Iterable[torch.Tensor]) -> int:
    """Bytes of these weights."""
    return sum(weight.numel() * weight.element_size() for weight in weights)


def sampling_settings(
    sampling: AnswerConfig, model: Any, tokenizer: Any, *, max_batch_size: int | None = None
) -> SamplingSettings:
    """How answers are drawn; those of fixed length end nowhere else, not at the end-of-text token either.

    At most `max_batch_size` are written at once (None: all), unless the user says how many.
    """
    fixed_length = isinstance(sampling, SamplingConfig) and sampling.fixed_length
    stop_ids = stop_token_ids(model, tokenizer, list(sampling.stop_token_ids))
    return SamplingSettings(
        max_tokens=sampling.response_length,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_token_ids=frozenset() if fixed_length else stop_ids,
        stop_strings=() if fixed_length else tuple(sampling.stop_strings),
        max_batch_size=sampling.generation_batch_size or max_batch_size,
    )
