"""The processes of a run, started by Ray: placed in a cluster, watched, stopped, and started again when one is lost.

Each is what torchrun would have started: `python -m clearppo ...` with the same variables in its environment. An actor
holds it (host.py); this process prints what the first one says, and ends with its exit code.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearppo.engines.cluster import Bundle, Cluster, Place, answer, joined
from clearppo.engines.environment import LAUNCHED
from clearppo.engines.servers import Fleet, Servers
from clearppo.engines.signals import Signals
from clearppo.errors import ConfigError, DistributedError

OTHERS = 90.0
"""Seconds that the processes have to end by themselves once one has failed: they know of it in less."""
SILENT = 60.0
"""Seconds without a word from an actor after which it counts as lost."""
LOOK = 0.5
"""Seconds after which signals are looked for, if nobody says anything."""
ENDED_WELL = frozenset({0, 2, 3, 128 + signal.SIGINT, 128 + signal.SIGTERM})
"""Exit codes by which a process says itself how it ended; with any other it was killed, or has crashed."""
Tell = Callable[[str], None]
Say = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be started: `processes` times `python WORDS` in `directory`, each with so many CPUs and GPUs (None:
    one if the cluster has any).

    When a process is lost all are started again, `max_restarts` times at most: with the words `again` if the file
    `begun` has changed since the start, by which the run says that it has begun. `servers` are there before them.
    """

    words: Sequence[str]
    again: Sequence[str]
    begun: str
    processes: int
    cpus: int
    gpus: int | None
    address: str | None
    max_restarts: int
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    servers: Servers | None = None


@dataclass
class Member:
    """One process: where it is, and how it ended; `over` without a code: it is lost with its actor or its machine."""

    rank: int
    place: Place
    code: int | None = None
    over: bool = False
    heard: float = field(default_factory=time.monotonic)

    @property
    def crashed(self) -> bool:
        """Whether it has ended and did not say itself how."""
        return self.over and self.code not in ENDED_WELL

    def __str__(self) -> str:
        return f"process {self.rank} on {self.place.address} {_how(self.code)}"


def launch(job: Job, *, tell: Tell, say: Say) -> int:
    """Run a job to its end; its exit code. `tell` is given what happens to the processes, `say` each piece of what they
    print, with the stream that it is for.

    Raises ConfigError and DistributedError for a cluster that cannot run it, DistributedError if processes are lost
    more often than they may and none of them has said why, and StopRequested.
    """
    with joined(job.address) as cluster, Signals() as signals:
        run = _Run(job, cluster, signals, tell, say)
        restarts = 0
        while True:
            members = run.attempt()
            crashed = next((member for member in members if member.crashed), None)
            if crashed is None or signals.received:
                return exit_code(members)
            if restarts == job.max_restarts or (crashed.code == 1 and not run.has_begun):
                told = [member.code for member in members if member.code in (2, 3)]
                if told:  # with its sentence
                    return int(told[0] or 0)
                raise DistributedError(f"{crashed}, after {restarts} restarts. {_WAY_ON}")
            restarts += 1
            tell(f"{crashed}: all processes are started again ({restarts} of {job.max_restarts})")


_WAY_ON = "Look at what it printed last, and go on with --resume_from_checkpoint auto."


class _Run:
    """A job in a cluster: one attempt after the other."""

    def __init__(self, job: Job, cluster: Cluster, signals: Signals, tell: Tell, say: Say) -> None:
        self.job, self.cluster, self.signals, self.tell, self.say = job, cluster, signals, tell, say
        self.has_begun = False
        self._untouched: str | None = None

    def attempt(self) -> list[Member]:
        """Start all processes, and follow them until the last one has ended: how they did."""
        job = self.job
        gpus = int(self.cluster.has_gpus) if job.gpus is None else job.gpus
        bundle: Bundle = {"CPU": float(job.cpus), **({"GPU": float(gpus)} if gpus else {})}
        own = job.servers.bundles(with_gpus=gpus > 0) if job.servers else []
        bundles = [*[bundle] * job.processes, *own]
        asked = f"{_counted(job.processes, 'process')} with {_room(bundle)} each"
        asked += f", and {_counted(len(own), 'engine')} with {_room(own[0])} each" if own else ""
        together = self.cluster.require(bundles, asked)
        with self.cluster.places(bundles, together=together, tell=self.tell) as places:
            members = [Member(rank, place) for rank, place in enumerate(in_order(places[: job.processes]))]
            fleet = self._fleet(places)
            first = members[0].place.actor
            if self._untouched is None:
                self._untouched = self._marked(first)
            fleet.start()
            self._start(members, fleet.environment)
            self.signals.handed_on = True
            try:
                self._follow(members, fleet)
            finally:
                self.signals.handed_on = False
            return members

    def _fleet(self, places: Sequence[Place]) -> Fleet:
        """The servers in their places, which come last; an empty one where there are none."""
        job = self.job
        servers = job.servers or Servers(
            count=0, cpus=1, gpus=0, command=lambda *_: ((), {}), reason=str, variable="", patience=0.0
        )
        return Fleet(
            servers, places[job.processes :], alone=len({place.node for place in places}) == 1,
            restarts=job.max_restarts, directory=job.directory, tell=self.tell,
        )  # fmt: skip

    def _marked(self, actor: Any) -> str:
        return str(answer(actor.mark.remote(self.job.begun)))

    def _start(self, members: Sequence[Member], more: Mapping[str, str]) -> None:
        """Start the processes. Raises ConfigError where a machine does not see this directory."""
        job, first = self.job, members[0].place
        self.has_begun = self._marked(first.actor) not in ("", self._untouched)
        words = list(job.again if self.has_begun else job.words)
        port = int(answer(first.actor.free_port.remote()))
        for member, environment in zip(members, environments([m.place for m in members], port), strict=True):
            own = {"OMP_NUM_THREADS": str(job.cpus), **job.environment, **environment, **more}
            wrong = answer(member.place.actor.start.remote(["python", *words], own, job.directory))
            if wrong:
                raise ConfigError(
                    f"{wrong} on {member.place.address}. All machines of the cluster must see the files of the run "
                    "under the same names."
                )

    def _follow(self, members: Sequence[Member], fleet: Fleet) -> None:
        """Hand on what the processes say, and signals to them, until all have ended."""
        import ray

        handed = 0
        asked = {member.place.actor.news.remote(): member for member in members}
        failed: float | None = None
        while asked:
            for future in ray.wait(list(asked), timeout=LOOK)[0]:
                member = asked.pop(future)
                self._hear(member, future)
                if not member.over:
                    asked[member.place.actor.news.remote()] = member
            fleet.look()
            for number in self.signals.received[handed:]:
                handed += 1
                _to_all(members, "signal", number)
            if failed is None and any(member.over and member.code != 0 for member in members):
                failed = time.monotonic()
            late = failed is not None and time.monotonic() - failed > OTHERS
            if late or self.signals.enough:
                _to_all(members, "end")
            for future, member in list(asked.items()):
                silent = time.monotonic() - member.heard
                if silent > SILENT or (late and silent > OTHERS / 3):
                    member.over = True
                    del asked[future]
        if any(member.crashed for member in members):  # the next attempt may be elsewhere
            self.has_begun = self.has_begun or self._begun_seen(members)

    def _begun_seen(self, members: Sequence[Member]) -> bool:
        from ray import exceptions

        for member in members:
            try:
                return self._marked(member.place.actor) not in ("", self._untouched)
            except exceptions.RayError:  # gone with its machine: another sees the same files
                continue
        return False

    def _hear(self, member: Member, future: Any) -> None:
        """What a process has said since the last time, or that it is lost."""
        import ray
        from ray import exceptions

        try:
            news: Any = ray.get(future)
        except exceptions.ActorUnavailableError:  # it may be there again in a moment
            time.sleep(LOOK)
            member.over = time.monotonic() - member.heard > SILENT
            return
        except exceptions.RayError:
            member.over = True
            return
        member.heard = time.monotonic()
        for stream, text in news["said"]:
            self.say(stream, text if member.rank == 0 else f"[process {member.rank}] {text}")
        member.code, member.over = news["code"], news["code"] is not None


def in_order(places: Sequence[Place]) -> list[Place]:
    """The places by rank: neighbours on one machine are neighbours in rank, and on it the order is that of its GPUs."""
    nodes = list(dict.fromkeys(place.node for place in places))
    return sorted(places, key=lambda place: (nodes.index(place.node), sorted(place.gpus.items())))


def environments(places: Sequence[Place], port: int) -> Iterator[dict[str, str]]:
    """What torchrun would set, for each rank: its own GPU is the one of its local rank among all of its machine."""
    nodes = list(dict.fromkeys(place.node for place in places))
    master = places[0].address if len(nodes) > 1 else "127.0.0.1"
    for rank, place in enumerate(places):
        local = [other for other in places if other.node == place.node]
        of_rank = {
            "RANK": rank, "WORLD_SIZE": len(places), "LOCAL_RANK": local.index(place), "LOCAL_WORLD_SIZE": len(local),
            "GROUP_RANK": nodes.index(place.node), "GROUP_WORLD_SIZE": len(nodes), "MASTER_PORT": port,
        }  # fmt: skip
        gpus = {name: ",".join(other.gpus.get(name, "") for other in local) for name in place.gpus}
        text = {name: str(number) for name, number in of_rank.items()}
        yield {**text, **gpus, "MASTER_ADDR": master, LAUNCHED: "ray", "PYTHONUNBUFFERED": "1"}


def _to_all(members: Sequence[Member], call: str, *arguments: Any) -> None:
    """Call a method of all actors whose processes have not ended; nobody waits for it."""
    for member in members:
        if not member.over:
            getattr(member.place.actor, call).remote(*arguments)


def exit_code(members: Sequence[Member]) -> int:
    """That of the first process, or of the first that has another than 0."""
    codes = [member.code for member in members if member.code is not None]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _how(code: int | None) -> str:
    if code is None:
        return "is lost, with its machine or what held it"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"was killed by {name}"
    return f"has crashed with exit code {code}"


def _room(bundle: Bundle) -> str:
    cpus, gpus = int(bundle["CPU"]), int(bundle.get("GPU", 0))
    return _counted(cpus, "CPU") + (f" and {_counted(gpus, 'GPU')}" if gpus else "")


def _counted(n: int, what: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{n} {what if n == 1 else plural}"
