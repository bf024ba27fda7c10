"""A Python reward function in a process of its own, which can be stopped when it hangs."""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import torch

from clearppo import errors
from clearppo.batch import Rollout
from clearppo.errors import ClearPPOError, RewardError
from clearppo.feedback.returned import require_json
from clearppo.feedback.scorer import Scores, rows_in_words

TRIES = 2
"""A call that hangs or kills its process is made once more in a new one: it may have waited for a lock or a network."""


class WorkerScorer:
    """A reward function that another process calls; what it is given, may return and is told stands in FunctionScorer.

    `spec` is "file.py:name" or "package.module:name": the process imports it anew, so this one need not. A call that is
    not done after `timeout` seconds (None: any time) is ended with its process, and so is one whose process dies; it is
    made once more in a new process, and if that ends no better, RewardError names the rows.

    Data cross over as JSON. Before each call the process seeds `random`, numpy and torch from what it was sent: the
    same answers get the same scores, and a run that is resumed those of one that was not.

    Raises RewardError as FunctionScorer does, and for columns that JSON does not have. The process ends with `close`,
    with this object, or with its parent, whichever comes first.
    """

    def __init__(self, spec: str, *, timeout: float | None = None, option: str = "reward_funcs") -> None:
        self.spec = spec
        self.timeout = timeout
        self._hello = json.dumps({"spec": spec, "option": option, "path": sys.path})
        self._process = self._started()
        self.name: str = self._process.greeting["name"]
        self.names = (self.name,)
        self.who = f"reward function `{self.name}`"

    def __call__(self, rollout: Rollout) -> Scores:
        answer = _or_raise(self._answer(self._request(rollout), rollout))
        scores = [float("nan") if score is None else score for score in answer["scores"]]
        total = torch.tensor(scores, dtype=torch.float32, device=rollout.responses.device)
        return Scores(total=total, parts={self.name: total})

    def close(self) -> None:
        """End the process now. The next call starts another."""
        self._process.kill()

    def _request(self, rollout: Rollout) -> str:
        columns = {name: list(column) for name, column in rollout.prompts.columns.items()}
        require_json(columns, f"the process of {self.who}", "use --reward_worker false")
        ids = [row[mask].tolist() for row, mask in zip(rollout.responses, rollout.mask, strict=True)]
        request = {"prompts": rollout.prompts.texts, "completions": rollout.completions, "ids": ids, "columns": columns}
        return json.dumps(request)

    def _answer(self, line: str, rollout: Rollout) -> dict[str, Any]:
        tries = 0
        while True:
            tries += 1
            try:
                return self._asked(line)
            except _WorkerLostError as lost:
                if tries == TRIES:
                    rows = rows_in_words(range(len(rollout)), rollout.prompts)
                    raise RewardError(f"{self.who} {lost}, {TRIES} times in a row, for {rows}. {lost.mend}") from lost

    def _asked(self, line: str) -> dict[str, Any]:
        if self._process.ended:
            self._process = self._started()
        try:
            return self._process.ask(line, self.timeout)
        except BaseException:  # Ctrl-C too: what is under way would be taken for the answer to the next call
            self._process.kill()
            raise

    def _started(self) -> "_Process":
        process = _Process()
        weakref.finalize(self, process.kill)
        try:
            process.greeting = _or_raise(process.ask(self._hello, None))
        except _WorkerLostError as lost:
            raise RewardError(f"the process for reward_funcs = {self.spec} {lost} on its import. {lost.mend}") from lost
        except BaseException:
            process.kill()
            raise
        return process


class _WorkerLostError(Exception):
    """A process that hangs or is gone: the end of a sentence, and what to do about it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


class _Process:
    """One worker process: a line of JSON goes in, a line of JSON comes out."""

    def __init__(self) -> None:
        self.greeting: dict[str, Any] = {}
        # A session of its own: Ctrl-C in the terminal is for the run, which then decides; and whatever processes the
        # function has started go with it. -P: a file of the current directory must not hide a module of Python's.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "clearppo.feedback.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._lines = queue.SimpleQueue[str]()
        threading.Thread(target=_forward, args=(self._popen.stdout, self._lines), daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def ask(self, line: str, timeout: float | None) -> dict[str, Any]:
        """The answer to one line. Raises _WorkerLostError after `timeout` seconds, or if the process has ended."""
        began = time.monotonic()
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):  # a process that is gone says so below
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
        try:
            answer = self._lines.get(timeout=timeout)
        except queue.Empty:
            waited = time.monotonic() - began
            raise _WorkerLostError(
                f"was not done after {waited:.3g} seconds and was stopped",
                "Mend what it waits for, or use a larger --reward_timeout.",
            ) from None
        if not answer:
            code = self._popen.wait()
            how = f"by signal {_signal_name(-code)}" if code < 0 else f"with exit code {code}"
            raise _WorkerLostError(f"ended its process {how}", "Look at what it printed.")
        return json.loads(answer)

    def kill(self) -> None:
        """End the process and all that it started; nothing happens if it has ended."""
        if not self.ended:
            with contextlib.suppress(OSError):
                _kill_group(self._popen)
            self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError, ValueError):  # what was not yet written is lost with the process
                if stream is not None:
                    stream.close()


def _kill_group(process: "subprocess.Popen[str]") -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        import os

        os.killpg(process.pid, signal.SIGKILL)


def _forward(stream: Any, lines: "queue.SimpleQueue[str]") -> None:
    """Every line, and "" at the end."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put("")


def _or_raise(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, or the error that it tells of, as the same class."""
    if "error" not in answer:
        return answer
    kind = getattr(errors, answer["kind"], ClearPPOError)
    raise kind(answer["error"])


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
