"""Ctrl-C and SIGTERM: the first asks, the second ends at once."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from clearppo.cli import main as cli
from clearppo.cli.main import FrontDoor
from clearppo.errors import StopRequested
from clearppo.train.listener import Silence
from clearppo.train.stopping import Stopping

BOTH = [signal.SIGINT, signal.SIGTERM]


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would these tests."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs between two instructions


@pytest.mark.parametrize("number", BOTH)
def test_the_first_asks_and_the_second_ends_at_once(number: signal.Signals) -> None:
    listener = Notes()
    with Stopping(listener, round="step") as stopping:
        assert stopping.asked is None
        send(number)
        assert stopping.asked is number
        (note,) = listener.notes
        assert note.startswith("stopping after this step; ")
        for _ in range(2):  # and so does every further one
            with pytest.raises(StopRequested) as stop:
                send(number)
            assert stop.value.at_once
            assert stop.value.exit_code == 128 + number
        request = stopping.request("interrupted; checkpoint-3 is written")
    assert isinstance(request, KeyboardInterrupt)
    assert (str(request), request.exit_code) == ("interrupted; checkpoint-3 is written", 128 + number)
    assert not request.at_once


@pytest.mark.parametrize("number", BOTH)
def test_where_nothing_has_changed_yet_the_first_ends_at_once_too(number: signal.Signals) -> None:
    listener = Notes()
    with Stopping(listener) as stopping:
        stopping.interruptible = True
        with pytest.raises(StopRequested) as stop:
            send(number)
        assert not stop.value.at_once  # there is time for a checkpoint
        assert stopping.asked is number
    assert listener.notes == []


def test_a_stop_that_was_asked_for_is_met_where_it_costs_nothing() -> None:
    with Stopping(Notes()) as stopping:
        stopping.interruptible = True
        stopping.interruptible = False
        send(signal.SIGINT)  # a round that has begun to learn goes on
        assert not stopping.interruptible
        with pytest.raises(StopRequested):
            stopping.interruptible = True


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    with contextlib.suppress(ZeroDivisionError), Stopping(Notes()):
        assert [signal.getsignal(number) for number in BOTH] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in BOTH] == before


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stopping(Notes()) as stopping:
        send(signal.SIGINT)
        assert stopping.asked is None


def test_outside_of_the_main_thread_nothing_changes() -> None:
    failed: list[BaseException] = []

    def use() -> None:
        try:
            with Stopping(Notes()) as stopping:
                stopping.interruptible = True
        except BaseException as error:
            failed.append(error)

    before = [signal.getsignal(number) for number in BOTH]
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failed == []
    assert [signal.getsignal(number) for number in BOTH] == before


def test_a_listener_that_cannot_speak_now_does_no_harm() -> None:
    class Busy(Silence):
        def note(self, text: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    with Stopping(Busy()) as stopping:
        send(signal.SIGTERM)
        assert stopping.asked is signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_exits_with_the_signals_code(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise StopRequested("interrupted; checkpoint-12 is written", number)

    monkeypatch.setattr(FrontDoor, "invoke", stopped)
    result = CliRunner().invoke(cli, ["env"])
    assert result.exit_code == code
    assert result.stderr == "\nerror: interrupted; checkpoint-12 is written\n"


PROGRAM = """
import signal, sys, time
from clearppo.train.listener import Silence
from clearppo.train.stopping import Stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
with Stopping(Silence()) as stopping:
    print("ready", flush=True)
    while stopping.asked is None:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_signal_does_not_wait_for_what_runs() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    for said in (b"ready\n", b"asked\n"):
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"StopRequested: interrupted." in errors
