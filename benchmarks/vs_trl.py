"""ClearPPO beside TRL's PPOTrainer on one machine: the same model, prompts, lengths, batch, epochs, threads, in turn.

    .venv/bin/python -m benchmarks.vs_trl --peer_python /tmp/trl/bin/python
    .venv/bin/python -m benchmarks.vs_trl --peer_python /tmp/trl/bin/python --epochs 4 --rounds 2
    .venv/bin/python -m benchmarks.vs_trl --peer_python /tmp/trl/bin/python --smoke

The peer is the last release that has the trainer, TRL 1.12.0, unmodified, timed by ../shared/bench/bench_trl_ppo.py, in
two environments: as it comes, and `tuned` (glibc keeps freed memory, bfloat16 autocast really on), which is kinder to
it than its users know how to be. Give it the machine alone.
"""

import argparse
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.apart import ROOT, RunFailedError, last_line, progress
from benchmarks.output import CANNOT_RUN, in_words, skip, table
from benchmarks.ppo_case import LAYOUTS, PHASES, gibibytes, seconds
from benchmarks.ppo_runs import SHARED_FLAGS, case_of, checked, common, models, names, report

SCRIPT = ROOT.parent / "shared" / "bench" / "bench_trl_ppo.py"
TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "ACCELERATE_MIXED_PRECISION": "bf16",
}
PEERS: dict[str, dict[str, str]] = {"TRL": {}, "TRL, tuned": TUNED}
TARGETS: dict[str, dict[str, float]] = {
    "separate": {"TRL": 3.0, "TRL, tuned": 2.0, "memory": 0.6},
    "lora": {"TRL": 7.0, "TRL, tuned": 4.5, "memory": 0.25},
}
"""Times as fast as the peer, and share of its peak memory, that performance.md of the design asks for."""
TARGET_4_EPOCHS = 7.0  # lora against TRL as it comes


def main() -> None:
    chosen = checked(arguments().parse_args())
    if not chosen.peer_script.is_file():
        skip(f"this benchmark needs the peer's script {chosen.peer_script}, which is not there.")
    try:
        result = run(chosen)
    except RunFailedError as error:
        progress(str(error))
        raise SystemExit(CANNOT_RUN) from error
    report(result, shown(result), chosen.output)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    common(options, name="vs_trl")
    options.add_argument("--peer_python", required=True, help="python of an environment with trl 1.12.0")
    options.add_argument("--peer_script", type=Path, default=SCRIPT)
    options.add_argument("--layouts", default="separate,shared,lora", help=f"some of {', '.join(LAYOUTS)}, with commas")
    options.add_argument("--rounds", type=int, default=1, help="how often all take their turn")
    return options


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """All in turn, `rounds` times over: the peer as it comes, tuned, then our layouts. Raises RunFailedError."""
    layouts = names(chosen.layouts, LAYOUTS)
    theirs: dict[str, list[dict[str, Any]]] = {name: [] for name in PEERS}
    ours: dict[str, list[dict[str, Any]]] = {name: [] for name in layouts}
    with models(chosen, [chosen.model], layouts) as made:
        paths = made[chosen.model]
        for turn in range(chosen.rounds):
            for name, environment in PEERS.items():
                progress(f"round {turn + 1}: {name} ...")
                theirs[name].append(peer(chosen, paths["model"], environment))
            for layout in layouts:
                progress(f"round {turn + 1}: ClearPPO, {layout} ...")
                ours[layout].append(case_of(chosen, layout, paths).measure())
    return {
        "settings": {name: getattr(chosen, name) for name in (*SHARED_FLAGS, "rounds")},
        "theirs": theirs,
        "ours": ours,
        "compared": compared(ours, theirs, chosen.epochs),
        "host": next(iter(ours.values()))[0]["host"],
        "failed": {},
    }


def peer(chosen: argparse.Namespace, model: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """One run of the peer's script. Raises RunFailedError."""
    command = [chosen.peer_python, str(chosen.peer_script), "--model", model]
    for name in ("batch", "response_length", "epochs", "minibatches", "iters", "prompt_min", "prompt_max", "threads"):
        command += [f"--{name}", str(getattr(chosen, name))]
    return last_line(command, "the peer", {**os.environ, "HF_HUB_OFFLINE": "1", **environment})


def compared(
    ours: Mapping[str, list[dict[str, Any]]], theirs: Mapping[str, list[dict[str, Any]]], epochs: int
) -> dict[str, Any]:
    """For each layout: how many times as fast as each peer, the share of its memory, and what was aimed at.

    Times are medians over the rounds; memory is the largest peak of any round, the peer's that of its plain form.
    """
    found: dict[str, Any] = {}
    for layout, runs in ours.items():
        own = statistics.median(run["total_s"] for run in runs)
        faster = {name: statistics.median(run["total_s"] for run in there) / own for name, there in theirs.items()}
        memory = max(run["memory"]["peak_mb"] for run in runs) / (
            max(run["peak_rss_GB"] for run in theirs["TRL"]) * 1024
        )
        targets = dict(TARGETS.get(layout, {}))
        if epochs == 4:
            targets = {"TRL": TARGET_4_EPOCHS} if layout == "lora" else {}
        found[layout] = {"times_as_fast": faster, "memory": memory, "targets": targets}
    return found


def shown(result: dict[str, Any]) -> str:
    """What each took, the ratios beside their targets, and the machine."""
    rows = [["", "iteration s", "sampling", "feedback", "learning", "tokens/s", "peak GiB"]]
    for name, runs in result["theirs"].items():
        rows.append([name, *_cells(runs, ("total_s", "gen_s", "scoring_s", "learning_s", "resp_tok_per_s"), "")])
    for layout, runs in result["ours"].items():
        rows.append([f"ClearPPO, {layout}", *_cells(runs, ("total_s", "", "", "", "response_tokens_per_s"), "phases")])
    ratios = [["ClearPPO's layout", *(f"times as fast as {name}" for name in result["theirs"]), "share of its memory"]]
    for layout, cell in result["compared"].items():
        targets = cell["targets"]
        times = [_beside(value, targets.get(name), "at least", "x") for name, value in cell["times_as_fast"].items()]
        ratios.append([layout, *times, _beside(cell["memory"], targets.get("memory"), "at most", "")])
    chosen = result["settings"]
    title = (
        f"{chosen['batch']} answers of {chosen['response_length']} tokens, prompts of {chosen['prompt_min']} to "
        f"{chosen['prompt_max']}, {chosen['epochs']} epoch(s); medians"
    )
    versions = ", ".join(sorted({f"TRL {run['trl']}, torch {run['torch']}" for run in result["theirs"]["TRL"]}))
    note = "TRL reads old and reference log-probs in its scoring; ClearPPO's old ones belong to sampling."
    return "\n\n".join(
        [table(title, rows), note, table("Ratios", ratios), f"Peer: {versions}.", in_words(result["host"])]
    )


def _cells(runs: list[dict[str, Any]], names: tuple[str, ...], phases: str) -> list[str]:
    """Medians of these numbers; an empty name takes the next phase. Last the largest peak memory."""
    order = iter(PHASES)
    cells = []
    for name in names:
        if name:
            values = [run[name] for run in runs]
        else:
            phase = next(order)
            values = [run[phases][phase] for run in runs]
        cells.append(seconds(statistics.median(values)))
    peaks = [run["memory"]["peak_mb"] if "memory" in run else run["peak_rss_GB"] * 1024 for run in runs]
    return [*cells, gibibytes(max(peaks))]


def _beside(value: float, target: float | None, word: str, unit: str) -> str:
    shown_value = f"{value:.2f}{unit}"
    if target is None:
        return shown_value
    met = value >= target if word == "at least" else value <= target
    return f"{shown_value} ({'met' if met else 'MISSED'}: {word} {target:g}{unit})"


if __name__ == "__main__":
    main()
