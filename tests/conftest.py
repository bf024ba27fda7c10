"""What every test stands on: checked shapes, few threads, fixed seeds, no network."""

import os

# Before anything imports a Hugging Face library, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["KINETO_LOG_LEVEL"] = "6"  # torch's profiler, too, reads it once

from jaxtyping import install_import_hook

# Before anything imports clearppo: every annotated shape in it is checked, here and nowhere else. An int will do where
# a float is asked for, as it does for the static types (PEP 484's tower).
install_import_hook("clearppo", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import random
from pathlib import Path

import hypothesis
import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
SHARED_DATA = REPO.parent / "shared" / "data"
WHOLE_RUNS = tuple(REPO / "tests" / name for name in ("e2e", "learns", "pages"))

torch.set_num_threads(1)  # tiny models gain nothing by two, and lose tenfold when another process is busy

# The same examples every time; a loaded machine is no reason to fail.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives `e2e` to everything in WHOLE_RUNS, and skips `data` tests where there is no shared data."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in WHOLE_RUNS):
            item.add_marker(pytest.mark.e2e)
        if item.get_closest_marker("data") and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the folder ../shared/data, which is not there"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trackio_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trackio reads its directory once a process."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture
def quiet_trackers(tmp_path: Path, trackio_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for trackers' files, and none of them finds a login, a server or a place of this machine's user."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setenv("TRACKIO_DIR", str(trackio_directory))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "trackers"


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder ../shared/data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the folder ../shared/data, which is not there")
    return SHARED_DATA
