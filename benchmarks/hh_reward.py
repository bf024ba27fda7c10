"""`clearppo reward` on human comparisons: held-out accuracy, and the difference from TRL's RewardTrainer.

Run it from the repository's root:

    .venv/bin/python -m benchmarks.hh_reward --peer runs/benchmarks/hh_reward_trl.json

The model is SmolLM2-135M-Instruct, 2,000 comparisons of HH-RLHF harmless are learned, the others held out. With --peer
the result of hh_reward_trl.py is read and both are compared pair by pair. Compared are the losses' common ground: one
pairwise loss, no score normalisation (it changes no order of scores), the same rows, steps, batches, learning rate.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import hh
from benchmarks.measures import accuracy, paired
from benchmarks.output import interval, machine, require, table, write

ROOM_FOR_TEMPLATE = 64  # tokens that the judgement template may add; nothing is left out


def main() -> None:
    options = hh.parser(str(__doc__).splitlines()[0], "runs/benchmarks/hh_reward.json")
    options.add_argument("--peer", type=Path, default=None, help="JSON file of hh_reward_trl.py to compare with")
    options.add_argument("--keep", type=Path, default=None, help="keep the run's directory here")
    chosen = options.parse_args()
    source = require(hh.FILE)
    peer = None if chosen.peer is None else json.loads(chosen.peer.read_text(encoding="utf-8"))
    if peer is not None:
        require_equal(peer["settings"], hh.settings(chosen))
    result = run(chosen, source)
    if peer is not None:
        result["against_trl"] = compared(result, peer)
    print(shown(result, peer))
    write(chosen.output, result)


def run(options: argparse.Namespace, source: Path) -> dict[str, Any]:
    """Prepare, train by the command line, score the held-out pairs: the result as it goes into the file."""
    from clearppo.models.loading import load_tokenizer, resolve_model

    model = resolve_model(options.model, note=print)
    tokenizer = load_tokenizer(model)
    with tempfile.TemporaryDirectory(prefix="hh-") as folder:
        prepared = hh.prepare(
            source,
            Path(folder) / "data",
            lambda text: len(tokenizer(text)["input_ids"]),
            limit=options.max_tokens,
            seed=options.split_seed,
            n_train=options.n_train,
        )
        output = options.keep or Path(folder) / "reward"
        began = time.monotonic()
        command = [sys.executable, "-m", "clearppo.cli", "reward", *flags(options, model, prepared, output)]
        subprocess.run(command, check=True)
        trained = time.monotonic()
        differences = score(output, prepared.held_out)
        ended = time.monotonic()
        report = output / "reward_report.json"
        records = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return {
            "who": "clearppo reward",
            "settings": hh.settings(options),
            "seed": options.seed,
            "micro_batch_size": options.micro_batch_size,
            "bf16": not options.fp32,
            "data": prepared.digest,
            "n_train": prepared.n_train,
            "n_shortened": prepared.n_shortened,
            "n_left_out": prepared.n_left_out,
            "held_out": accuracy(differences),
            "seconds": round(ended - began, 1),
            "command_seconds": round(trained - began, 1),
            "report": json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None,
            "log": records,
            "differences": differences,
            **machine("clearppo"),
        }


def flags(options: argparse.Namespace, model: str, prepared: hh.Prepared, output: Path) -> list[str]:
    """The command line of `clearppo reward`: what both trainers share; all else is ClearPPO's default."""
    given: dict[str, Any] = {
        "model_name_or_path": model,
        "dataset_name": prepared.train,
        "eval_dataset_name": prepared.held_out,
        "max_length": options.max_tokens + ROOM_FOR_TEMPLATE,
        "rm_loss": "pairwise",
        "score_normalisation": "none",
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": options.warmup_steps,
        "max_grad_norm": 1.0,
        "num_train_epochs": options.epochs,
        "max_steps": "none" if options.max_steps is None else options.max_steps,
        "batch_size": options.batch_size,
        "micro_batch_size": 2 * options.micro_batch_size,  # ours counts texts
        "bf16": "false" if options.fp32 else "true",
        "seed": options.seed,
        "output_dir": output,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def score(directory: Path, held_out: Path) -> list[float]:
    """score(chosen) - score(rejected) of each held-out pair in float32, with the directory as anybody loads it."""
    from transformers import AutoModelForSequenceClassification

    from clearppo.data import JudgementTemplate, load_comparisons
    from clearppo.models.loading import load_tokenizer, quiet_transformers

    tokenizer = load_tokenizer(str(directory))
    template = JudgementTemplate.load(directory)
    if template is None:
        raise FileNotFoundError(f"{directory} holds no judgement.json")
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(directory, dtype="float32").eval()
    differences = []
    for comparison in load_comparisons(str(held_out)):
        texts = [template.ids(tokenizer, comparison.prompt, answer) for answer in comparison.answers]
        scores = [_score(model, ids) for ids in texts]
        ((better, worse),) = comparison.pairs
        differences.append(scores[better] - scores[worse])
    return differences


def _score(model: Callable[..., Any], ids: Sequence[int]) -> float:
    """One text at a time: no padding, so nothing depends on where a loader finds the end."""
    import torch

    with torch.no_grad():
        return float(model(input_ids=torch.tensor([list(ids)])).logits[0, 0])


def require_equal(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises ValueError unless both were trained by the same settings."""
    different = [
        f"{name}: theirs {theirs.get(name)}, ours {ours[name]}" for name in ours if theirs.get(name) != ours[name]
    ]
    if different:
        raise ValueError(f"the peer's result has other settings ({'; '.join(different)}). Run both with the same ones.")


def compared(result: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Ours minus theirs on the same pairs, with a sentence that says what it means.

    Raises ValueError if the files behind the two are not the same.
    """
    if peer["data"] != result["data"]:
        raise ValueError(f"the peer learned from other rows ({peer['data']}, ours {result['data']}). Run it again.")
    cell = paired(result["differences"], peer["differences"])
    return {**cell, "verdict": verdict(cell), "peer": {name: peer[name] for name in ("who", "held_out", "versions")}}


def verdict(cell: dict[str, float]) -> str:
    """What the paired interval says."""
    if cell["low"] > 0:
        return "better than TRL: the whole interval is above 0"
    if cell["high"] < 0:
        return "worse than TRL: the whole interval is below 0"
    return "no difference from TRL that so many pairs could show: the interval holds 0"


def shown(result: dict[str, Any], peer: dict[str, Any] | None) -> str:
    """The table and the sentences under it."""
    sides = [result] if peer is None else [result, peer]
    rows = [["", *(side["who"] for side in sides)]]
    rows.append(["held-out accuracy [95 %]", *(interval(side["held_out"], "accuracy") for side in sides)])
    rows.append(["seconds, whole", *(f"{side['seconds']:.0f}" for side in sides)])
    rows.append(["peak memory, MB", *(str(side["peak_memory_mb"]) for side in sides)])
    rows.append(["threads", *(str(side["threads"]) for side in sides)])
    rows.append(["bfloat16 autocast", *("yes" if side["bf16"] else "no" for side in sides)])
    title = f"{result['n_train']} human comparisons learned, {result['held_out']['n']} held out"
    chance = "above chance" if result["held_out"]["low"] > 0.5 else "not distinguishable from chance"
    lines = [table(title, rows), f"Ours is {chance}: its interval begins at {result['held_out']['low']:.3f}."]
    if "against_trl" in result:
        cell = result["against_trl"]
        lines.append(f"Ours - TRL, same pairs: {interval(cell, 'difference', signed=True)}: {cell['verdict']}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
