"""How near `clearppo plan` comes to the peak memory that is measured, over a grid of runs. Run it from the root:

    .venv/bin/python -m benchmarks.plan
    .venv/bin/python -m benchmarks.plan --only "shared; SFT, LoRA"
    .venv/bin/python -m benchmarks.plan --again runs/benchmarks/plan.json     # plan anew, train nothing
    .venv/bin/python -m benchmarks.plan --smoke

Every run is one of a command, in a process of its own: a few iterations with answers of full length, and its final
model. The peak is that of the resident set; on a GPU, of the memory of tensors.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.apart import RunFailedError, apart, progress
from benchmarks.output import in_words, table, write
from clearppo.plan.memory import GIB

BOUND = 0.15
"""How far the planned peak may be from the measured one."""
ROUNDS = 2
Case = tuple[str, dict[str, Any]]
"""The command, and its options beside those of all."""


def ppo(batch: int, length: int, **more: Any) -> Case:
    return "ppo", {"batch_size": batch, "total_episodes": ROUNDS * batch, "response_length": length, **more}


RM, TINY, WIDE = {"reward_model_path": "RM"}, {"model_name_or_path": "TINY"}, {"model_name_or_path": "WIDE"}
CASES: dict[str, Case] = {
    "shared": ppo(16, 48),
    "shared, batch 8, 16 tokens": ppo(8, 16),
    "shared, batch 32, 96 tokens": ppo(32, 96),
    "shared, batch 32, 96 tokens, micro-batches of 8": ppo(32, 96, micro_batch_size=8),
    "shared, batch 32, 96 tokens, one micro-batch": ppo(32, 96, micro_batch_size=32),
    "shared, batch 32, 96 tokens, checkpointing": ppo(32, 96, gradient_checkpointing=True),
    "shared, checkpointing": ppo(16, 48, gradient_checkpointing=True),
    "shared, two mini-batches, two epochs": ppo(16, 48, num_mini_batches=2, num_ppo_epochs=2),
    "shared, float32": ppo(16, 48, bf16=False),
    "shared, bfloat16 weights": ppo(16, 48, dtype="bfloat16"),
    "shared, with an average": ppo(16, 48, ema_decay=0.99),
    "shared, reward model": ppo(16, 48, **RM),
    "shared, reward model, micro-batches of 4": ppo(16, 48, micro_batch_size=4, **RM),
    "separate": ppo(16, 48, critic="separate"),
    "separate, batch 8, 16 tokens": ppo(8, 16, critic="separate"),
    "separate, reward model, micro-batches of 4": ppo(16, 48, critic="separate", micro_batch_size=4, **RM),
    "no critic (RLOO)": ppo(16, 48, advantage_estimator="rloo", num_generations=4),
    "LoRA": ppo(16, 48, use_peft=True),
    "LoRA, batch 32, 96 tokens, one micro-batch": ppo(32, 96, use_peft=True, micro_batch_size=32),
    "LoRA, float32": ppo(16, 48, use_peft=True, bf16=False),
    "LoRA, reward model": ppo(16, 48, use_peft=True, **RM),
    "20 layers frozen": ppo(16, 48, freeze_layers=20),
    "20 layers frozen, LoRA, reward model": ppo(16, 48, freeze_layers=20, use_peft=True, **RM),
    "SFT": ("sft", {"batch_size": 16}),
    "SFT, micro-batches of 4": ("sft", {"batch_size": 16, "micro_batch_size": 4}),
    "SFT, float32": ("sft", {"batch_size": 16, "bf16": False}),
    "SFT, LoRA": ("sft", {"batch_size": 16, "use_peft": True}),
    "reward model": ("reward", {"batch_size": 8}),
    "reward model, LoRA": ("reward", {"batch_size": 8, "use_peft": True}),
    "tiny": ppo(16, 16, **TINY),
    "tiny, separate, batch 64, 96 tokens": ppo(64, 96, critic="separate", micro_batch_size=64, **TINY),
    "tiny, wide": ppo(16, 48, **WIDE),
    "tiny, SFT": ("sft", {"batch_size": 16, **TINY}),
}
SMOKE = ("tiny", "tiny, SFT")


def main() -> None:
    chosen = arguments().parse_args()
    with tempfile.TemporaryDirectory(prefix="clearppo-benchmark-") as folder:
        measured = measure(chosen, Path(folder))
    print(shown(measured))
    write(chosen.output, measured)
    raise SystemExit(1 if measured["failed"] or worst(measured["results"]) > BOUND else 0)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct", help="of all runs but the tiny ones")
    options.add_argument("--only", default=None, help="some of the runs, with ; between them")
    options.add_argument("--device", default="auto")
    options.add_argument("--smoke", action="store_true", help="tiny models only, to see that it runs")
    options.add_argument("--again", type=Path, default=None, help="plan anew what this file has measured, untrained")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/plan.json"))
    return options


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every case; one that fails is noted, and the others go on."""
    known = {} if chosen.again is None else json.loads(chosen.again.read_text(encoding="utf-8"))["results"]
    wanted = [name for name in known if name in CASES] or list(SMOKE if chosen.smoke else CASES)
    if chosen.only is not None:
        wanted = [name.strip() for name in chosen.only.split(";")]
        if unknown := [name for name in wanted if name not in CASES]:
            raise SystemExit(f"{unknown[0]} is none of: {'; '.join(CASES)}.")
    common = inputs(folder, chosen.model, smoke=chosen.smoke)
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in wanted:
        step, own = CASES[name]
        progress(f"{'planning' if known else 'measuring'} {name} ...")
        flags = {"device": chosen.device, "save_steps": 0, **common[step], **_named(own, common["models"])}
        try:
            found = apart("benchmarks.one_plan", {"step": step, "flags": flags, "train": not known})
            results[name] = known.get(name, {}) | found
        except RunFailedError as error:
            failed[name] = str(error)
            progress(str(error))
    return {"results": results, "failed": failed}


def inputs(folder: Path, model: str, *, smoke: bool) -> dict[str, dict[str, Any]]:
    """The options that all runs of a command share, and where models are that are made here."""
    from benchmarks.inputs import save_classifier
    from clearppo.cli.quickstart import packaged
    from clearppo.models.loading import resolve_model
    from tests.tiny import tiny_causal_lm  # run from the repository's root

    (folder / "reward.py").write_text(
        "def score(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n",
        encoding="utf-8",
    )
    demonstrations = [json.loads(line) for line in packaged("demonstrations").read_text(encoding="utf-8").splitlines()]
    compared = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": " ".join(row["completion"].split()[::-1])}
        for row in demonstrations
    ]
    pairs = folder / "comparisons.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in compared), encoding="utf-8")
    models = {
        "TINY": tiny_causal_lm(folder / "tiny", context=512),
        "WIDE": tiny_causal_lm(
            folder / "wide", context=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=12,
            num_attention_heads=4,
        ),
        "RM": str(folder / "reward"),
    }  # fmt: skip
    named = models["TINY"] if smoke else resolve_model(model)
    save_classifier(named, models["RM"])
    steps: dict[str, Any] = {"model_name_or_path": named, "max_steps": ROUNDS + 1}
    return {
        "ppo": {
            "model_name_or_path": named,
            "dataset_name": str(packaged("train")),
            "reward_funcs": f"{folder / 'reward.py'}:score",
            "fixed_length": True,
            "num_ppo_epochs": 1,
            "sample_steps": 0,
        },
        "sft": steps | {"dataset_name": str(packaged("demonstrations"))},
        "reward": steps | {"dataset_name": str(pairs)},
        "models": models,
    }


def _named(options: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """The options with the paths of models in the place of their names here; a reward model takes no function beside
    it."""
    found = {name: models.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    return found | ({"reward_funcs": []} if "reward_model_path" in options else {})


def off(result: Mapping[str, Any]) -> float:
    """By which share of the measured peak the planned one is too large."""
    return result["planned_bytes"] / result["measured_bytes"] - 1


def worst(results: Mapping[str, Any]) -> float:
    """The largest difference of all, up or down."""
    return max((abs(off(result)) for result in results.values()), default=0.0)


def shown(measured: Mapping[str, Any]) -> str:
    """The table, and the worst case."""
    rows = [["", "planned GiB", "measured GiB", "off by", "peak in", "planned s", "measured s"]]
    for name, found in measured["results"].items():
        rows.append(
            [
                name,
                f"{found['planned_bytes'] / GIB:.2f}",
                f"{found['measured_bytes'] / GIB:.2f}",
                f"{off(found):+.1%}",
                found["planned_phase"],
                f"{found['planned_s']:.2g}",
                f"{found['measured_s']:.2g}",
            ]
        )
    largest = worst(measured["results"])
    verdict = f"The worst is off by {largest:.1%}; at most {BOUND:.0%} is allowed: " + (
        "kept." if largest <= BOUND else "NOT kept."
    )
    hosts = [in_words(found["host"]) for found in measured["results"].values()]
    failed = [f"FAILED: {name}\n{why}" for name, why in measured["failed"].items()]
    return "\n\n".join([table("Planned and measured peak memory", rows), verdict, *hosts[:1], *failed])


if __name__ == "__main__":
    main()
