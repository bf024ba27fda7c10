"""What `clearppo plan` says of models from 1 B to 70 B parameters on 1, 8 and 64 GPUs: the tables of docs/scaling.md.

    .venv/bin/python -m benchmarks.layouts            # print them
    .venv/bin/python -m benchmarks.layouts --write    # put them into docs/scaling.md

Nothing is measured or loaded: shapes are those of published configurations, made on torch's device `meta`.
"""

import argparse
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from clearppo.build.plan import plan_run
from clearppo.build.plan_inputs import Inputs, shape_of
from clearppo.config import PPOConfig, load_config
from clearppo.plan.devices import place
from clearppo.plan.memory import GIB, LOADING
from clearppo.plan.result import Plan, duration
from clearppo.plan.shape import Shape

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- made by benchmarks/layouts.py: begin -->", "<!-- end -->"
GPU = "h100"
COUNTS = (1, 8, 64)
LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "1 B": LLAMA | {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "8 B": LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    },
    "32 B": {
        "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
        "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "70 B": LLAMA | {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    },
}  # fmt: skip
"""The shapes of Llama 3.2 1B, Llama 3.1 8B, Qwen2.5 32B and Llama 3.1 70B."""
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "LoRA": ({"use_peft": True, "dtype": "bfloat16"}, False),
    "all weights": ({}, False),
    "four models": ({"critic": "separate"}, True),
}
"""What learns, by name: the options, and whether a reward model of the policy's size is there."""
PROMPT, RESPONSE, BATCH, MICRO, AT_ONCE = 512, 1024, 512, 8, 64
HEADING = ("model", "what learns", "GiB", "GiB at the start", "host GiB", "an iteration", "answers", "options")


def main() -> None:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--write", action="store_true", help="into docs/scaling.md")
    text = tables()
    print(text)
    if options.parse_args().write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_tables(page, text), encoding="utf-8")
        print(f"Written: {PAGE}")


def with_tables(page: str, text: str) -> str:
    """The page with these tables between its two marks."""
    return re.sub(rf"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", lambda _: f"\n{text}\n", page, flags=re.S)


@cache
def shape(name: str) -> Shape:
    """The shape of a model that nobody loads."""
    given = dict(MODELS[name])
    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given)))


def planned(model: str, kind: str, count: int) -> tuple[Plan, dict[str, Any]]:
    """The plan of one row and the options of its own. On one GPU activations are computed again where it fits so."""
    flags, judged = KINDS[kind]
    more: list[dict[str, Any]] = [{}, {"gradient_checkpointing": True}] if count == 1 else [{}]
    plans = []
    for way in more:
        config = load_config(PPOConfig, flags={**common(), **flags, **way})
        inputs = Inputs(
            policy=shape(model),
            judge=shape(model).classifier() if judged else None,
            lengths=[PROMPT],
            rounds=1,
            micro_tokens="auto" if count == 1 else None,
        )
        plans.append((plan_run(config, inputs=inputs, place=place(f"{GPU}:{count}")), flags | way))
    return next((found for found in plans if found[0].fits), plans[-1])


def common() -> dict[str, Any]:
    """The options of all rows."""
    return {
        "model_name_or_path": "MODEL",
        "dataset_name": "PROMPTS",
        "reward_funcs": "reward.py:score",
        "output_dir": "RUN",
        "batch_size": BATCH,
        "micro_batch_size": MICRO,
        "response_length": RESPONSE,
        "generation_batch_size": AT_ONCE,
    }


def row(model: str, kind: str, count: int) -> list[str]:
    """A line of a table."""
    plan, own = planned(model, kind, count)
    start = plan.table.total(LOADING) if LOADING in plan.table.phases else None
    running = plan.table.running
    assert plan.available_bytes is not None
    return [
        model,
        kind,
        _gib(running, plan.available_bytes),
        "" if start is None else _gib(start, plan.available_bytes),
        f"{plan.host_bytes / GIB:,.0f}" if plan.host_bytes else "",
        duration(plan.seconds_per_iteration) if running <= plan.available_bytes else "",
        _answers(plan),
        _options(plan, own),
    ]


def _gib(found: float, room: float) -> str:
    return f"{found / GIB:,.0f}" if found <= room else f"**{found / GIB:,.0f}**"


SAID = ("--sharding none", "--sampler", "--vllm_mode", "--vllm_server_base_url")
"""What stands in the column `answers`."""


def _answers(plan: Plan) -> str:
    apart = next((line.partition(" on GPUs of their own")[0] for line in plan.layout if "of their own (" in line), None)
    return apart or ("vLLM beside each process" if "colocate" in plan.flags else "each process")


def _options(plan: Plan, own: Mapping[str, Any]) -> str:
    given = [f"--{name} {str(value).lower()}" for name, value in own.items()]
    made = [f"--{part.strip()}" for part in plan.flags.split("--") if part.strip()]
    return " ".join(f"`{flag}`" for flag in [*given, *(flag for flag in made if not flag.startswith(SAID))])


def tables() -> str:
    """All tables, as they stand in the page."""
    found = []
    for count in COUNTS:
        lines = [HEADING, ["---"] * len(HEADING)]
        lines += [row(model, kind, count) for model in MODELS for kind in KINDS]
        title = f"### {count} H100" if count == 1 else f"### {count} H100, {count // 8 or 1} machine{'s' * (count > 8)}"
        found.append("\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines), ""]))
    return "\n".join(found)


if __name__ == "__main__":
    main()
