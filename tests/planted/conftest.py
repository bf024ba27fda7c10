"""A healthy setup, which a test spoils in one place; what doctor says of it, and what a run's alarms say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planted import models
from tests.planted.setups import GOOD_WORDS, Doctor, Findings, Options, Train, rewarded, written


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return models.policy(tmp_path_factory.mktemp("planted") / "policy")


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory, policy: str) -> str:
    return models.reward(tmp_path_factory.mktemp("planted") / "reward", like=policy)


@pytest.fixture
def healthy(tmp_path: Path, policy: str) -> Options:
    """Options of a run that nothing is wrong with: 12 iterations in a few seconds."""
    chats = [[{"role": "user", "content": prompt}] for prompt in models.prompts()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in chats))
    return {
        "model_name_or_path": policy,
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "reward_funcs": rewarded(tmp_path, GOOD_WORDS),
        "output_dir": str(tmp_path / "run"),
        "total_episodes": 192,
        "batch_size": 16,
        "response_length": 16,
        "temperature": 1.0,
        "learning_rate": 1e-4,
        "critic_learning_rate": 3e-3,
        "save_steps": 0,
        "sample_steps": 0,
        "bf16": False,
        "device": "cpu",
    }


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command line in this process: exit code, and all that it printed."""
    from clearppo.cli import main

    def run(*words: str) -> tuple[int, str]:
        capfd.readouterr()  # what making the files printed
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out + err

    return run


@pytest.fixture
def doctor(command: Callable[..., tuple[int, str]], tmp_path: Path) -> Doctor:
    """`clearppo doctor` on these options: exit code, the findings by name, what was printed."""

    def examine(options: Options, **more: Any) -> tuple[int, Findings, str]:
        file = tmp_path / "doctor.json"
        code, said = command("doctor", "--json", str(file), *written(options | more))
        assert file.exists(), said
        return code, {finding["name"]: finding for finding in json.loads(file.read_text())["findings"]}, said

    return examine


@pytest.fixture
def train(command: Callable[..., tuple[int, str]]) -> Train:
    """`clearppo ppo` on these options: exit code, what was printed."""
    return lambda options, **more: command("ppo", *written(options | more))
