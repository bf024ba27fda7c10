"""One PPO run, measured from inside: `python -m benchmarks.one_run JSON`, the fields of a Case, run by the others.

It is the run of `clearppo ppo`, built by the same function, with somebody who looks at the clock. Nothing of it is left
out: the self-check comes first, every metric is computed and written, and the result is saved.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops
from benchmarks.apart import argument
from benchmarks.host import host, matrix_peak, peak_mb, resident_mb, wait
from benchmarks.inputs import peer_prompts
from benchmarks.ppo_case import PHASES, Case
from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, load_config
from clearppo.engines.peak import forget_resident_peak
from clearppo.train.listener import Silence, Summary
from clearppo.train.registry import MEMORY
from clearppo.train.run import PPORun


@dataclass
class Lap:
    """One iteration, from one call of the listener to the next: seconds of all, by phase and by part of a phase."""

    total: float
    phases: dict[str, float]
    parts: dict[str, float]
    prompts: list[int]


@dataclass
class Clock(Silence):
    """A listener that takes the time of every iteration, and of methods that it is told to watch."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    laps: list[Lap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    prompts: list[int] = field(default_factory=list)
    _parts: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def started(self, summary: Summary, n_iterations: int) -> None:
        self.notes += summary.notes
        self.facts |= dict(summary.facts)
        self.memory |= {"loaded_mb": resident_mb(), "loading_peak_mb": peak_mb()}
        if forget_resident_peak():
            self.memory["loop_peak_mb"] = 0  # to be measured
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None:
        wait(self.device)
        now = time.perf_counter()
        phases = {name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")}
        self.laps.append(Lap(now - self._last, phases, self._parts, self.prompts))
        self._parts, self._last = {}, now
        # The run measures each of its phases anew, on a GPU the GPU's memory.
        phases = [round(value * 1024) for name, value in metrics.items() if name.startswith(MEMORY)]
        loop = max([peak_mb(), self.memory.get("loop_peak_mb") or 0, *([] if self.device.type == "cuda" else phases)])
        self.memory["peak_mb"] = max(loop, self.memory["loading_peak_mb"] or 0)
        if "loop_peak_mb" in self.memory:
            self.memory["loop_peak_mb"] = loop
        if self.device.type == "cuda":
            self.memory["gpu_peak_mb"] = max([self.memory.get("gpu_peak_mb") or 0, *phases])

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Add the seconds of every call of this method to `part`."""
        object.__setattr__(owner, method, self._timed(getattr(owner, method), part))

    def _timed(self, inner: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                wait(self.device)
                self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - start

        return timed


def measured(case: Case) -> dict[str, Any]:
    """Build the run, train, and put together what was seen. Raises ClearPPOError."""
    if case.threads:
        torch.set_num_threads(case.threads)
    before = resident_mb()
    with tempfile.TemporaryDirectory(prefix="clearppo-run-") as name:
        run, clock = _built(case, Path(name))
        run.train()
    memory = {"imported_mb": before, **clock.memory}
    return {"case": asdict(case), **_timings(clock, case), **_rates(run, clock, case), "memory": memory} | {
        "notes": clock.notes,
        "facts": clock.facts,
        "host": host(),
    }


def _built(case: Case, folder: Path) -> tuple[PPORun, Clock]:
    """The run that `clearppo ppo` would make, on exactly the peer's prompt tokens, and its clock."""
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "The film was"}) + "\n", encoding="utf-8")
    clock = Clock()
    run = build_ppo(load_config(PPOConfig, flags=case.flags(folder)), listener=clock)
    ids = peer_prompts(
        run.tokenizer, batch=case.batch, iters=case.iters, shortest=case.prompt_min, longest=case.prompt_max
    )
    texts = tuple(run.tokenizer.decode(row) for row in ids)
    run = replace(run, prompts=replace(run.prompts, ids=tuple(ids), texts=texts, longest=max(map(len, ids))))
    clock.device = run.policy.device
    clock.watch(run.sampler, "generate", "generate")
    clock.watch(run.sampler, "load", "weights")
    clock.watch(run.reference, "log_probs", "reference")
    if clock.device.type == "cpu":  # on a GPU the waiting would slow the update down
        clock.watch(run.engine, "backward", "backward")
        clock.watch(run.engine, "step", "step")
    _note_lengths(run, clock)
    return run, clock


def _note_lengths(run: PPORun, clock: Clock) -> None:
    inner = run.sampler.generate

    def generate(prompts: Any) -> Any:
        clock.prompts = prompts.mask.sum(dim=1).tolist()
        return inner(prompts)

    object.__setattr__(run.sampler, "generate", generate)


def _timings(clock: Clock, case: Case) -> dict[str, Any]:
    """Medians over the iterations after the first, in seconds."""
    laps = clock.laps[1:]

    def median(of: Callable[[Lap], float]) -> float:
        return statistics.median(of(lap) for lap in laps)

    def known(lap: Lap) -> float:
        return sum(lap.phases.values()) + lap.parts.get("weights", 0.0)

    total, responses = median(lambda lap: lap.total), case.batch * case.response_length
    names = sorted({name for lap in laps for name in lap.parts})
    parts = {name: median(lambda lap, name=name: lap.parts.get(name, 0.0)) for name in names}
    return {
        "total_s": total,
        "phases": {phase: median(lambda lap, phase=phase: lap.phases[phase]) for phase in PHASES},
        "parts": parts,
        "unaccounted_share": median(lambda lap: (lap.total - known(lap)) / lap.total),
        "response_tokens_per_s": responses / total,
        "generation_tokens_per_s": responses / parts["generate"],
        "all_totals_s": [lap.total for lap in laps],
    }


def _rates(run: PPORun, clock: Clock, case: Case) -> dict[str, Any]:
    """FLOPs that an iteration needs, the rates achieved, and what the machine reaches in a plain matrix product."""
    needed = [_needed(run, case, lap.prompts) for lap in clock.laps[1:]]
    laps = clock.laps[1:]
    taken = {
        "learning": [lap.phases["learning"] for lap in laps],
        "generation": [lap.parts["generate"] for lap in laps],
        "reference": [lap.parts.get("reference", math.nan) for lap in laps],
        "iteration": [lap.total for lap in laps],
    }
    rates = {
        name: statistics.median(flop[name] / seconds for flop, seconds in zip(needed, times, strict=True))
        for name, times in taken.items()
    }
    weight = run.policy.actor.causal_lm.get_input_embeddings().weight
    dtype = torch.bfloat16 if run.policy.actor.autocast else weight.dtype
    peak = matrix_peak(dtype, clock.device)
    return {
        "flop": {name: statistics.median(flop[name] for flop in needed) for name in needed[0]},
        "flop_per_s": rates,
        "precision": str(dtype).removeprefix("torch."),
        "autocast": run.policy.actor.autocast,
        "matrix_peak_flop_per_s": peak,
        "learning_share_of_peak": rates["learning"] / peak,
        "prompt_tokens": statistics.median(sum(lap.prompts) for lap in laps),
    }


def _needed(run: PPORun, case: Case, prompts: list[int]) -> dict[str, int]:
    """FLOPs of the parts of one iteration, by the formulas of benchmarks/flops.py."""
    batch = flops.Batch(prompts, case.response_length)
    model = run.policy.actor.causal_lm
    plain = flops.network(model, adapters=False)
    learner = flops.network(model, freeze_layers=case.freeze_layers)
    needed = {
        "generation": flops.generation(plain, batch),
        "reference": flops.scoring(plain, batch, head=True),
        "reward": flops.scoring(plain, batch, head=False),  # the same backbone
        "learning": flops.learning(learner, batch, epochs=case.epochs, head=True),
    }
    if case.layout == "separate":
        critic = flops.network(run.policy.critic.classifier)
        needed["learning"] += flops.learning(critic, batch, epochs=case.epochs, head=False)
    return needed | {"iteration": sum(needed.values())}


if __name__ == "__main__":
    print(json.dumps(measured(Case(**argument()))))
