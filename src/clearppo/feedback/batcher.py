"""Rows of many requests, marked together: whoever comes while the model is busy shares its next pass."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Marker(Protocol):
    """What marks answers: RewardModelScorer, or a test's."""

    def encoded(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[int]]: ...

    def marks(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, " N"]: ...


class BusyError(Exception):
    """More rows are waiting than there is room for."""


@dataclass
class _Job:
    prompts: Sequence[Any]
    completions: Sequence[str]
    result: "Future[list[float]]" = field(default_factory=Future)


class Batcher:
    """Gives each submitted list of answers its scores. One thread reads and marks, because the model is one.

    It takes all that waits, whole requests, up to `max_rows` rows (a larger request goes alone), and begins at once: no
    request waits for others to come. At most `max_waiting` rows wait.
    """

    def __init__(self, marker: Marker, *, max_rows: int, max_waiting: int) -> None:
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self._marker = marker
        self._jobs = queue.SimpleQueue[_Job | None]()
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True, name="reward-model")
        self._thread.start()

    def submit(self, prompts: Sequence[Any], completions: Sequence[str]) -> "Future[list[float]]":
        """The scores to come. The future raises ClearPPOError for answers that the model cannot read.

        Raises BusyError, at once, if too many rows wait already.
        """
        job = _Job(prompts, completions)
        with self._lock:
            if self._waiting and self._waiting + len(completions) > self.max_waiting:
                raise BusyError
            self._waiting += len(completions)
        self._jobs.put(job)
        return job.result

    def close(self) -> None:
        """End the thread, when what waits is done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: _Job | None = None
        while True:
            jobs = [held or self._jobs.get()]
            held = None
            rows = len(jobs[0].completions) if jobs[0] else 0
            while jobs[-1] is not None:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is not None and rows + len(job.completions) > self.max_rows:
                    held = job
                    break
                jobs.append(job)
                rows += len(job.completions) if job else 0
            self._mark([job for job in jobs if job is not None])
            if jobs[-1] is None:
                return

    def _mark(self, jobs: Sequence[_Job]) -> None:
        read: list[tuple[_Job, list[list[int]]]] = []
        for job in jobs:
            try:
                read.append((job, self._marker.encoded(job.prompts, job.completions)))
            except Exception as error:  # of this request alone
                self._done(job, error)
        try:
            scores = self._marker.marks([ids for _, texts in read for ids in texts]).tolist() if read else []
        except Exception as error:
            for job, _ in read:
                self._done(job, error)
            return
        for job, texts in read:
            self._done(job, scores[: len(texts)])
            scores = scores[len(texts) :]

    def _done(self, job: _Job, result: list[float] | Exception) -> None:
        with self._lock:
            self._waiting -= len(job.completions)
        if not job.result.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        if isinstance(result, Exception):
            job.result.set_exception(result)
        else:
            job.result.set_result(result)
