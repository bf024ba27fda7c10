"""What a process of a test does: runs one after the other, each with the options that it is given.

    RANK=0 WORLD_SIZE=2 ... python -m tests.distributed.work '[{"kind": "ppo", "options": {...}}]'

`only` of a run says what one process does otherwise than all: {"rank": 1, "die_at": 2}, or other options.
"""

import json
import os
import signal
import sys
from typing import Any

from clearppo.engines.environment import hush

hush()

import pytest  # noqa: E402
import torch  # noqa: E402  (it reads the environment once)

torch.set_num_threads(1)


def die_at(step: int, number: int) -> None:
    """This process gets a signal once it has done so many rounds."""
    from clearppo.train.supervised import StepTrack
    from clearppo.train.track import Track

    for kind in (Track, StepTrack):
        call = kind.__call__

        def called(self: Any, done: int, *args: Any, _call: Any = call, **kwargs: Any) -> None:
            _call(self, done, *args, **kwargs)
            if done == step:
                os.kill(os.getpid(), number)

        kind.__call__ = called  # type: ignore[method-assign]


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
        with pytest.raises(ConfigError, match="the start model is weights of their own, as in weight in process 1"):
            engine.unite(torch.nn.Linear(2, 2))


def main() -> None:
    from clearppo import ppo, reward, sft
    from clearppo.engines.environment import speaks
    from clearppo.errors import ClearPPOError, StopRequested

    train = {"ppo": ppo, "sft": sft, "reward": reward}
    for run in json.loads(sys.argv[1]):
        options, only = run.get("options", {}), run.get("only", {})
        if only.get("rank") == int(os.environ.get("RANK", "0")):
            options = {**options, **only.get("options", {})}
            if "die_at" in only:
                die_at(only["die_at"], only.get("signal", signal.SIGKILL))
        try:
            contract() if run["kind"] == "contract" else train[run["kind"]](**options)
        except (ClearPPOError, StopRequested) as error:
            if speaks(getattr(error, "lost", None)):
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
