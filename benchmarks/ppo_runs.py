"""What the scripts that time PPO runs share: flags, the models they need, measuring, what they leave behind."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.apart import RunFailedError, apart, progress
from benchmarks.inputs import DEFAULT_MODEL
from benchmarks.output import in_words, write
from benchmarks.ppo_case import LAYOUTS, Case

Paths = dict[str, str]
"""Where the models of one size are; see benchmarks.inputs.make."""
Measured = dict[str, Any]
"""Two parts: `results`, what was measured by the case's name, and `failed`, why a case has none."""


def common(options: argparse.ArgumentParser, *, name: str) -> argparse.ArgumentParser:
    """The flags that all timings of an iteration share."""
    options.add_argument("--model", default=DEFAULT_MODEL, help="model to train: a name or a directory")
    options.add_argument("--batch", type=int, default=16, help="answers an iteration")
    options.add_argument("--response_length", type=int, default=32, help="tokens of every answer")
    options.add_argument("--prompt_min", type=int, default=16, help="tokens of the shortest prompt")
    options.add_argument("--prompt_max", type=int, default=32, help="tokens of the longest prompt")
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--minibatches", type=int, default=1)
    options.add_argument("--lora", type=int, default=16, help="LoRA rank in the layouts that have it")
    options.add_argument("--iters", type=int, default=3, help="iterations; the first is a warm-up, 2 at least")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves it to torch")
    options.add_argument("--smoke", action="store_true", help="a tiny model and short answers, to see that it runs")
    options.add_argument("--output", type=Path, default=Path(f"runs/benchmarks/{name}.json"))
    return options


SHARED_FLAGS = (
    "batch", "response_length", "prompt_min", "prompt_max", "epochs", "minibatches", "lora", "iters", "seed", "device",
    "threads",
)  # fmt: skip


def checked(chosen: argparse.Namespace) -> argparse.Namespace:
    """The flags, with those of --smoke put in. Ends the program with one sentence for what cannot be."""
    if chosen.smoke:
        chosen.batch, chosen.response_length, chosen.iters, chosen.threads = 4, 6, 2, 1
        chosen.prompt_min, chosen.prompt_max = 4, 8
    if chosen.iters < 2:
        raise SystemExit(f"--iters {chosen.iters}: the first iteration is a warm-up. Use 2 or more.")
    return chosen


def names(given: str, known: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names with commas between them. Ends the program with one sentence for an unknown one."""
    found = [name.strip() for name in given.split(",")]
    if unknown := [name for name in found if name not in known]:
        raise SystemExit(f"{unknown[0]} is none of {', '.join(known)}.")
    return found


@contextmanager
def models(chosen: argparse.Namespace, wanted: Sequence[str], layouts: Sequence[str]) -> Iterator[dict[str, Paths]]:
    """For each model name what these layouts need, in a folder that is gone afterwards."""
    adapter = any(LAYOUTS[layout].get("share_trunk") for layout in layouts)
    with tempfile.TemporaryDirectory(prefix="clearppo-benchmark-") as folder:
        found = {}
        for name in dict.fromkeys(wanted):
            place = Path(folder) / f"model{len(found)}"
            place.mkdir()
            given = {"folder": str(place), "model": name, "smoke": chosen.smoke, "adapter": adapter}
            found[name] = apart("benchmarks.inputs", given)
        yield found


def case_of(chosen: argparse.Namespace, layout: str, paths: Paths, **more: Any) -> Case:
    """The flags as a Case in this layout, with the reward model that belongs to it."""
    given = {name: getattr(chosen, name) for name in SHARED_FLAGS}
    return Case(model=paths["model"], reward=reward_of(layout, paths), layout=layout, **(given | more))


def reward_of(layout: str, paths: Paths) -> str:
    """The reward model that belongs to a layout: a whole one, or an adapter on the policy's trunk."""
    return paths["reward_adapter" if LAYOUTS[layout].get("share_trunk") else "reward"]


def measure_all(cases: Sequence[tuple[str, Case]]) -> Measured:
    """Measure one after another; a case that fails is noted, and the others go on."""
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, case in cases:
        progress(f"measuring {name} ...")
        try:
            results[name] = case.measure()
        except RunFailedError as error:
            failed[name] = str(error)
            progress(str(error))
    return {"results": results, "failed": failed}


def closing(measured: Measured) -> list[str]:
    """What stands below the tables: the machine, and what failed."""
    hosts = [in_words(found["host"]) for found in measured["results"].values()]
    return hosts[:1] + [f"FAILED: {name}\n{why}" for name, why in measured["failed"].items()]


def report(measured: Measured, shown: str, output: Path) -> NoReturn:
    """Print the tables, write the file, print the result as one line of JSON, and end: 1 if anything failed."""
    print(shown)
    write(output, measured)
    print(json.dumps(measured))
    raise SystemExit(1 if measured["failed"] else 0)
