"""What the record costs: the share of an iteration's time, and bytes. Run it from the root:

    .venv/bin/python -m benchmarks.record

A run by the quickstart's recipe on the quickstart's model, with VADER for the reward model, which makes iterations
shorter than the quickstart's and the share larger. What the recorder does is timed within the run, call by call, so
that the noise of two runs side by side has no part in it.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.host import host
from benchmarks.output import in_words, table, write

BOUND = 0.02
"""Of an iteration's time: what the record may take."""


def main() -> None:
    chosen = arguments().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(chosen, folder)
    print(shown(result))
    write(Path(chosen.output), result)
    raise SystemExit(result["share"] > BOUND)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--iters", type=int, default=5, help="iterations that count; one goes before them")
    options.add_argument("--batch", type=int, default=32, help="answers an iteration")
    options.add_argument("--response", type=int, default=20, help="tokens an answer at most")
    options.add_argument("--device", default="auto")
    options.add_argument("--output", default="runs/benchmarks/record.json")
    return options


class Timed:
    """A recorder, the seconds that it takes of each iteration, and when that is over."""

    def __init__(self, record: Any) -> None:
        self.record, self.show = record, record.watch
        self.ended, self.spent = [time.perf_counter()], list[float]()
        self._seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def watch(self, *args: Any) -> None:
        began = time.perf_counter()
        self.show(*args)
        self._seconds += time.perf_counter() - began

    def __call__(self, *args: Any, **more: Any) -> None:
        began = time.perf_counter()
        self.record(*args, **more)
        self.ended.append(time.perf_counter())
        self.spent.append(self._seconds + self.ended[-1] - began)
        self._seconds = 0.0


def measure(chosen: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Train, and keep the seconds of each iteration, of what the recorder did in it, and its file's size."""
    from clearppo.build.ppo import build_ppo
    from clearppo.cli.quickstart import packaged
    from clearppo.config import PPOConfig, load_config
    from clearppo.record import Iteration, iteration_path, steps

    flags = {
        "model_name_or_path": chosen.model,
        "dataset_name": str(packaged("train")),
        "reward_funcs": "clearppo.feedback.sentiment:vader",
        "output_dir": f"{folder}/run",
        "batch_size": chosen.batch,
        "total_episodes": chosen.batch * (chosen.iters + 1),
        "response_length": chosen.response,
        "save_steps": 0,
        "sample_steps": 0,
        "device": chosen.device,
    }
    run = build_ppo(load_config(PPOConfig, recipe="quickstart", flags=flags))
    timed = run.track.record = Timed(run.track.record)
    run.train()
    files = [iteration_path(run.run_dir.path, step) for step in steps(run.run_dir.path)]
    sizes = [file.stat().st_size for file in files]
    tokens = [sum(Iteration(file).columns("length")["length"].to_pylist()) for file in files]
    took = [b - a for a, b in itertools.pairwise(timed.ended)]
    settings = {name: value for name, value in vars(chosen).items() if name != "output"}
    return {**summary(took, timed.spent, sizes, tokens), "settings": settings, "machine": host()}


def summary(
    took: Sequence[float], spent: Sequence[float], sizes: Sequence[int], tokens: Sequence[int]
) -> dict[str, float]:
    """From seconds an iteration, seconds of them that the record took, bytes and tokens: medians over all but the first
    iteration. The share is that of the time without the record."""
    iteration = statistics.median(a - b for a, b in zip(took[1:], spent[1:], strict=True))
    record = statistics.median(spent[1:])
    return {
        "iteration_s": iteration,
        "record_s": record,
        "share": record / iteration,
        "bytes": statistics.median(sizes[1:]),
        "bytes_per_token": sum(sizes[1:]) / sum(tokens[1:]),
    }


def shown(result: dict[str, Any]) -> str:
    rows = [
        ["an iteration without it", f"{result['iteration_s']:.3f} s"],
        ["the record", f"{result['record_s']:.4f} s"],
        ["share", f"{result['share']:.2%}"],
        ["its file", f"{result['bytes'] / 2**10:.0f} KiB"],
        ["bytes a token", f"{result['bytes_per_token']:.0f}"],
    ]
    verdict = f"At most {BOUND:.0%} is allowed: {'kept' if result['share'] <= BOUND else 'NOT kept'}."
    return "\n\n".join([table("What the record costs", [["", "median"], *rows]), verdict, in_words(result["machine"])])


if __name__ == "__main__":
    main()
