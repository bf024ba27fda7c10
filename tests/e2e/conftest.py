"""A user's files: a tiny model, prompts, a reward function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_causal_lm, tiny_reward_model

REWARD = """
def score(prompts, completions, tag, **columns):
    return [float(completion.count("e")) + 0 * tag_of for completion, tag_of in zip(completions, tag)]
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_reward_model(tmp_path_factory.mktemp("reward_model"))


@pytest.fixture
def files(tmp_path: Path, model: str) -> dict[str, Any]:
    """Options of a run of 3 iterations that takes a second."""
    texts = ["The film was", "I think that", "The food and the people are", "What do you say", "It is a"]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": text, "tag": i}) + "\n" for i, text in enumerate(texts))
    )
    (tmp_path / "reward.py").write_text(REWARD)
    return {
        "model_name_or_path": model,
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "reward_funcs": f"{tmp_path / 'reward.py'}:score",
        "output_dir": str(tmp_path / "run"),
        "total_episodes": "24",
        "batch_size": "8",
        "micro_batch_size": "4",
        "response_length": "6",
        "learning_rate": "1e-3",
        "bf16": "false",
        "device": "cpu",
    }


@pytest.fixture
def clearppo(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""
    from clearppo.cli import main

    def run(command: str, options: dict[str, Any] | None = None, *more: str) -> tuple[int, str, str]:
        words = [command]
        for name, value in (options or {}).items():
            words += [f"--{name}", str(value)]
        capfd.readouterr()  # what making the files printed
        with pytest.raises(SystemExit) as caught:
            main([*words, *more])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run
