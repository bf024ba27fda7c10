"""What every command needs before it can begin: a device, its output directory, how its model is loaded."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from clearppo.config import NetworkConfig, ReadModelConfig
from clearppo.engines.local import LocalEngine, has_fast_bf16, keep_freed_memory, select_device
from clearppo.errors import ConfigError
from clearppo.models.build import Lora
from clearppo.models.loading import DTYPES, context_length, load_causal_lm, load_tokenizer, resolve_model
from clearppo.rundir import RunDir


@runtime_checkable
class Place(Protocol):
    """Where a run's results go; the `run` section of a configuration."""

    @property
    def output_dir(self) -> str: ...

    @property
    def overwrite_output_dir(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A language model as it comes from the disk, with its tokenizer and the directory or hub name of both."""

    path: str
    model: Any
    tokenizer: Any

    @property
    def pad_id(self) -> int:
        return pad_id(self.tokenizer)


def pad_id(tokenizer: Any) -> int:
    """The padding token, or the EOS where there is none: masks come from lengths, so any token will do."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def make_engine(device: str) -> LocalEngine:
    """The engine on this device, made ready for training. Raises DeviceError for a device that is not there."""
    engine = LocalEngine(select_device(device))
    if engine.device.type == "cpu":
        keep_freed_memory()
    return engine


def load_model(config: ReadModelConfig, *, note: Callable[[str], None]) -> Loaded:
    """The language model that `config` names; `note` is told of work that takes long. Raises ModelError."""
    path = resolve_model(config.model_name_or_path, note=note)
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    return Loaded(path=path, model=load_causal_lm(path, **loading(config)), tokenizer=tokenizer)


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


def lora(config: NetworkConfig) -> Lora | None:
    """The adapters that `config` asks for, or None for training all weights."""
    if not config.use_peft:
        return None
    return Lora(r=config.lora_r, alpha=config.lora_alpha, target_modules=config.lora_target_modules)


def uses_autocast(config: ReadModelConfig, device: torch.device) -> bool:
    """Whether forward passes run in bf16 autocast: as asked for, or wherever the hardware gains by it."""
    if config.dtype != "float32":
        return False
    return has_fast_bf16(device) if config.bf16 == "auto" else bool(config.bf16)


@contextlib.contextmanager
def run_directory(place: Place, inputs: Mapping[str, object]) -> Iterator[RunDir]:
    """The run's output directory while its parts are put together. If that fails, the directory is as it was before.

    `inputs` are the options that name what this run reads, with their values.
    Raises RunDirError; ConfigError if overwriting would delete an input.
    """
    _keep_inputs(place, inputs)
    run_dir = RunDir.create(place.output_dir, overwrite=place.overwrite_output_dir)
    try:
        yield run_dir
    except BaseException:
        run_dir.discard()
        raise


def _keep_inputs(place: Place, inputs: Mapping[str, object]) -> None:
    if not place.overwrite_output_dir:
        return
    target = Path(place.output_dir).expanduser().resolve()
    for option, value in inputs.items():
        source = Path(value).expanduser().resolve() if isinstance(value, str) and value else None
        if source is not None and source.exists() and source.is_relative_to(target):
            raise ConfigError(
                f"{option} = {value} lies in output_dir = {place.output_dir}, whose files "
                "--overwrite_output_dir would delete. Use another --output_dir."
            )
