"""A tiny model, and directories to run in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import tiny_causal_lm


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Enters a directory of its own below the test's, and names the run in it: output_dir is written into config.yaml,
    and must be the same in runs that are compared."""

    def enter(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name / "run"

    return enter
