"""Servers that a run's processes ask, started by Ray beside them: watched, and started again when one ends."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearppo.engines.cluster import Bundle, Place, answer
from clearppo.errors import DistributedError

KEPT_LINES = 400
"""Lines of a server's output that are kept, to find out why it ended."""
Command = tuple[Sequence[str], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Servers:
    """`count` servers, each with so many CPUs and, where the processes have GPUs, so many of these, that answer GET
    /health.

    `command` gives the command line and environment for a host, a port and whether it has GPUs; `reason`, what in the
    output of one says why it ended. The processes find the URLs in their environment under `variable`. One that is not
    well after `patience` seconds has failed.
    """

    count: int
    cpus: int
    gpus: int
    command: Callable[[str, int, bool], Command]
    reason: Callable[[str], str]
    variable: str
    patience: float

    def bundles(self, *, with_gpus: bool) -> list[Bundle]:
        """The room that they take."""
        gpus = {"GPU": float(self.gpus)} if with_gpus else {}
        return [{"CPU": float(self.cpus), **gpus}] * self.count


@dataclass
class _Server:
    number: int
    place: Place
    url: str
    command: Command
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    asked: Any = None
    starts: int = 0
    is_gone: bool = False


class Fleet:
    """The servers of one attempt. They end with their actors."""

    def __init__(
        self, servers: Servers, places: Sequence[Place], *, alone: bool, restarts: int, directory: str,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`alone`: all places are on one machine, so nobody else needs to reach the servers."""
        self.servers, self.restarts, self.directory, self.tell = servers, restarts, directory, tell
        self.all: list[_Server] = []
        for number, place in enumerate(places, start=1):
            host, port = "127.0.0.1" if alone else place.address, int(answer(place.actor.free_port.remote()))
            command = servers.command(host, port, any(place.gpus.values()))
            self.all.append(_Server(number, place, f"http://{host}:{port}", command))

    @property
    def environment(self) -> dict[str, str]:
        """What the processes are told of them."""
        return {self.servers.variable: ",".join(server.url for server in self.all)} if self.all else {}

    def start(self) -> None:
        """Start all, and wait until they are well. Raises DistributedError for one that is not."""
        for server in self.all:
            self._start(server)
        if self.all:
            self.tell(f"{self._counted} {'is' if len(self.all) == 1 else 'are'} starting")
        until = time.monotonic() + self.servers.patience
        for server in self.all:
            while not answer(server.place.actor.answers.remote(f"{server.url}/health")):
                code = self._heard(server)
                if code is not None:
                    raise DistributedError(
                        f"engine {server.number} on {server.place.address} has ended with exit code {code} before it "
                        f"was ready: {self.servers.reason(''.join(server.lines))}"
                    )
                if time.monotonic() > until:
                    raise DistributedError(
                        f"engine {server.number} on {server.place.address} was not ready within "
                        f"{self.servers.patience:g} seconds: {self.servers.reason(''.join(server.lines))}"
                    )
                time.sleep(0.2)

    def look(self) -> None:
        """Start those again that have ended; the processes ask the others meanwhile."""
        for server in self.all:
            if server.is_gone:
                continue
            try:
                code = self._heard(server)
                if code is None:
                    continue
                why = f"engine {server.number} on {server.place.address} has ended with exit code {code}"
                if server.starts <= self.restarts:
                    self.tell(f"{why}: it is started again ({server.starts} of {self.restarts})")
                    self._start(server)
                    continue
                self.tell(f"{why}, {self.restarts} times: the run goes on without it")
            except DistributedError:
                self.tell(
                    f"engine {server.number} on {server.place.address} is lost with its machine: the run goes on "
                    "without it"
                )
            server.is_gone = True

    @property
    def _counted(self) -> str:
        return "1 engine" if len(self.all) == 1 else f"{len(self.all)} engines"

    def _start(self, server: _Server) -> None:
        words, environment = server.command
        wrong = answer(server.place.actor.start.remote(list(words), dict(environment), self.directory))
        if wrong:
            raise DistributedError(f"engine {server.number} cannot be started on {server.place.address}: {wrong}.")
        server.starts += 1
        server.lines.clear()

    def _heard(self, server: _Server) -> int | None:
        """Its exit code, if it has ended; nobody waits for news."""
        import ray

        if server.asked is None:
            server.asked = server.place.actor.news.remote()
        if not ray.wait([server.asked], timeout=0)[0]:
            return None
        news, server.asked = answer(server.asked), None
        server.lines.extend(text for _, text in news["said"])
        code = news["code"]
        return None if code is None else int(code)
