"""Signs of life: every process says now and then that it is there, and why it ends, in a store that all can read.

A connection that breaks tells at once that a process is gone, but not which, nor why; and a machine that falls silent
breaks none. So each process counts up a number of its own, and whoever sees that one stands still knows who is lost.
"""

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

BEAT = 1.0
"""Seconds between two signs of a process."""
SILENT = 40.0
"""Seconds without a sign after which a process counts as lost, though no connection broke."""
LOOK = 4.0
"""Seconds that are looked for signs once a connection has broken."""
GRACE = 15.0
"""Seconds that this process has to end in good order once another is lost; then it ends at once, with exit code 3."""
FAREWELL = 5.0
"""Seconds that the end of a process waits for its own thread, and rank 0, where all has gone well, for the others."""
Store = Any


class Signs:
    """The signs of process `rank` of `world`. `store` (torch's, a connection of its own) is used by a thread.

    Where another falls silent and this process hangs in a call that waits for it, the process is ended from here.
    """

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self._store = store
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._seen = {other: ("", time.monotonic()) for other in range(world) if other != rank}
        self._thread = threading.Thread(target=self._live, name="clearppo signs of life", daemon=True)
        self._thread.start()

    def close(self, *, patience: float, lost: int | None = None) -> None:
        """This process has nothing more to do with the others. Rank 0, with which the store may go, ends last: it waits
        so many seconds for all but a `lost` one. They read there why it ends, and a thread that waits for a store that
        is gone cannot be ended."""
        self._over.set()
        self._thread.join(timeout=FAREWELL)
        with contextlib.suppress(Exception):
            self._store.set(f"bye/{self.rank}", "")
            until = time.monotonic() + patience
            others = [f"bye/{other}" for other in self._seen if other != lost]
            holds = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            while holds and others and not self._store.check(others) and time.monotonic() < until:
                time.sleep(BEAT / 50)

    def tell(self, sentence: str, lost: int | None = None) -> None:
        """Say why this process ends; `lost` if it ends because that one is lost."""
        with contextlib.suppress(Exception), self._lock:
            self._store.set(f"end/{self.rank}", json.dumps({"sentence": sentence, "lost": lost}))

    def ends(self) -> dict[int, dict[str, Any]]:
        """What other processes have said when they ended, by rank. Raises RuntimeError where the store is gone."""
        found: dict[int, dict[str, Any]] = {}
        for other in self._seen:
            with self._lock:
                if self._store.check([f"end/{other}"]):
                    found[other] = json.loads(self._store.get(f"end/{other}"))
        return found

    def silent(self) -> list[int]:
        """The ranks that give no sign while one looks for a few seconds; rank 0 if the store, which is there, is gone
        with it."""
        try:
            before, until = self._beats(), time.monotonic() + LOOK
            waiting = set(self._seen)
            while waiting and time.monotonic() < until:
                time.sleep(BEAT / 2)
                now = self._beats()
                waiting = {other for other in waiting if now.get(other) == before.get(other)}
        except RuntimeError:
            return [0]
        return sorted(waiting)

    def _beats(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for other in self._seen:
            with self._lock:
                if self._store.check([f"beat/{other}"]):
                    found[other] = self._store.get(f"beat/{other}").decode()
        return found

    def _live(self) -> None:
        number = 0
        while not self._over.wait(BEAT):
            number += 1
            try:
                with self._lock:
                    self._store.set(f"beat/{self.rank}", str(number))
                lost = self._look() if number % 5 == 0 else None
            except RuntimeError:
                lost = 0
            if lost is not None:
                return self._end(lost)

    def _look(self) -> int | None:
        """A rank that has given no sign for too long."""
        ended = self.ends()
        for other, beat in self._beats().items():
            if beat != self._seen[other][0]:
                self._seen[other] = (beat, time.monotonic())
        late = time.monotonic() - SILENT
        return next((o for o, (_, since) in self._seen.items() if since < late and o not in ended), None)

    def _end(self, lost: int) -> None:
        """The main thread may hang in a call that waits for the lost one for ever."""
        self.tell(silence(lost, self.world), lost)
        if self._over.wait(GRACE):
            return
        if self.rank == min(rank for rank in range(self.world) if rank != lost):
            print(f"error: {silence(lost, self.world)}", file=sys.stderr, flush=True)
        os._exit(3)


def silence(lost: int, world: int) -> str:
    """What is said of a process that is gone without a word."""
    return (
        f"process {lost} of 0 to {world - 1} is lost: it was killed, has crashed, or its machine is out of reach. Look "
        "at what it printed last, and go on with --resume_from_checkpoint auto."
    )
