"""Ctrl-C while the results are saved."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from clearppo.train.undisturbed import undisturbed


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Python's own handler: a shell starts what runs in the background with Ctrl-C ignored, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_does_nothing_inside_and_works_again_outside() -> None:
    before = signal.getsignal(signal.SIGINT)
    with undisturbed():
        ctrl_c()
        ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()


def test_the_handler_comes_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="full"), undisturbed():
        raise ValueError("full")
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_it_is_nothing() -> None:
    seen = []

    def work() -> None:
        with undisturbed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
