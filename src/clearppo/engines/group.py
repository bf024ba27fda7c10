"""The processes that train together, as torch.distributed joins them: numbers, plain values, and how it ends."""

import atexit
import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from clearppo import errors
from clearppo.engines.environment import Place, note_met
from clearppo.engines.signs import FAREWELL, GRACE, Signs, silence
from clearppo.engines.waits import Waits
from clearppo.errors import ClearPPOError, ConfigError, DistributedError, StopRequested

MEETING = timedelta(minutes=5)
"""How long the first process waits for the last one."""
PATIENCE = timedelta(days=7)
"""How long a call waits for the others: one of them may be asking a slow server. Lost ones are seen by other means."""
_BROKEN = ("Connection", "gloo", "NCCL", "ProcessGroup", "c10d", "peer", "Broken pipe", "process group")


class Group:
    """All processes. Made once a process; `meet` gives the one that is there."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.world, self.local_world = place.rank, place.world, place.local_world
        self.apart = False
        self.waits = Waits()
        _require_address()
        try:
            store: Any = next(iter(rendezvous("env://", timeout=MEETING)))[0]
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, store=PrefixStore("clearppo", store), rank=self.rank, world_size=self.world,
                timeout=PATIENCE,
            )  # fmt: skip
            self._store = store  # rank 0 may hold the server: with the last reference it goes, and its sentence too
            self._signs = Signs(PrefixStore("signs", store.clone()), self.rank, self.world)
        except (RuntimeError, TimeoutError, OSError) as error:
            raise DistributedError(
                f"process {self.rank} of {self.world} did not meet the others: {_first_line(error)}. Check that all "
                f"{self.world} are started, and that MASTER_ADDR and MASTER_PORT name a free port that all can reach."
            ) from error
        atexit.register(self.leave)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, of the type that `value` has."""
        whole = value.detach().clone(memory_format=torch.contiguous_format)
        with self._said(whole):
            dist.all_reduce(whole)
        return whole

    def spread(self, value: Tensor) -> None:
        """Make `value` what rank 0 has there, in place."""
        flat = value if value.is_contiguous() else value.contiguous()
        with self._said(flat):
            dist.broadcast(flat, src=0)
        if flat is not value:
            value.copy_(flat)

    def gather(self, value: Any) -> list[Any]:
        """What each process says, in rank order, as JSON carries it."""
        own = _bytes(value)
        sizes = [0] * self.world
        sizes[self.rank] = len(own)
        sizes = self.sum(torch.tensor(sizes)).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(own)] = own
        found = [torch.zeros_like(padded) for _ in sizes]
        with self._said(padded):
            dist.all_gather(found, padded)
        return [_value(part[:size]) for part, size in zip(found, sizes, strict=True)]

    def share(self, call: Callable[[], Any]) -> Any:
        """See Engine.share. Once apart, rank 0 works for itself, and the others get None."""
        if self.apart:
            return call() if self.rank == 0 else None
        answer: dict[str, Any] = {}
        raised: ClearPPOError | None = None
        if self.rank == 0:
            try:
                answer = {"value": call()}
            except ClearPPOError as error:
                raised, answer = error, {"kind": type(error).__name__, "error": str(error)}
        told = _bytes(answer)
        size = torch.tensor([len(told)])
        self.spread(size)
        told = told if self.rank == 0 else torch.zeros(int(size), dtype=torch.uint8)
        self.spread(told)
        if raised is not None:
            raise raised
        answer = _value(told)
        if "error" in answer:
            raise getattr(errors, answer["kind"], ClearPPOError)(answer["error"])
        return answer["value"]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See Engine.together."""
        try:
            yield
        except BaseException as error:
            told = self.part(error)
            if told is error:
                raise
            raise told from error

    def part(self, error: BaseException) -> BaseException:
        """This process's part ends by an error: tell the others, if they do not know, and say it in words if it came of
        them. A stop that all have agreed on parts nobody."""
        if self.apart or (isinstance(error, StopRequested) and not error.at_once):
            return error
        if not isinstance(error, DistributedError) and _is_of_company(error):
            error = self._who(error)
        sentence = str(error) or type(error).__name__
        lost = error.lost if isinstance(error, DistributedError) else None
        self._signs.tell(
            sentence if isinstance(error, ClearPPOError | StopRequested) else f"{type(error).__name__}: {sentence}",
            lost,
        )
        self.apart = True
        self._hang_up()  # first: the others, who may wait for this process, look for its sentence then
        self._signs.close(patience=GRACE, lost=lost)
        return error

    def leave(self) -> None:
        """All are done: have nothing more to do with the others."""
        if not self.apart:
            self.apart = True
            self._signs.close(patience=FAREWELL)  # first: what was sent last must have arrived
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _said(self, value: Tensor) -> Iterator[None]:
        """While this process talks with the others about `value`."""
        if self.apart:
            raise DistributedError("this process has parted from the others and cannot ask them anything any more.")
        try:
            with self.waits.of(value.device):
                yield
        except RuntimeError as error:
            raise self._who(error) from error

    def _who(self, error: BaseException) -> DistributedError:
        """Which process is lost, or why it has ended."""
        silent = self._signs.silent()  # first: who is about to end says so while we look
        with contextlib.suppress(RuntimeError):
            ends = self._signs.ends()
            for known in ends.values():
                if known["lost"] is not None:
                    return DistributedError(known["sentence"], lost=known["lost"])
            if ends:
                rank, end = min(ends.items())
                return DistributedError(f"process {rank} of 0 to {self.world - 1} has ended: {end['sentence']}")
        if silent:
            return DistributedError(silence(silent[0], self.world), lost=silent[0])
        return DistributedError(f"the processes have lost touch with each other: {_first_line(error)}.")


def _require_address() -> None:
    """torch would look for a name that nobody knows until `MEETING` is over."""
    address = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise DistributedError(
            f"MASTER_ADDR = {address} in the environment is the name of no machine that is known here. Give the "
            "address of the machine of process 0 (torchrun --master-addr, or --standalone for one machine)."
        ) from error


_met: list[Group] = []


def meet(place: Place, device: torch.device) -> Group:
    """The group of this process, which meets the others when this is first called. Raises DistributedError."""
    if not _met:
        _met.append(Group(place, device))
        note_met()
    return _met[0]


@contextlib.contextmanager
def met_together() -> Iterator[None]:
    """`Group.together`, for whoever may come before the processes have met."""
    try:
        yield
    except BaseException as error:
        told = _met[0].part(error) if _met else error
        if told is error:
            raise
        raise told from error


def require_same(group: Group, facts: Mapping[str, Any]) -> None:
    """Raises ConfigError, on every process, if one has another value of a fact than rank 0: it names both."""
    first, *others = group.gather(dict(facts))
    for rank, other in enumerate(others, start=1):
        for name in [*first, *(name for name in other if name not in first)]:
            if first.get(name) != other.get(name):
                raise ConfigError(
                    f"{name} is {other.get(name)} in process {rank} and {first.get(name)} in process 0. All processes "
                    "must be started with the same command, the same versions and the same files."
                )


def _is_of_company(error: BaseException) -> bool:
    """Whether an error may come of a process that is gone."""
    of_torch = isinstance(error, dist.DistError | ConnectionError)
    return of_torch or (isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN))


def _bytes(value: Any) -> Tensor:
    text = json.dumps(value, ensure_ascii=True)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _value(data: Tensor) -> Any:
    return json.loads(data.numpy().tobytes())


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line[:200].rstrip(". ")
