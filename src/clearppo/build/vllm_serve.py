"""vLLM's own server, started so that `clearppo ppo --sampler vllm --vllm_mode server` can use it."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from clearppo.models.loading import resolve_model
from clearppo.rollout.vllm.launch import Server, require_vllm


def vllm_server(
    model: str, *, host: str, port: int, python: str | None, transfer: str, flags: Sequence[str] = ()
) -> Server:
    """The server of `model`; `flags` are vLLM's own. Raises ConfigError where there is no vLLM, ModelError."""
    server = Server(
        model=resolve_model(model),
        host=host,
        port=port,
        python=os.path.expanduser(python) if python else sys.executable,
        transfer=transfer,
        flags=flags,
    )
    require_vllm(server.python)
    return server


def become(server: Server) -> NoReturn:
    """Be this server from now on, under the same process id: whoever started this process ends it as ever."""
    os.execvpe(server.python, server.command(), server.environment(os.environ))
