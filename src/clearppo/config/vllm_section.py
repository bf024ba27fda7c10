"""The section `vllm` of PPO: where the engines are that answer in place of the training process."""

from typing import Annotated, Any, Literal

from pydantic import Field

from clearppo.config.kinds import OnlyIf, spelled
from clearppo.config.messages import OptionError
from clearppo.config.section import Section

_VLLM = OnlyIf("sampler", "equals", "the training process itself answers", "--sampler vllm", value="vllm")
_SERVER = OnlyIf(
    "vllm_mode", "equals", "the training process starts its own engine", "--vllm_mode server", value="server"
)
_OWN = OnlyIf(
    "vllm_mode", "in", "the server has been started by somebody else", "--vllm_mode colocate", value=("colocate", "ray")
)
_BY_RAY = OnlyIf("vllm_mode", "equals", "Ray starts no engine", "--vllm_mode ray --launch ray", value="ray")
_ELSEWHERE = OnlyIf(
    "vllm_mode", "in", "an engine beside the training process waits while that learns", "--vllm_mode server",
    value=("server", "ray"),
)  # fmt: skip


class VLLMConfig(Section):
    """Who answers. vLLM is faster on GPUs; its numbers are near the policy's and never the same."""

    sampler: Literal["in_process", "vllm"] = Field(
        default="in_process",
        description="Who writes the answers. in_process: the training process, with its own weights and numbers. vllm: "
        "vLLM engines, beside it or elsewhere, that get the weights after every update.",
    )
    vllm_mode: Annotated[Literal["colocate", "server", "ray"], _VLLM] = Field(
        default="colocate",
        description="colocate: each training process starts an engine beside itself, on the same device, and ends it. "
        "server: engines that run already, at vllm_server_base_url (clearppo vllm-serve starts one). ray: engines that "
        "--launch ray starts beside the training processes, and again when one ends.",
    )
    vllm_engines: Annotated[int, _VLLM, _BY_RAY] = Field(
        default=1, ge=1, le=10_000, description="Engines that Ray starts, each with GPUs or CPUs of its own."
    )
    overlap_generation: Annotated[bool, _VLLM, _ELSEWHERE] = Field(
        default=False,
        description="Draw the next batch while learning from this one. Answers are then one update old (one-step "
        "off-policy), for which importance_cap must correct; sampling/staleness tells.",
    )
    vllm_server_base_url: Annotated[list[str], _VLLM, _SERVER] = Field(
        default=[],
        description="Where the engines are, such as http://localhost:8000. Several: repeat the option, or separate "
        "with commas; the answers are shared out, and if one is lost the others write its part.",
    )
    vllm_server_timeout: Annotated[float, _VLLM] = Field(
        default=240.0,
        gt=0,
        le=86400,
        description="Seconds to wait for an engine that starts, and for one to take new weights.",
    )
    vllm_gpu_memory_utilization: Annotated[float, _VLLM, _OWN] = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Share of the device's memory that the engine takes, for weights and cached keys and values; on a "
        "CPU of the machine's. What is left is for training.",
    )
    vllm_max_model_length: Annotated[int | None, _VLLM, _OWN] = Field(
        default=None,
        ge=2,
        description="Tokens of a prompt and its answer that the engine has room for. none: as many as the longest "
        "prompt and response_length take.",
    )
    vllm_dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _VLLM, _OWN] = Field(
        default="auto",
        description="Number type that the engine computes in. auto: bfloat16 where the policy computes in it, else "
        "float32. The further from the policy's, the larger sampling/log_prob_difference.",
    )
    vllm_tensor_parallel_size: Annotated[int, _VLLM, _OWN] = Field(
        default=1,
        ge=1,
        le=64,
        description="GPUs over which the engine cuts every weight, for a model that fits on none alone.",
    )
    vllm_enable_sleep_mode: Annotated[bool, _VLLM, _OWN] = Field(
        default=False,
        description="Between generations the engine gives its GPU memory to learning. Costs a copy of the weights "
        "to host memory and back every iteration.",
    )
    vllm_python: Annotated[str | None, _VLLM, _OWN] = Field(
        default=None,
        min_length=1,
        description="The Python that has vLLM, such as ~/vllm/bin/python: vLLM pins its own torch and transformers and "
        "may live in an environment of its own. none: the one that runs ClearPPO.",
    )


def check_vllm(config: Any) -> None:
    """Rules between the options of vLLM and others of a PPOConfig. Raises OptionError."""
    options, sampling = config.vllm, config.sampling
    if options.sampler != "vllm":
        return
    if options.vllm_mode == "server" and not options.vllm_server_base_url:
        raise OptionError(
            "vllm_server_base_url",
            "vllm_mode = server asks engines that run already, and no address of one is given. Start one with clearppo "
            "vllm-serve MODEL and set --vllm_server_base_url http://localhost:8000.",
        )
    if options.vllm_mode == "ray" and config.cluster.launch != "ray":
        raise OptionError(
            "vllm_mode",
            f"vllm_mode = ray takes engines that Ray has started, and launch = {config.cluster.launch}. Add --launch "
            "ray, or use --vllm_mode colocate or server.",
        )
    _check_overlap(config)
    if len(set(options.vllm_server_base_url)) < len(options.vllm_server_base_url):
        raise OptionError(
            "vllm_server_base_url",
            f"vllm_server_base_url = {spelled(options.vllm_server_base_url)} names a server twice. Name each once.",
        )
    cut = sampling.top_k > 0 or sampling.top_p < 1
    if sampling.old_log_probs == "sampler" and cut:
        option = "top_k" if sampling.top_k else "top_p"
        raise OptionError(
            "old_log_probs",
            f"old_log_probs = sampler, and with {option} = {spelled(getattr(sampling, option))} vLLM tells only the "
            "log-probs of what was left after the cut, not those over the whole vocabulary. Use --old_log_probs "
            "learner.",
        )


def _check_overlap(config: Any) -> None:
    if not config.vllm.overlap_generation:
        return
    if config.ppo.importance_cap is None:
        raise OptionError(
            "overlap_generation",
            "overlap_generation = true learns from answers of the policy before the last update, and without "
            "importance_cap nothing corrects for that. Add --importance_cap 2, or leave out --overlap_generation.",
        )
    if config.sampling.old_log_probs == "sampler":
        raise OptionError(
            "old_log_probs",
            "old_log_probs = sampler, and with overlap_generation = true these are of the policy before the last "
            "update. Use --old_log_probs learner.",
        )
