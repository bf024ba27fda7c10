"""A run that stands still says where, and goes on."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clearppo.rundir import RunDir
from clearppo.train import watchdog
from clearppo.train.listener import Silence
from clearppo.train.stopwatch import Stopwatch
from clearppo.train.watchdog import report, watched_over

SOON = 0.02 / 60
"""Minutes."""


def wait_for(path: Path) -> str:
    for _ in range(2000):
        if path.exists():
            return path.read_text()
        threading.Event().wait(0.005)
    raise AssertionError(f"{path} did not come")


def test_a_standstill_is_told_once_with_the_phase_and_every_thread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch, over = Stopwatch(Silence()), threading.Event()

    def waits_for_a_lock() -> None:
        over.wait(60)

    other = threading.Thread(target=waits_for_a_lock, name="somebody else")
    other.start()

    def stuck_in_a_reward_function() -> str:
        text = wait_for(tmp_path / "watchdog-1.txt")
        assert wait_for(tmp_path / "watchdog-1.txt") == text
        return text

    try:
        with watched_over(SOON, lambda: watch.now, RunDir(tmp_path)):
            text = watch.phase("feedback", stuck_in_a_reward_function)()
            second = watch.phase("learning", lambda: wait_for(tmp_path / "watchdog-2.txt"))()
    finally:
        over.set()
        other.join()
    assert "clearppo watchdog: nothing has gone on for" in text
    assert "(feedback). The run is left alone." in text
    assert "stuck_in_a_reward_function" in text
    assert "thread somebody else, the innermost call last:" in text
    assert "waits_for_a_lock" in text
    assert "(learning)" in second
    assert text in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["watchdog-1.txt", "watchdog-2.txt"]
    assert not [thread for thread in threading.enumerate() if thread.name == "clearppo watchdog"]


def test_a_run_that_goes_on_is_left_in_peace(tmp_path: Path) -> None:
    watch = Stopwatch(Silence())
    with watched_over(1000, lambda: watch.now, RunDir(tmp_path)):
        for name in ("sampling", "feedback") * 3:
            watch.phase(name, lambda: None)()
            assert watch.now[0] == f"after {name}"
    with watched_over(None, lambda: watch.now, RunDir(tmp_path)):
        assert not [thread for thread in threading.enumerate() if thread.name == "clearppo watchdog"]
    assert not list(tmp_path.iterdir())


def test_a_phase_that_failed_is_still_the_one_that_goes_on() -> None:
    watch = Stopwatch(Silence())

    def fails() -> None:
        raise MemoryError

    with contextlib.suppress(MemoryError):
        watch.phase("learning", fails)()
    assert watch.now[0] == "learning"


def test_it_never_fails_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory to write into, a standard error that is closed, and none that has a number."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(sys, "__stderr__", io.StringIO())
    told = threading.Event()
    tell = watchdog._tell
    monkeypatch.setattr(watchdog, "_tell", lambda *args: (tell(*args), told.set()))
    (tmp_path / "file").write_text("no directory")
    with watched_over(SOON, lambda: ("sampling", 0.0), RunDir(tmp_path / "file")):
        assert told.wait(20)
    assert (tmp_path / "file").read_text() == "no directory"


def test_the_report_names_the_time(tmp_path: Path) -> None:
    assert report("sampling", 1830.0).startswith(
        "clearppo watchdog: nothing has gone on for 30.5 minutes (sampling). The run is left alone.\n"
    )


def test_code_that_keeps_the_interpreter_to_itself_is_seen_too(tmp_path: Path) -> None:
    """A regular expression that backtracks: no thread of Python runs, and faulthandler prints."""
    program = f"""
import re, time
from pathlib import Path
from clearppo.rundir import RunDir
from clearppo.train.watchdog import watched_over
def backtracks():
    re.match(r"(a|aa)+$", "a" * 200 + "b")
with watched_over({0.3 / 60}, lambda: ("feedback", time.monotonic()), RunDir(Path({str(tmp_path)!r}))):
    backtracks()
"""
    run = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, env={**os.environ})
    assert run.stderr is not None
    try:
        seen = b""
        until = time.monotonic() + 120
        while b"backtracks" not in seen and time.monotonic() < until:
            line = run.stderr.readline()
            if not line:
                break
            seen += line
    finally:
        run.kill()
        run.wait()
        run.stderr.close()
    assert b"Timeout (" in seen
    assert b"in backtracks" in seen
