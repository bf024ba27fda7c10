"""From a PPOConfig to who writes its answers: the training process itself, or vLLM."""

import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from clearppo.build.common import room_for_prompts, sampling_settings
from clearppo.config import PPOConfig
from clearppo.data import encode_prompts
from clearppo.engines.base import Engine
from clearppo.engines.environment import URLS, place
from clearppo.errors import ConfigError
from clearppo.models.actor import SharedCritic
from clearppo.models.loading import resolve_model
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, SamplingSettings
from clearppo.rollout.ahead import AheadSampler
from clearppo.rollout.decoder import Decoder
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.vllm.engines import Engines
from clearppo.rollout.vllm.launch import Child, Server, free_port, require_vllm
from clearppo.rollout.vllm.sampler import VLLMSampler

Note = Callable[[str], None]
BLOCK = 128
"""Tokens whose keys and values vLLM keeps together on a CPU."""
SPARE = 1.25


@runtime_checkable
class HasRows(Protocol):
    """Prompts that are measured on, as they were read."""

    @property
    def rows(self) -> Sequence[dict[str, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Who writes the answers of a run. `how` says it in half a sentence; `decoder` is the training process's own, if it
    writes them. `known`: whether the sampler's numbers may stand in a rollout as the old ones. `another` gives a
    sampler with other settings and random numbers on the same weights."""

    sampler: Sampler
    exact: bool
    known: bool
    how: str
    another: Callable[[SamplingSettings, int], Sampler]
    decoder: Decoder | None = None

    @property
    def numbers(self) -> dict[str, bool]:
        """What is chosen by, where the configuration leaves open whose log-probs are the old ones."""
        return {"exact": self.exact, "known": self.known}


def check_sampler(config: PPOConfig, engine: Engine) -> None:
    """What vLLM needs and can be known before a model is loaded: that it is there. Raises ConfigError."""
    options = config.vllm
    if config.vllm.sampler != "vllm":
        return
    if options.vllm_mode != "colocate":
        return engine.share(lambda: _engines(config, lambda _: None, _urls(config)).meet(0))
    here = place()
    if options.vllm_tensor_parallel_size > 1 and here.world > 1:
        raise ConfigError(
            f"vllm_tensor_parallel_size = {options.vllm_tensor_parallel_size}, and each of {here.world} training "
            "processes has one GPU for an engine of its own. Use --vllm_mode server, with engines on GPUs of theirs."
        )
    if options.vllm_enable_sleep_mode and engine.device.type != "cuda":
        raise ConfigError(
            f"vllm_enable_sleep_mode = true, and vLLM sleeps on GPUs only; the device is {engine.device.type}. Leave "
            "out --vllm_enable_sleep_mode."
        )
    engine.share(lambda: require_vllm(_python(config)))


def make_answering(
    config: PPOConfig,
    policy: Policy,
    tokenizer: Any,
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    held_out: HasRows | None,
    note: Note,
) -> Answering:
    """The sampler that `config` asks for; `prompts` are what it will be asked, and the rows that are `held_out`.

    Raises ConfigError and ModelError where vLLM is not there, or cannot serve this model.
    """
    settings = sampling_settings(config.sampling, policy.actor.causal_lm, tokenizer)
    if config.vllm.sampler == "vllm":
        longest = settings.max_tokens + max(
            map(len, [*prompts, *_encoded(config, policy, tokenizer, held_out.rows if held_out else ())])
        )
        return _by_vllm(config, policy, tokenizer, settings, engine, longest, note)
    seed = config.run.seed
    sampler = InProcessSampler(policy, tokenizer, settings, seed=seed, resident=False, division=engine)
    decoder = sampler.decoder

    def another(other: SamplingSettings, seed: int) -> Sampler:
        return InProcessSampler(
            policy, tokenizer, other, seed=seed, decoder=decoder, resident=False, division=engine
        )  # fmt: skip

    return Answering(
        sampler=sampler, exact=decoder.exact, known=True, how=decoder.why, another=another, decoder=decoder
    )  # fmt: skip


def _by_vllm(
    config: PPOConfig,
    policy: Policy,
    tokenizer: Any,
    settings: SamplingSettings,
    engine: Engine,
    longest: int,
    note: Note,
) -> Answering:
    own = config.vllm.vllm_mode == "colocate"
    engines = None
    if own:
        engines = _started(config, policy, engine, longest, note)
        where = "beside this process" if engine.world == 1 else "beside each process"
    else:
        urls = _urls(config)
        where = f"at {', '.join(urls)}"
        if engine.rank == 0:
            engines = _engines(config, note, urls)

    def met() -> str:
        assert engines is not None  # where this is called
        engines.meet(longest)
        return engines.told

    told = met() if own else engine.share(met)

    def make(other: SamplingSettings, seed: int) -> VLLMSampler:
        return VLLMSampler(policy, tokenizer, other, engines, seed=seed, processes=engine, own=own)

    asked = make(settings, config.run.seed)
    sampler: Sampler = asked
    if config.vllm.overlap_generation:
        sampler, where = AheadSampler(asked, engine), f"{where}, one batch ahead"
    known = _known(config, policy)
    return Answering(sampler=sampler, exact=False, known=known, how=f"by {told} {where}", another=make)


def _urls(config: PPOConfig) -> list[str]:
    """Where the engines are: as the user says, or whoever has started them beside this process."""
    if config.vllm.vllm_mode == "server":
        return config.vllm.vllm_server_base_url
    return [url for url in os.environ.get(URLS, "").split(",") if url]


def _encoded(
    config: PPOConfig, policy: Policy, tokenizer: Any, rows: Sequence[dict[str, Any]]
) -> Sequence[Sequence[int]]:
    """The prompts in these rows as they will be read."""
    if not rows:
        return ()
    room = room_for_prompts(policy.actor.causal_lm, config.sampling.response_length)
    limit = config.data.max_prompt_length
    return encode_prompts(rows, tokenizer, max_prompt_length=limit, room=room, source="held-out prompts").ids


def _engines(config: PPOConfig, note: Note, urls: list[str]) -> Engines:
    options = config.vllm
    return Engines(
        urls,
        note=note,
        timeout=options.vllm_server_timeout,
        most=config.sampling.generation_batch_size,
        sleeps=options.vllm_enable_sleep_mode,
    )


def _started(config: PPOConfig, policy: Policy, engine: Engine, longest: int, note: Note) -> Engines:
    """An engine of this process's own, which ends when nobody has it any more."""
    model = os.path.abspath(resolve_model(config.model.model_name_or_path, note=note))
    if not os.path.isdir(model):  # a hub name
        model = config.model.model_name_or_path
    server = Server(
        model=model,
        port=free_port(),
        python=_python(config),
        flags=_flags(config, policy, engine.device, longest),
        devices=_devices(config, engine.device),
    )
    child = Child.start(server)
    engines = _engines(config, note, [server.url])
    weakref.finalize(engines, child.stop)
    child.wait(config.vllm.vllm_server_timeout)
    return engines


def _python(config: PPOConfig) -> str:
    chosen = config.vllm.vllm_python
    return Server(model="", port=0).python if chosen is None else os.path.expanduser(chosen)


def _flags(config: PPOConfig, policy: Policy, device: torch.device, longest: int) -> list[str]:
    """vLLM's own flags for a run: room for it and no more. The weights come from us, so none are read."""
    options, dtype = config.vllm, _dtype(config, policy)
    length = options.vllm_max_model_length or longest
    flags = [
        "--dtype", dtype, "--max-model-len", str(length), "--load-format", "dummy",
        "--gpu-memory-utilization", f"{options.vllm_gpu_memory_utilization:g}",
        "--tensor-parallel-size", str(options.vllm_tensor_parallel_size), "--uvicorn-log-level", "warning",
    ]  # fmt: skip
    if options.vllm_enable_sleep_mode:
        flags.append("--enable-sleep-mode")
    if config.model.trust_remote_code:
        flags.append("--trust-remote-code")
    if device.type == "cpu":
        rows = min(config.sampling.generation_batch_size or config.run.batch_size, BLOCK)
        flags += [
            "--enforce-eager",
            "--kv-cache-memory-bytes",
            str(_cache(policy, getattr(torch, dtype), length, rows)),
        ]
    return flags


def _dtype(config: PPOConfig, policy: Policy) -> str:
    if config.vllm.vllm_dtype != "auto":
        return config.vllm.vllm_dtype
    return "bfloat16" if policy.actor.autocast or config.model.dtype == "bfloat16" else "float32"


def _cache(policy: Policy, dtype: torch.dtype, length: int, rows: int) -> int:
    """Bytes of keys and values that `rows` answers take. On a CPU vLLM would take its share of the machine at once."""
    shape = policy.actor.causal_lm.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    tokens = -(-length // BLOCK) * BLOCK * rows
    return int(2 * shape.num_hidden_layers * heads * size * dtype.itemsize * tokens * SPARE)


def _devices(config: PPOConfig, device: torch.device) -> str | None:
    """The GPUs of this process's engine, as CUDA_VISIBLE_DEVICES has them; None without GPUs."""
    if device.type != "cuda":
        return None
    first = device.index if device.index is not None else torch.cuda.current_device()
    wanted = range(first, first + config.vllm.vllm_tensor_parallel_size)
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if wanted[-1] >= (count := len(seen) or torch.cuda.device_count()):
        raise ConfigError(
            f"vllm_tensor_parallel_size = {len(wanted)}, and from GPU {first} on there are {count - first}. Use "
            f"--vllm_tensor_parallel_size {count - first}."
        )
    return ",".join(seen[place] if seen else str(place) for place in wanted)


def _known(config: PPOConfig, policy: Policy) -> bool:
    """Whether vLLM's own numbers may stand in a rollout: not where something is cut; and where a critic must read the
    answers with the actor's backbone, the learner's come with its values. Of answers that were drawn ahead they are
    those of an older policy."""
    sampling = config.sampling
    reads = config.has_critic and isinstance(policy.critic, SharedCritic)
    return not (sampling.top_k or sampling.top_p < 1 or reads or config.vllm.overlap_generation)
