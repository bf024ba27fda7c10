"""What `--launch ray` starts: the command itself, in other processes; and once more if one of them is lost."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearppo.config import PPOConfig
from clearppo.config.kinds import spelled
from clearppo.engines.environment import URLS, is_launched
from clearppo.errors import ConfigError

if TYPE_CHECKING:
    from clearppo.engines.servers import Servers

HANDED_ON = (
    "CLEARPPO_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "MLFLOW_", "TRACKIO_", "NCCL_",
    "GLOO_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "VLLM_", "PYTHONPATH", "NO_COLOR", "HTTP_PROXY", "HTTPS_PROXY",
    "http_proxy", "https_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip
"""How variables of the environment begin that the processes get from here; all else is as it is on their machine."""
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def starts_others(launch: str) -> bool:
    """Whether this command is to start the processes of its run elsewhere, and is none of them itself.

    Raises ConfigError if somebody else has started several already.
    """
    if launch == "here" or is_launched():
        return False
    started = next((name for name in OF_TORCHRUN if os.environ.get(name)), None)
    if started is not None:
        raise ConfigError(
            f"launch = {launch} starts the processes of a run, and {started} = {os.environ[started]} in the "
            "environment says that torchrun or a scheduler has started some. Start clearppo once, or leave out "
            "--launch."
        )
    return True


def launch_run(
    command: str,
    launch: Any,
    *,
    device: str,
    begun: str,
    recipe: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
    again: Mapping[str, Any],
    secrets: tuple[str, ...] = (),
    servers: "Servers | None" = None,
    tell: Callable[[str], None],
) -> int:
    """Have the command with these options run by the processes that `launch`, a section of its configuration, asks for;
    its exit code. What the first process prints is printed here.

    `servers` are started beside them. `begun` is a file that the run writes when it begins; once it has, lost processes
    are started again with the flags `again` in addition. `secrets` are names of variables of the environment that the
    command reads. Raises ConfigError, DistributedError and StopRequested.
    """
    from clearppo.engines import launch as ray_launch  # only now: on one device nothing of this is imported

    start = ["-m", "clearppo", command, *_words({"recipe": recipe, "config": config})]
    here = os.environ.items()
    return ray_launch.launch(
        ray_launch.Job(
            words=[*start, *_words(flags)],
            again=[*start, *_words({**flags, **again})],
            begun=os.path.abspath(os.path.expanduser(begun)),
            processes=launch.num_processes,
            cpus=launch.cpus_per_process,
            gpus=_gpus(device),
            address=launch.ray_address,
            max_restarts=launch.max_restarts,
            directory=os.getcwd(),
            servers=servers,
            environment={name: value for name, value in here if name.startswith(HANDED_ON) or name in secrets},
        ),
        tell=tell,
        say=_say,
    )


def engines_of(config: PPOConfig) -> "Servers | None":
    """The vLLM engines that Ray is to start beside the processes of a run; None without any."""
    options = config.vllm
    if config.vllm.sampler != "vllm" or options.vllm_mode != "ray":
        return None
    from clearppo.engines.servers import Servers
    from clearppo.models.loading import resolve_model
    from clearppo.rollout.vllm.launch import Server, reason, require_vllm

    model = resolve_model(config.model.model_name_or_path, note=lambda _: None)
    python = os.path.expanduser(options.vllm_python) if options.vllm_python else None
    require_vllm(python or sys.executable)
    flags = ["--tensor-parallel-size", str(options.vllm_tensor_parallel_size), "--load-format", "dummy"]
    flags += ["--gpu-memory-utilization", f"{options.vllm_gpu_memory_utilization:g}"]
    flags += ["--max-model-len", str(options.vllm_max_model_length)] if options.vllm_max_model_length else []
    flags += ["--trust-remote-code"] if config.model.trust_remote_code else []
    flags += ["--enable-sleep-mode"] if options.vllm_enable_sleep_mode else []

    def command(host: str, port: int, gpus: bool) -> tuple[list[str], dict[str, str]]:
        more = ["--dtype", _dtype(config, gpus), *([] if gpus else ["--enforce-eager"])]
        server = Server(
            model=os.path.abspath(model) if os.path.isdir(model) else model, host=host, port=port,
            python=python or "python", transfer="nccl" if gpus else "clearppo", flags=[*flags, *more],
        )  # fmt: skip
        path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return server.command(), server.environment(path)

    return Servers(
        count=options.vllm_engines, cpus=config.cluster.cpus_per_process, gpus=options.vllm_tensor_parallel_size,
        command=command, reason=reason, variable=URLS, patience=options.vllm_server_timeout,
    )  # fmt: skip


def _dtype(config: PPOConfig, gpus: bool) -> str:
    """The number type of the engines: the one that the policy will compute in, as far as that is known here."""
    model = config.model
    if config.vllm.vllm_dtype != "auto":
        return config.vllm.vllm_dtype
    rounded = gpus if model.bf16 == "auto" else bool(model.bf16)
    return "bfloat16" if rounded or model.dtype == "bfloat16" else "float32"


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; in one word each, for a value may begin like an option."""
    return [f"--{name}={spelled(value)}" for name, value in options.items() if value is not None]


def _gpus(device: str) -> int | None:
    """How many GPUs a process is to have; None: one where there are any. Raises ConfigError for a single device."""
    if device in ("auto", "cpu", "cuda"):
        return {"auto": None, "cpu": 0, "cuda": 1}[device]
    raise ConfigError(
        f"device = {device} names a device of this machine, and launch = ray takes those of a cluster. Use --device "
        "cuda, which gives each process a GPU, or --device cpu."
    )


def _say(stream: str, text: str) -> None:
    """What a process prints, where it would have printed it here."""
    place = sys.stderr if stream == "stderr" else sys.stdout
    place.write(text)
    place.flush()
