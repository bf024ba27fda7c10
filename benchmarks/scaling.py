"""What more processes bring: the same batch over more of them, and a batch that grows with them. Run it from the root:

    .venv/bin/python -m benchmarks.scaling                        # 1 and 2 processes, both kinds of --sharding
    .venv/bin/python -m benchmarks.scaling --device cuda --processes 1,2,4,8 --model MODEL
    .venv/bin/python -m benchmarks.scaling --set critic=separate
    .venv/bin/python -m benchmarks.scaling --smoke

Every run is one of `clearppo ppo`, started by torchrun as a user starts it, each process with `--threads` threads. Its
times are those of timings.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.apart import ROOT, TAIL, RunFailedError, apart, progress
from benchmarks.inputs import DEFAULT_MODEL
from benchmarks.output import in_words, table, write

KINDS: dict[str, dict[str, Any]] = {"none": {}, "full": {"sharding": "full"}}
"""By --sharding: all weights on each process, or shared out."""
SCALINGS = ("strong", "weak")
"""strong: the batch stays; weak: it grows with the processes."""
PHASES = ("sampling", "feedback", "learning")


def main() -> None:
    chosen = checked(arguments().parse_args())
    with tempfile.TemporaryDirectory(prefix="clearppo-scaling-") as folder:
        found = measure(chosen, Path(folder))
    print(shown(found))
    write(chosen.output, found)
    raise SystemExit(1 if found["failed"] else 0)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default=DEFAULT_MODEL, help="policy; the reward model has its size")
    options.add_argument("--processes", default="1,2", help="numbers of processes, with commas; 1 comes first")
    options.add_argument("--kinds", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}: --sharding")
    options.add_argument("--batch", type=int, default=16, help="answers an iteration; weak: for each process")
    options.add_argument("--response_length", type=int, default=48)
    options.add_argument("--iters", type=int, default=4, help="iterations; the first is a warm-up, 2 at least")
    options.add_argument("--threads", type=int, default=1, help="of each process, where it computes on the CPU")
    options.add_argument("--device", default="cpu")
    options.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of clearppo ppo; may be repeated"
    )
    options.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/scaling.json"))
    return options


def checked(chosen: argparse.Namespace) -> argparse.Namespace:
    """The flags, with those of --smoke put in. Ends the program with one sentence for what cannot be."""
    if chosen.smoke:
        chosen.batch, chosen.response_length, chosen.iters = 4, 4, 2
    if chosen.iters < 2:
        raise SystemExit(f"--iters {chosen.iters}: the first iteration is a warm-up. Use 2 or more.")
    chosen.processes = sorted({1, *(int(number) for number in chosen.processes.split(","))})
    chosen.kinds = [kind.strip() for kind in chosen.kinds.split(",")]
    if unknown := [kind for kind in chosen.kinds if kind not in KINDS]:
        raise SystemExit(f"{unknown[0]} is none of {', '.join(KINDS)}.")
    return chosen


def cases(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """One process, and then every kind and scaling of more."""
    alone = {"processes": 1, "kind": "none", "scaling": "strong", "batch": chosen.batch}
    return [alone] + [
        {"processes": n, "kind": kind, "scaling": way, "batch": chosen.batch * (n if way == "weak" else 1)}
        for kind in chosen.kinds
        for way in SCALINGS
        for n in chosen.processes
        if n > 1
    ]


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every case, one after another; one that fails is noted, and the others go on."""
    from benchmarks.host import host

    given = {"folder": str(folder), "model": chosen.model, "smoke": chosen.smoke, "adapter": False}
    paths = apart("benchmarks.inputs", given)
    found: dict[str, Any] = {"results": [], "failed": {}, "host": host() | {"threads": chosen.threads}}
    for number, case in enumerate(cases(chosen)):
        name = f"{case['processes']} processes, {case['kind']}, {case['scaling']}"
        progress(f"measuring {name} ...")
        try:
            place = folder / f"run{number}"
            run(case["processes"], flags(chosen, case, paths, place), chosen.threads)
            found["results"].append(case | timed(rows_of(place / "timings.jsonl")))
        except RunFailedError as error:
            found["failed"][name] = str(error)
            progress(str(error))
    return found


def flags(chosen: argparse.Namespace, case: Mapping[str, Any], paths: Mapping[str, str], place: Path) -> dict[str, Any]:
    """The options of this case: answers of full length, so that all have the same work."""
    from clearppo.cli.quickstart import packaged

    return {
        "model_name_or_path": paths["model"],
        "reward_model_path": paths["reward"],
        "dataset_name": str(packaged("train")),
        "output_dir": str(place),
        "batch_size": case["batch"],
        "total_episodes": case["batch"] * chosen.iters,
        "response_length": chosen.response_length,
        "fixed_length": True,
        "device": chosen.device,
        "save_steps": 0,
        "sample_steps": 0,
        **KINDS[case["kind"]],
        **dict(given.split("=", 1) for given in chosen.set),
    }


def run(processes: int, options: Mapping[str, Any], threads: int) -> None:
    """Train with so many processes. Raises RunFailedError with the last words."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [*start, "clearppo", "ppo", *words], cwd=ROOT, text=True, capture_output=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    if done.returncode:
        said = "\n".join((done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-TAIL:])
        raise RunFailedError(f"clearppo ppo failed with exit code {done.returncode}:\n{said}")


def rows_of(file: Path) -> list[dict[str, float]]:
    """The lines of timings.jsonl."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def timed(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of the iterations after the first: median seconds of all phases and of each, what share of all was spent with
    other processes, and the peak memory of the first process in GiB."""
    rows = rows[1:]

    def total(row: Mapping[str, float], family: str) -> float:
        return sum(value for name, value in row.items() if name.startswith(family))

    memory = [value for row in rows for name, value in row.items() if name.startswith("memory/")]
    return {
        "iteration_s": statistics.median(total(row, "time/") for row in rows),
        "phases": {phase: statistics.median(row[f"time/{phase}"] for row in rows) for phase in PHASES},
        "communication": {
            phase: statistics.median(row.get(f"communication/{phase}", 0.0) for row in rows) for phase in PHASES
        },
        "communication_share": statistics.median(total(row, "communication/") / total(row, "time/") for row in rows),
        "peak_gib": max(memory, default=0.0),
    }


def efficiency(alone: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[float, float]:
    """How many times as many answers a second as one process, and that over the number of processes."""
    rates = [one["batch"] / one["iteration_s"] for one in (alone, found)]
    return rates[1] / rates[0], rates[1] / rates[0] / found["processes"]


def shown(found: Mapping[str, Any]) -> str:
    """The table, the machine, and what failed."""
    heading = ["processes", "--sharding", "scaling", "answers", "iteration s", *PHASES, "with others", "faster",
               "of ideal", "peak GiB"]  # fmt: skip
    rows = [heading]
    for one in found["results"]:
        faster, share = efficiency(found["results"][0], one)
        rows.append([
            str(one["processes"]),
            one["kind"] if one["processes"] > 1 else "",
            one["scaling"] if one["processes"] > 1 else "",
            str(one["batch"]),
            f"{one['iteration_s']:.3g}",
            *(f"{one['phases'][phase]:.3g}" for phase in PHASES),
            f"{one['communication_share']:.1%}",
            f"{faster:.2f}x",
            f"{share:.0%}",
            f"{one['peak_gib']:.2f}",
        ])  # fmt: skip
    failed = [f"FAILED: {name}\n{why}" for name, why in found["failed"].items()]
    explained = (
        "Medians of the iterations after the first, times of the first process. with others: the share of its time in\n"
        "calls that send, get, or wait for those that are late. faster: answers a second over those of one process."
    )
    return "\n\n".join([table("PPO over processes", rows), explained, in_words(found["host"]), *failed])


if __name__ == "__main__":
    main()
