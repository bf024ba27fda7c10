"""Ray's cluster: how it is joined, whether it has what is asked for, and places in it."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo.engines.host import Host, versions
from clearppo.errors import ConfigError, DistributedError

REACH = 10.0
"""Seconds in which the cluster's head has to answer."""
PACKED = 10.0
"""Seconds that a single machine for all processes is waited for, where one is large enough."""
PLACED = 300.0
"""Seconds that places are waited for which others have taken."""
ANSWER = 60.0
"""Seconds in which an actor has to answer."""
STORE = 100 * 2**20
"""Bytes of Ray's object store on this machine: only lines of text go through it."""
Bundle = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Place:
    """An actor of the cluster, and what it says of where it is."""

    actor: Any
    node: str
    address: str
    gpus: Mapping[str, str]


@contextlib.contextmanager
def joined(address: str | None) -> Iterator["Cluster"]:
    """Ray's cluster at an address, or one on this machine that ends with the block. Raises ConfigError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, and warns of
    try:
        import ray
        from ray import exceptions
    except ImportError:
        raise ConfigError(
            "launch = ray needs the package ray, which is not installed. Install it with pip install 'clearppo[ray]', "
            "or leave out --launch and start the processes with torchrun."
        ) from None
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where not in ("local", "auto"):
        _reach(where)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if where == "local" else {}
    try:
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError, exceptions.RayError) as error:
            raise ConfigError(_refusal(where, error)) from None
        yield Cluster()
    finally:
        ray.shutdown()  # of what there is of it, too


class Cluster:
    """The cluster that this process has joined."""

    @property
    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) >= 1 for node in _nodes())

    def require(self, bundles: Sequence[Bundle], asked: str) -> bool:
        """Raises ConfigError if the machines that are there could not hold these bundles, were they idle. Whether one
        machine could hold them all."""
        nodes = _nodes()
        for room in nodes:
            if fits(bundles, [room]):
                return True
        if not fits(bundles, nodes):
            machines = "; ".join(f"{room.get('CPU', 0):g} CPUs and {room.get('GPU', 0):g} GPUs" for room in nodes)
            one = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
            raise ConfigError(
                f"{asked} are asked for, and the cluster has {one} with {machines}. Use a smaller --num_processes or "
                "--cpus_per_process, or a cluster that has them: its machines must be there when the run starts."
            )
        return False

    @contextlib.contextmanager
    def places(
        self, bundles: Sequence[Bundle], *, together: bool, tell: Callable[[str], None]
    ) -> Iterator[list[Place]]:
        """An actor for each bundle, on one machine if that can be (`together`: one is large enough), until the block
        ends. Raises DistributedError if others do not give the room up in time."""
        import ray

        group = self._group(bundles, together, tell)
        actors: list[Any] = []
        try:
            for number, bundle in enumerate(bundles):
                actors.append(self._actor(group, number, bundle))
            yield [Place(actor=actor, **about) for actor, about in zip(actors, self._about(actors), strict=True)]
        finally:
            for actor in actors:
                _ended(actor)
            ray.util.remove_placement_group(group)

    def _group(self, bundles: Sequence[Bundle], together: bool, tell: Callable[[str], None]) -> Any:
        import ray

        began, told = time.monotonic(), False
        tries = [("STRICT_PACK", PACKED), ("PACK", PLACED)] if together else [("PACK", PLACED)]
        for strategy, patience in tries:
            group = ray.util.placement_group(list(bundles), strategy=strategy)
            until = time.monotonic() + patience
            while not group.wait(timeout_seconds=1):
                if time.monotonic() - began > PACKED and not told:
                    tell(f"waiting for {_free()}: others use the cluster")
                    told = True
                if time.monotonic() > until:
                    break
            else:
                return group
            ray.util.remove_placement_group(group)
        raise DistributedError(
            f"the cluster has the room that is asked for, and others did not give it up in {PLACED:g} seconds: free "
            f"are {_free()}. Start the run again when they are done, or use a smaller --num_processes."
        )

    def _actor(self, group: Any, number: int, bundle: Bundle) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        kind: Any = ray.remote(Host)
        return kind.options(
            num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), max_concurrency=4, max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=number
            ),
        ).remote()  # fmt: skip

    def _about(self, actors: Sequence[Any]) -> list[dict[str, Any]]:
        """What the actors say of their machines. Raises ConfigError if one has other versions than this one."""
        import ray
        from ray import exceptions

        try:
            found = ray.get([actor.about.remote() for actor in actors], timeout=PLACED)
        except exceptions.RayError as error:
            raise DistributedError(
                f"the cluster did not start the run's processes: {_line(error)}. Is ClearPPO installed on all machines?"
            ) from None
        here = versions()
        for about in found:
            theirs = about.pop("versions")
            for name in here:
                if theirs.get(name) != here[name]:
                    raise ConfigError(
                        f"the version of {name} is {theirs.get(name, 'none')} on {about['address']} and {here[name]} "
                        "here. Install the same on all machines of the cluster."
                    )
        return found


def answer(future: Any) -> Any:
    """What an actor answers. Raises DistributedError if it is lost."""
    import ray
    from ray import exceptions

    try:
        return ray.get(future, timeout=ANSWER)
    except exceptions.RayError as error:
        raise DistributedError(
            f"a machine of the cluster is lost: {str(error).strip().splitlines()[0][:200]}"
        ) from None


def _ended(actor: Any) -> None:
    """The actor and its process, whatever state they are in."""
    import ray

    with contextlib.suppress(Exception):
        ray.get(actor.end.remote(), timeout=15)
    with contextlib.suppress(Exception):
        ray.kill(actor)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _free() -> str:
    import ray

    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"


def fits(bundles: Sequence[Bundle], rooms: Sequence[Mapping[str, float]]) -> bool:
    """Whether the bundles find room, the largest first, each in the first room that holds it."""
    left = [dict(room) for room in rooms]
    for bundle in sorted(bundles, key=lambda bundle: (-bundle.get("GPU", 0), -bundle["CPU"])):
        room = next((room for room in left if all(room.get(n, 0) >= amount for n, amount in bundle.items())), None)
        if room is None:
            return False
        for name, amount in bundle.items():
            room[name] -= amount
    return True


def _reach(where: str) -> None:
    """Raises ConfigError unless somebody listens there: Ray itself would try for minutes."""
    host, _, port = where.removeprefix("[").replace("]:", ":").rpartition(":")
    if "://" in where or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"ray_address = {where} is no address of a cluster. Write --ray_address HOST:6379, as ray start --head "
            "prints it, and start the run on a machine of the cluster; or --ray_address auto there."
        )
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except OSError as error:
        raise ConfigError(
            f"ray_address = {where} cannot be reached ({error.strerror or error}). Start a head there with ray start "
            "--head, or leave out --ray_address for a Ray on this machine alone."
        ) from None


def _refusal(where: str, error: Exception) -> str:
    if where == "auto" and isinstance(error, ConnectionError):
        return (
            "ray_address = auto finds no cluster that this machine belongs to. Start one with ray start --head, or "
            "leave out --ray_address."
        )
    what = "Ray cannot be started here" if where == "local" else f"the cluster at ray_address = {where} refuses"
    return f"{what}: {_line(error)}."


def _line(error: Exception) -> str:
    """What Ray says, on one line."""
    return " ".join(str(error).split())[:300].rstrip(". ")
