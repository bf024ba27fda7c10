"""`clearppo view` as a user starts it: quickly, without torch, and until Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from clearppo.cli import main
from tests.pages.made import make_sft

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[subprocess.Popen[str]] = []

    def command(*words: str | Path, cwd: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "clearppo.cli", "view", *map(str, words)], cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        begun.append(process)
        return process

    yield command
    for process in begun:
        process.kill()
        process.wait()


def url_of(process: "subprocess.Popen[str]") -> tuple[str, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://" in line, process.communicate()
    return line, line[line.index("http://") :].split()[0]


def test_it_shows_the_runs_below_this_folder_until_ctrl_c(start: Start, tmp_path: Path) -> None:
    make_sft(tmp_path / "runs" / "mine")
    process = start("--port", "0", "--no-open", cwd=tmp_path)
    line, url = url_of(process)
    assert line.startswith("1 run to look at: http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}api/runs", timeout=20) as answer:
        assert [run["id"] for run in json.load(answer)["runs"]] == ["runs~mine"]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "", "")


def test_a_taken_port(start: Start, tmp_path: Path) -> None:
    """The default gives way to any that is free; one that was asked for is an error."""
    make_sft(tmp_path / "mine")
    _, url = url_of(start("--port", "0", "--no-open", cwd=tmp_path))
    taken = url.split(":")[2].strip("/")
    second = start("--port", taken, "--no-open", cwd=tmp_path)
    _, errors = second.communicate(timeout=20)
    assert second.returncode == 2
    assert errors.startswith(f"error: cannot listen on host = 127.0.0.1, port = {taken}")


def test_where_there_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said in (([], "there is no run in"), (["absent"], "is not there")):
        result = CliRunner().invoke(main, ["view", *words, "--no-open"])
        assert result.exit_code == 2
        assert said in result.output
        assert result.output.count("\n") == 1


def test_it_starts_without_torch() -> None:
    light = "import sys, clearppo.cli.view, clearppo.ui.view, clearppo.ui.runs, clearppo.web, fastapi, uvicorn"
    heavy = "[name for name in ('torch', 'transformers', 'numpy.random', 'matplotlib') if name in sys.modules]"
    begun = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", f"{light}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
    assert time.monotonic() - begun < 10  # 1 s; a busy machine takes longer, torch took 3 s on top
