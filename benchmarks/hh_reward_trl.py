"""The peer of hh_reward.py: TRL's RewardTrainer on the same comparisons, model, steps and batches.

Run it from the repository's root in an environment of its own (README.md says how):

    python -m benchmarks.hh_reward_trl --model MODEL_DIR --output runs/benchmarks/hh_reward_trl.json

The trainer is TRL's own, unmodified, in its customary setup: a sequence classifier with one new linear head, the
dialogue as plain text with the end-of-sequence token that TRL adds, AdamW, bfloat16 autocast. Two kindnesses: a padding
token that is not the end of sequence (otherwise transformers reads the score before it), and no gradient checkpointing
(same result, a quarter less time). Needs no ClearPPO.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import hh
from benchmarks.measures import accuracy
from benchmarks.output import interval, machine, require, skip, table, write


def main() -> None:
    options = hh.parser(str(__doc__).splitlines()[0], "runs/benchmarks/hh_reward_trl.json")
    options.add_argument("--pad_token", default="<|endoftext|>", help="'' for the tokenizer's own")
    chosen = options.parse_args()
    source = require(hh.FILE)
    for name, value in {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    try:
        import trl  # noqa: F401
    except ImportError:
        skip("this benchmark needs the package trl in the environment that runs it; benchmarks/README.md says how.")
    result = run(chosen, source)
    rows = [
        ["TRL RewardTrainer", "value"],
        ["held-out accuracy [95 %]", interval(result["held_out"], "accuracy")],
        ["seconds, whole", f"{result['seconds']:.0f}"],
        ["seconds, training", f"{result['training_seconds']:.0f}"],
        ["peak memory, MB", str(result["peak_memory_mb"])],
    ]
    print(table(f"{result['n_train']} human comparisons learned, {result['held_out']['n']} held out", rows))
    write(chosen.output, result)


def run(options: argparse.Namespace, source: Path) -> dict[str, Any]:
    """Prepare, train, score the held-out pairs: the result as it goes into the file."""
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(options.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(options.model)
    if options.pad_token:
        tokenizer.pad_token = options.pad_token
    with tempfile.TemporaryDirectory(prefix="hh-") as folder:
        prepared = hh.prepare(
            source,
            Path(folder) / "data",
            lambda text: len(tokenizer(text)["input_ids"]),
            limit=options.max_tokens,
            seed=options.split_seed,
            n_train=options.n_train,
        )
        began = time.monotonic()
        trainer = make_trainer(options, tokenizer, prepared.train, folder)
        training = time.monotonic()
        trainer.train()
        trained = time.monotonic()
        differences = score(trainer.model, tokenizer, prepared.held_out)
    return {
        "who": "TRL RewardTrainer",
        "settings": hh.settings(options),
        "seed": options.seed,
        "micro_batch_size": options.micro_batch_size,
        "bf16": not options.fp32,
        "pad_token": tokenizer.pad_token,
        "data": prepared.digest,
        "n_train": prepared.n_train,
        "n_shortened": prepared.n_shortened,
        "n_left_out": prepared.n_left_out,
        "steps": trainer.state.global_step,
        "held_out": accuracy(differences),
        "seconds": round(time.monotonic() - began, 1),
        "training_seconds": round(trained - training, 1),
        "log": trainer.state.log_history,
        "differences": differences,
        **machine("trl", "accelerate", "datasets"),
    }


def make_trainer(options: argparse.Namespace, tokenizer: Any, train: Path, folder: str) -> Any:
    """RewardTrainer as its documentation calls it."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    # Loaded here, not by name, so that float32 weights are certain.
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype="float32")
    config = RewardConfig(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=options.micro_batch_size,
        gradient_accumulation_steps=options.batch_size // options.micro_batch_size,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup_steps,
        max_length=options.max_tokens + 8,  # the end-of-sequence token must fit; nothing is left out
        bf16=not options.fp32,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        seed=options.seed,
    )
    return RewardTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def score(model: Any, tokenizer: Any, held_out: Path) -> list[float]:
    """score(chosen) - score(rejected) of each held-out pair, in float32, read as TRL trained it: after its EOS."""
    import torch

    model.eval().float()
    differences = []
    for line in held_out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = [row[name] + tokenizer.eos_token for name in ("chosen", "rejected")]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        with torch.no_grad():
            scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        differences.append(float(scores[0] - scores[1]))
    return differences


if __name__ == "__main__":
    main()
