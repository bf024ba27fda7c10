"""SIGKILL at random moments, in the writing of a checkpoint too, and SIGTERM: benchmarks/kill_resume.py, in small."""

import os
import subprocess
import sys

import pytest

from benchmarks.kill_resume import CASES, ROOT

FAST = ("ppo, shared critic, LoRA", "reward, full")


def proved(kills: int, *more: str) -> str:
    """What the script says, run as it is for users but for copies of one process instead of many imports."""
    words = [sys.executable, "-m", "benchmarks.kill_resume", "--kills", str(kills), *more]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **quiet}, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.e2e
def test_a_few_kills() -> None:
    said = proved(3, "--fork", "--seed", "1", "--cases", *FAST)
    assert said.splitlines()[-1] == "3 kills; 2 of 2 runs are as if they had never been killed"
    assert said.count("bit for bit the same") == 2


@pytest.mark.slow
def test_many_kills() -> None:
    said = proved(30, "--fork")
    assert said.splitlines()[-1] == f"30 kills; {len(CASES)} of {len(CASES)} runs are as if they had never been killed"


@pytest.mark.slow
def test_kills_of_processes_as_users_start_them() -> None:
    proved(3, "--cases", "ppo, separate critic, full")
