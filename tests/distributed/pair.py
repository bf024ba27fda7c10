"""Two processes that train together, and how what they leave is compared with what one leaves."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
Run = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How the processes ended, by rank: exit codes, and what each said on stdout and stderr."""

    codes: list[int]
    out: list[str]
    err: list[str]


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    of_rank = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in of_rank.items()}}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def together(runs: Sequence[Run], *, world: int = 2, timeout: float = 240.0) -> Ended:
    """These runs, one after the other, in `world` processes that start together."""
    words, port = [sys.executable, "-m", "tests.distributed.work", json.dumps(list(runs))], free_port()
    processes = [
        subprocess.Popen(
            words, cwd=ROOT, env=environment(rank, world, port), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return Ended([process.returncode for process in processes], [out for out, _ in said], [err for _, err in said])


def difference(one: Path, two: Path) -> tuple[float, str]:
    """The largest difference between the numbers and weights that two runs left, and where it is."""
    worst = (0.0, "")
    rows, others = (read(place / "metrics.jsonl") for place in (one, two))
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            gap = 0.0 if value == other[name] else abs(value - other[name]) / max(1.0, abs(value))
            worst = max(worst, (gap, f"{name} of step {row['step']}"))
    files = sorted(file.relative_to(one) for file in one.rglob("*.safetensors") if "training_state" not in file.parts)
    assert files
    assert files == sorted(f.relative_to(two) for f in two.rglob("*.safetensors") if "training_state" not in f.parts)
    for file in files:
        weights, others_ = load_file(one / file), load_file(two / file)
        assert weights.keys() == others_.keys()
        for name, weight in weights.items():
            worst = max(worst, (float((weight - others_[name]).abs().max()), f"{name} in {file}"))
    return worst


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def lines_of(file: Path) -> str:
    """A file of texts for PPO-ptx."""
    texts = [
        "The film was a delight.",
        "It is a happy dog, and the people are good!",
        "Bad.",
        "So it is with the food.",
    ]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(file)
