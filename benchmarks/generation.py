"""Tokens a second of ClearPPO's sampler beside transformers' generate and, where it is installed, vLLM.

    .venv/bin/python -m benchmarks.generation                  # 32 prompts, 64 new tokens each
    .venv/bin/python -m benchmarks.generation --batches 1,8,32
    .venv/bin/python -m benchmarks.generation --ragged         # four prompts for each slot; answers end at a full stop
    .venv/bin/python -m benchmarks.generation --smoke

Each way runs in a process of its own. transformers is measured as it comes and with freed memory kept, as ClearPPO
keeps it, which is kinder to it than its users are. The floor is what the step's matrix products take by themselves.
"""

import argparse
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import RunFailedError, apart, progress
from benchmarks.inputs import DEFAULT_MODEL
from benchmarks.output import table
from benchmarks.ppo_case import gibibytes
from benchmarks.ppo_runs import Measured, closing, models, report

WAYS: dict[str, dict[str, Any]] = {
    "transformers, float32": {"who": "transformers", "dtype": "float32", "keep": False},
    "transformers, float32, memory kept": {"who": "transformers", "dtype": "float32"},
    "transformers, bfloat16": {"who": "transformers", "dtype": "bfloat16", "keep": False},
    "transformers, bfloat16, memory kept": {"who": "transformers", "dtype": "bfloat16"},
    "vLLM, bfloat16": {"who": "vllm", "dtype": "bfloat16", "keep": False},
    "ClearPPO, float32": {"who": "clearppo", "dtype": "float32"},
    "ClearPPO, bfloat16": {"who": "clearppo", "dtype": "bfloat16"},
}
BASE = "transformers, float32"
STOP = "."
PROMPTS_A_SLOT = 4


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Who writes, in which precision, how much. `slots` rows at once (0: all). With `stop` an answer ends at the first
    token whose text holds it; `keep` keeps freed memory as ClearPPO does."""

    who: str
    model: str
    dtype: str
    batch: int = 32
    response_length: int = 64
    prompt_min: int = 16
    prompt_max: int = 32
    slots: int = 0
    stop: str = ""
    repeats: int = 3
    keep: bool = True
    device: str = "auto"
    threads: int = 0


def main() -> None:
    chosen = arguments().parse_args()
    if chosen.smoke:
        chosen.batches, chosen.response_length, chosen.repeats, chosen.threads = "4", 6, 1, 1
    measured = run(chosen)
    report(measured, shown(measured), chosen.output)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default=DEFAULT_MODEL, help="a name or a directory")
    options.add_argument("--batches", default="32", help="numbers of prompts (with --ragged: of slots), with commas")
    options.add_argument("--response_length", type=int, default=64, help="new tokens (with --ragged: at most)")
    options.add_argument("--ragged", action="store_true", help=f"answers end at {STOP!r}; freed slots are filled again")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--device", default="auto")
    options.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves it to torch")
    options.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/generation.json"))
    return options


def run(chosen: argparse.Namespace) -> Measured:
    """Measure every way with every batch, in turn; one that fails is noted, and the others go on."""
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with models(chosen, [chosen.model], []) as made:
        for batch in (int(n) for n in chosen.batches.split(",")):
            for name, writing in writings(chosen, made[chosen.model]["model"], batch):
                progress(f"measuring {name} ...")
                try:
                    results[name] = apart("benchmarks.one_generation", asdict(writing))
                except RunFailedError as error:
                    failed[name] = str(error)
                    progress(str(error))
    return {"results": results, "failed": failed}


def writings(chosen: argparse.Namespace, model: str, batch: int) -> list[tuple[str, Writing]]:
    """All ways that are there, by name."""
    ragged = {"slots": batch, "stop": STOP} if chosen.ragged else {}
    return [
        (
            f"{batch} x {chosen.response_length}, {name}",
            Writing(
                model=model, batch=batch * PROMPTS_A_SLOT if chosen.ragged else batch,
                response_length=chosen.response_length, repeats=chosen.repeats, device=chosen.device,
                threads=chosen.threads, **how, **ragged,
            ),
        )
        for name, how in WAYS.items()
        if how["who"] != "vllm" or importlib.util.find_spec("vllm")
    ]  # fmt: skip


def shown(measured: Measured) -> str:
    """The table, with every way as a multiple of transformers as it comes at the same batch."""
    rows = [["", "tokens/s", f"of {BASE}", "tokens", "step ms", "floor ms", "of floor", "peak GiB"]]
    for name, found in measured["results"].items():
        base = measured["results"].get(f"{name.partition(', ')[0]}, {BASE}")
        step, floor = found["step_ms"], found["floor_ms"]
        rows.append(
            [
                name,
                f"{found['tokens_per_s']:.1f}",
                f"{found['tokens_per_s'] / base['tokens_per_s']:.2f}x" if base else "",
                f"{found['tokens']:.0f}",
                "" if step is None else f"{step:.1f}",
                "" if floor is None else f"{floor:.1f}",
                "" if step is None or not floor else f"{step / floor:.2f}x",
                gibibytes(found["memory"]["peak_mb"]),
            ]
        )
    return "\n\n".join([table("Generation", rows), *closing(measured)])


if __name__ == "__main__":
    main()
