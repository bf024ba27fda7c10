"""Running the command line inside the test, with training replaced by a notebook of what it was asked."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clearppo.cli import main

LEAST = ["--model_name_or_path", "tiny", "--dataset_name", "prompts.jsonl", "--output_dir", "out"]
REWARD = ["--reward_funcs", "reward.py:score"]

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """`run("ppo", "--help")`: the result of `clearppo ppo --help`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments))

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that `clearppo ppo` handed to training. Nothing is trained."""
    calls: list[Any] = []
    api = ModuleType("clearppo.api")

    def train_ppo(config: Any, *, console: bool = False) -> None:
        assert console
        calls.append(config)

    api.train_ppo = train_ppo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clearppo.api", api)
    return calls


@pytest.fixture
def ppo(run: Run, trained: list[Any]) -> Callable[..., Any]:
    """`ppo("--lam", "1")`: the configuration that this command line, with the least that is needed, trains with."""

    def ppo(*arguments: str, reward: bool = True) -> Any:
        result = run("ppo", *LEAST, *(REWARD if reward else []), *arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return trained.pop()

    return ppo


@pytest.fixture
def refused(run: Run, trained: list[Any]) -> Callable[..., str]:
    """`refused("--lamb", "1")`: the sentence that this command line is refused with."""

    def refused(*arguments: str) -> str:
        result = run("ppo", *LEAST, *REWARD, *arguments)
        assert result.exit_code == 2, result.output
        assert trained == []
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("error: ").rstrip("\n")

    return refused
