"""A disk that fills up while anything is written damages nothing, and with more room the run comes to the same end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")
REPO = SCRIPT.parents[2]


def own_mounts() -> bool:
    """Whether a disk of a few megabytes can be made here: Linux that lets this user have a name space of mounts."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not own_mounts(), reason="no file system of one's own can be mounted here")


def filled_up(work: Path, n: int, *commands: str) -> list[dict[str, object]]:
    """What full_disk.py says of each command."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    words = ["unshare", "-rm", sys.executable, str(SCRIPT), str(work), str(n), *commands]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_mounts
def test_a_full_disk_damages_nothing_and_with_more_room_the_run_goes_on(tmp_path: Path) -> None:
    said = filled_up(tmp_path, 2, "beside", "ppo", "sft")
    assert len(said) == 3
    for found in said:
        assert any(found["errors"]), found  # type: ignore[arg-type]


@needs_mounts
@pytest.mark.slow
def test_a_full_disk_at_many_places(tmp_path: Path) -> None:
    for found in filled_up(tmp_path, 24, "ppo", "sft", "reward", "prefs"):
        assert len(set(found["errors"])) > 2  # type: ignore[arg-type]
