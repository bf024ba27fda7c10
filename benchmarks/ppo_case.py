"""One setting of `clearppo ppo` to be timed, and a line of a table about its result. Standard library only."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.apart import apart
from benchmarks.inputs import n_layers

TWO_THIRDS = "two thirds"
LAYOUTS: dict[str, dict[str, Any]] = {
    "separate": {"critic": "separate"},
    "shared": {"critic": "shared"},
    "frozen": {"critic": "shared", "freeze_layers": TWO_THIRDS},
    "lora": {"critic": "shared", "use_peft": True},
    "lora-frozen": {"critic": "shared", "use_peft": True, "freeze_layers": TWO_THIRDS},
    "trunk": {"critic": "shared", "use_peft": True, "share_trunk": True},
}
"""Where the models live. separate: the peer's mathematics, a critic with a backbone of its own. shared: the critic is a
layer on the policy. frozen: the lower two thirds of its layers do not learn. lora: adapters learn. trunk: adapters, and
the reward model is an adapter on the same trunk."""
PRECISIONS: dict[str, dict[str, Any]] = {
    "auto": {},
    "float32": {"bf16": False},
    "autocast": {"bf16": True},
    "bfloat16": {"dtype": "bfloat16"},
}
"""auto: ClearPPO's default. autocast: bfloat16 arithmetic over float32 weights. bfloat16: the weights themselves."""
PHASES = ("sampling", "feedback", "learning")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed. Lengths in tokens; None leaves an option at ClearPPO's default. `iters` counts a warm-up first.

    `options` are more options of `clearppo ppo`, by name; they win over all others.
    """

    model: str
    reward: str
    layout: str = "shared"
    precision: str = "auto"
    batch: int = 16
    response_length: int = 32
    prompt_min: int = 16
    prompt_max: int = 32
    epochs: int = 1
    minibatches: int = 1
    lora: int = 16
    micro: int | None = None
    budget: int | str | None = None
    gradient_checkpointing: bool = False
    iters: int = 3
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def freeze_layers(self) -> int:
        """How many of the lowest layers do not learn."""
        asked = LAYOUTS[self.layout].get("freeze_layers", 0)
        return round(n_layers(self.model) * 2 / 3) if asked == TWO_THIRDS else int(asked)

    def flags(self, folder: Path) -> dict[str, Any]:
        """The options of `clearppo ppo`: answers of full length, and the peer's numbers wherever it has them."""
        options: dict[str, Any] = {
            "model_name_or_path": self.model,
            "reward_model_path": self.reward,
            "dataset_name": str(folder / "prompts.jsonl"),
            "output_dir": str(folder / "ppo"),
            "batch_size": self.batch,
            "total_episodes": self.batch * self.iters,
            "response_length": self.response_length,
            "fixed_length": True,
            "temperature": 1.0,
            "num_ppo_epochs": self.epochs,
            "num_mini_batches": self.minibatches,
            "kl_coef": 0.05,
            "learning_rate": 3e-6,
            "seed": self.seed,
            "device": self.device,
            "sample_steps": 0,
            **LAYOUTS[self.layout],
            **PRECISIONS[self.precision],
        }
        if "freeze_layers" in options:
            options["freeze_layers"] = self.freeze_layers
        if "use_peft" in options:
            options |= {"lora_r": self.lora, "lora_alpha": 2 * self.lora}
        if self.gradient_checkpointing:
            options["gradient_checkpointing"] = True
        if self.micro is not None:
            options["micro_batch_size"] = self.micro
        if self.budget is not None:
            options["max_tokens_per_microbatch"] = self.budget
        return options | self.options

    def measure(self) -> dict[str, Any]:
        """Run it in a process of its own. Raises RunFailedError."""
        return apart("benchmarks.one_run", asdict(self))


def row(name: str, result: dict[str, Any]) -> list[str]:
    """A line of the table whose heading is HEADING."""
    phases, share = result["phases"], result["learning_share_of_peak"]
    return [
        name,
        seconds(result["total_s"]),
        *(seconds(phases[phase]) for phase in PHASES),
        f"{result['unaccounted_share']:.1%}",
        f"{result['response_tokens_per_s']:.1f}",
        f"{result['generation_tokens_per_s']:.1f}",
        f"{result['flop_per_s']['learning'] / 1e9:.0f}",
        f"{share:.0%}",
        gibibytes(result["memory"]["peak_mb"]),
    ]


HEADING = [
    "", "iteration s", *PHASES, "recording", "tokens/s", "sampled/s", "learning GFLOP/s", "of peak", "peak GiB",
]  # fmt: skip
EXPLAINED = (
    "Medians of the iterations after the first. recording: what is neither a phase nor the sampler's new weights.\n"
    "tokens/s: response tokens over the whole iteration; sampled/s: over the sampler alone. of peak: the learning\n"
    "phase's FLOP/s (benchmarks/flops.py) over those of a square matrix product in the same precision."
)


def seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def gibibytes(mebibytes: float | None) -> str:
    return "" if mebibytes is None else f"{mebibytes / 1024:.2f}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The power of the size that the cost grows with: the least-squares slope of log cost over log size.

    NaN where it cannot be had: fewer than two different sizes, or a cost that is not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        return math.nan
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)
