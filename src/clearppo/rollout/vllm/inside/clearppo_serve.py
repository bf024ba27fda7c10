"""Starts vLLM's own server, in vLLM's environment: `python -m clearppo_serve MODEL --its flags`.

It differs from `vllm serve` in two things. vLLM's CPU package has another name than the one that `vllm serve` looks up,
so that the command fails there; and with CLEARPPO_PARENT in the environment the server ends when that process does.
"""

import ctypes
import os
import runpy
import signal
import sys
from importlib.metadata import PackageNotFoundError, version

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the server."""
    parent = os.environ.pop("CLEARPPO_PARENT", "")
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it has gone already
            return
    model, *flags = sys.argv[1:]
    if _has_its_name():
        from vllm.entrypoints.cli.main import main as vllm

        sys.argv = ["vllm", "serve", model, *flags]
        vllm()
    else:
        sys.argv = ["vllm", "--model", model, *flags]
        runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


def _has_its_name() -> bool:
    try:
        return bool(version("vllm"))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":  # vLLM's own processes import this file again
    main()
