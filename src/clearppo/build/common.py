"""What the commands need alike: a device, how models are loaded and how answers are drawn."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import nn

from clearppo.config import (
    AnswerConfig,
    NetworkConfig,
    OptimConfig,
    PPOConfig,
    ReadModelConfig,
    RewardModelConfig,
    SamplingConfig,
    SFTConfig,
    values,
)
from clearppo.config.kinds import qualified_name
from clearppo.engines.base import Engine
from clearppo.engines.environment import Place, place, require_launched
from clearppo.engines.local import (
    LocalEngine,
    be_deterministic,
    has_fast_bf16,
    keep_freed_memory,
    select_device,
)
from clearppo.engines.peak import Peak
from clearppo.errors import ConfigError, DeviceError
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
from clearppo.models.whole import timed_by
from clearppo.rollout.sampler import SamplingSettings
from clearppo.train.marks import data_mark

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
    """The engine of this process alone, on this device. Raises DeviceError for a device that is not there."""
    if deterministic:
        be_deterministic()  # before the device is touched
    here = place()
    engine = LocalEngine(select_device(device) if here.world == 1 else device_of(device, here))
    Peak(engine.device).forget()  # a run's memory is counted from here
    keep_freed_memory(on_cpu=engine.device.type == "cpu")
    return engine


def make_training_engine(config: SFTConfig | RewardModelConfig | PPOConfig) -> Engine:
    """The engine of all processes that torchrun has started, or of this one alone, made ready for what `config` says,
    which all must be given alike.

    Raises DeviceError for a device that is not there; ConfigError for processes that do not fit together;
    DistributedError if they do not meet.
    """
    require_launched(config.cluster.launch)
    engine = make_engine(config.model.device, deterministic=config.run.deterministic)
    here, sharding = place(), config.run.sharding
    if here.world > 1:
        return _one_of_many(engine.device, here, sharding, values(config))
    if sharding == "full":
        raise ConfigError(
            f"sharding = {sharding} shares weights out over processes, and there is one. Start several with torchrun "
            "--nproc-per-node N -m clearppo ..., or leave out --sharding."
        )
    return engine


def sharing(device: str) -> Callable[[Callable[[], Any]], Any]:
    """Of several processes one does what a function does, and all know what it returns: plain values. A ClearPPOError
    is raised on all."""
    here = place()
    if here.world == 1:
        return lambda call: call()
    from clearppo.engines.group import meet

    return meet(here, device_of(device, here)).share


def _one_of_many(device: torch.device, here: Place, sharding: str, options: Mapping[str, Any]) -> Engine:
    """The engine of one of several processes. Only here are they imported."""
    from clearppo.engines.group import meet
    from clearppo.engines.parallel import ParallelEngine

    group = meet(here, device)
    if sharding == "none":
        engine = ParallelEngine(device, group)
    else:
        from clearppo.engines.fsdp import ShardedEngine

        engine = ShardedEngine(device, group)
        timed_by(engine.waiting)
    versions = {f"the version of {name}": version(name) for name in ("clearppo", "torch", "transformers")}
    engine.agree({**versions, **{name: _told(value) for name, value in options.items()}})
    if device.type == "cpu" and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here.local_world))
    return engine


def _told(value: Any) -> str:
    """An option's value so that two processes say the same of the same; a function by its name."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return qualified_name(value) if callable(value) else str(value)


def device_of(name: str, here: Place) -> torch.device:
    """The device of one of several processes: each has a GPU of its own, or all share the CPU. Raises DeviceError."""
    if name == "mps" or name.startswith("cuda:"):
        raise DeviceError(
            f"device = {name} is one device, and there are {here.local_world} processes on this machine. Use --device "
            "cuda, which gives each a GPU, or --device cpu."
        )
    chosen = select_device(name)
    if chosen.type != "cuda":
        return torch.device("cpu")
    if here.local_rank >= (count := torch.cuda.device_count()):
        raise DeviceError(
            f"device = {name}, and this machine has {count} GPUs for {here.local_world} processes. Use torchrun "
            f"--nproc-per-node {count}."
        )
    own = torch.device("cuda", here.local_rank)
    torch.cuda.set_device(own)
    return own


def unite(engine: Engine, network: nn.Module, dataset: str, learned: Any) -> None:
    """Of several processes all learn the same network, from what all have read of the same data. Raises ConfigError."""
    engine.unite(network)
    if engine.world > 1:
        engine.agree({f"what is read of {dataset}": data_mark(learned)})


def load_model(config: ReadModelConfig, *, note: Callable[[str], None]) -> Loaded:
    """The language model that `config` names; `note` is told of work that takes long. Raises ModelError."""
    path = resolve_model(config.model_name_or_path, note=note)
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    return Loaded(path=path, model=load_causal_lm(path, **loading(config)), tokenizer=tokenizer)


def load_policy(name_or_path: str, engine: Engine) -> Policy:
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
    engine: Engine,
    networks: Sequence[Any],
    learned: Iterable[nn.Parameter],
) -> int | None:
    """How many tokens may be in `networks` (transformers models) at once: as asked for, or what memory allows; None:
    any number, also where nobody knows how much memory there is. Of several processes the one with the least memory
    decides for all."""
    if asked != "auto":
        return asked
    free = engine.free_memory()
    budgets: list[int | None] = engine.gather(None if free is None else token_budget(networks, learned, free))
    known = [budget for budget in budgets if budget is not None]
    return min(known) if len(known) == len(budgets) else None


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
