"""Where vLLM is: in this environment, or in that of the Python which CLEARPPO_VLLM_PYTHON names."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clearppo.errors import ConfigError
from clearppo.rollout.vllm.launch import Child, Server, free_port, require_vllm
from tests.tiny import tiny_causal_lm

FLAGS = [
    "--dtype", "float32", "--max-model-len", "64", "--enforce-eager", "--kv-cache-memory-bytes", "50M",
    "--uvicorn-log-level", "warning",
]  # fmt: skip


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("CLEARPPO_VLLM_PYTHON") or sys.executable
    try:
        require_vllm(python)
    except ConfigError as error:
        pytest.skip(str(error))
    return python


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with heads of a size that vLLM's attention on CPUs has."""
    return tiny_causal_lm(tmp_path_factory.mktemp("model"), head_dim=32, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def server(vllm_python: str, model: str) -> Iterator[Child]:
    child = Child.start(Server(model=model, port=free_port(), python=vllm_python, flags=FLAGS))
    try:
        child.wait(300)
        yield child
    finally:
        child.stop()


@pytest.fixture
def ask(vllm_python: str, tmp_path: Path) -> "Asked":
    return Asked(vllm_python, tmp_path)


class Asked:
    """Runs a script in vLLM's environment, on data that it reads as JSON."""

    def __init__(self, python: str, directory: Path) -> None:
        self.python, self.directory = python, directory

    def __call__(self, script: str, data: str) -> str:
        (self.directory / "data.json").write_text(data, encoding="utf-8")
        done = subprocess.run(
            [self.python, "-c", script, str(self.directory / "data.json")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
