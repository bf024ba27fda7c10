"""What a process of a test does: runs one after the other, each with the options that it is given.

    RANK=0 WORLD_SIZE=2 ... python -m tests.distributed.work '[{"kind": "ppo", "options": {...}}]'

`only` of a run says what one process does otherwise than all: {"rank": 1, "die_at": 2}, or other options. A run with
"alone" is done by the first process, as if there were no others; one that "ends" early may do so, and the next follows.
"""

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from clearppo.engines.environment import ending_quietly, hush

hush()

import pytest  # noqa: E402
import torch  # noqa: E402  (it reads the environment once)

torch.set_num_threads(1)


@contextlib.contextmanager
def dying_at(step: int | None, number: int | None) -> Iterator[None]:
    """This process gets a signal once it has done so many rounds; without one, it fails there."""
    from clearppo.errors import TrainingError
    from clearppo.train.supervised import StepTrack
    from clearppo.train.track import Track

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Track, StepTrack):
            call = kind.__call__

            def called(self: Any, done: int, *args: Any, _call: Any = call, **kwargs: Any) -> None:
                _call(self, done, *args, **kwargs)
                if done == step and number is None:
                    raise TrainingError("only this process has failed.")
                if done == step:
                    os.kill(os.getpid(), number)

            patch.setattr(kind, "__call__", called)
        yield


@contextlib.contextmanager
def ringing_at(step: int | None) -> Iterator[None]:
    """One alarm, kl_runaway, rings the first time that so many iterations are done."""
    from clearppo.alarms import Sight, state
    from clearppo.alarms.rules import Rule

    rang: list[int] = []

    def look(history: Any) -> Iterator[Sight]:
        holds = len(history.rows) == step and not rang
        rang.extend([1] if holds else [])
        value = float(len(history.rows))
        yield Sight(holds=holds, metric="step", value=value, limit=0.0, start=None, sentence=f"it is {value}")

    with pytest.MonkeyPatch.context() as patch:
        if step is not None:
            rule = Rule(name="kl_runaway", metrics=(), look=look, patience=1, rings="", advice="")
            patch.setattr(state, "RULES", {"kl_runaway": rule})
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """This process is the only one that there is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            patch.delenv(name)
        yield


@contextlib.contextmanager
def a_full_disk() -> Iterator[None]:
    """This process cannot write its part of a checkpoint."""
    from clearppo.train import sharding

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "write_shard", full)
        yield


class Layer(torch.nn.Linear):
    """A part that an engine shares out."""


class Net(torch.nn.Sequential):
    """A network that says what its layers are, and one of them is as many rows as there are processes, less one."""

    _no_split_modules = ("Layer",)

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Layer(6, 5), torch.nn.Tanh(), Layer(5, 1), torch.nn.Linear(1, 1))


def shares_out(engine: Any) -> None:
    """Steps of shares, in whatever memory, are those of the whole."""
    from clearppo.models.whole import is_shared_out, whole

    nets = [Net() for _ in range(4)]
    engine.shard(nets[1])
    engine.shard(nets[2], offload=True)
    engine.shard(nets[3], whole=nets[3][0].parameters())
    assert [is_shared_out(net[0].weight) for net in nets] == [False, True, True, False]
    assert [is_shared_out(net[2].weight) for net in nets] == [False, True, True, True]
    ended: list[list[torch.Tensor]] = []
    for net in nets:
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, foreach=False)
        for step in range(3):
            torch.manual_seed(10 * step + engine.rank)
            engine.backward(net(torch.randn(4, 6)).square().sum())
            engine.step(optimiser, net.parameters(), 0.5)
        ended.append([whole(parameter.detach()) for parameter in net.parameters()])
    for other in ended[1:]:
        for one, same in zip(ended[0], other, strict=True):
            torch.testing.assert_close(one, same)


def contract() -> None:
    """The contract of the engines that these processes may have."""
    from clearppo.engines.environment import place
    from clearppo.engines.fsdp import ShardedEngine
    from clearppo.engines.group import meet
    from clearppo.engines.parallel import ParallelEngine
    from clearppo.errors import ConfigError
    from tests.contracts.test_engine import keeps_the_contract

    cpu, here = torch.device("cpu"), place()
    for kind in (ParallelEngine, ShardedEngine):
        engine = kind(cpu, meet(here, cpu))
        assert (engine.rank, engine.world) == (here.rank, 2)
        keeps_the_contract(engine)
        torch.manual_seed(here.rank)
        if kind is ShardedEngine:
            shares_out(engine)
        with pytest.raises(ConfigError, match="the start model is weights of their own, as in weight in process 1"):
            engine.unite(torch.nn.Linear(2, 2))


def done(run: dict[str, Any], rank: int) -> None:
    """One run, or this process's part in it."""
    from clearppo import ppo, prefs, reward, rlhf, sft

    train: dict[str, Any] = {"ppo": ppo, "prefs": prefs, "sft": sft, "reward": reward, "rlhf": rlhf}
    options, only = run.get("options", {}), run.get("only", {})
    only = only if only.get("rank") == rank else {}
    with (
        alone() if run.get("alone") else contextlib.nullcontext(),
        a_full_disk() if only.get("full_disk") else contextlib.nullcontext(),
        ringing_at(run.get("rings_at")),
        dying_at(only.get("die_at"), only.get("signal", signal.SIGKILL)),
    ):
        contract() if run["kind"] == "contract" else train[run["kind"]](**{**options, **only.get("options", {})})


def main() -> None:
    from clearppo.engines.environment import speaks
    from clearppo.errors import ClearPPOError, StopRequested

    rank = int(os.environ.get("RANK", "0"))
    for run in json.loads(sys.argv[1]):
        if run.get("alone") and rank:
            continue
        try:
            done(run, rank)
        except (ClearPPOError, StopRequested) as error:
            if speaks(getattr(error, "lost", None)):
                print(f"error: {error}", file=sys.stderr, flush=True)
            if not run.get("ends"):
                sys.exit(error.exit_code)


if __name__ == "__main__":
    with ending_quietly():
        main()
        sys.exit(0)
