"""Healthy runs and sick ones: what the alarms and doctor say of each. Run it from the root (an hour on two cores):

    .venv/bin/python -m benchmarks.alarms
    .venv/bin/python -m benchmarks.alarms --again runs/benchmarks/alarms     # the rules of now, nothing is trained

The quickstart's model, data and reward model, made in its own way first. Then five healthy runs, each of another kind,
and five with a planted fault that shows in their numbers; doctor looks at every one before it starts. `--keep` has
what is needed to try other rules: each run's metrics and config, and doctor's findings.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.apart import progress
from benchmarks.output import machine, table, write

ROOT = Path(__file__).resolve().parents[1]
FALSE_ALARMS = 1
"""So many in all healthy runs together are allowed."""
RESPONSE = 20
CONSTANT = "def score(prompts, completions, **columns):\n    return [0.5] * len(completions)\n"
NEVER_SAID = "<file_sep>"
"""A special token of the default model that its answers never have."""
VADER, TEXTBLOB = (f"clearppo.feedback.sentiment:{name}" for name in ("vader", "textblob"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run: what differs from the others. `rings`: one of these alarms must; none: it is healthy, and none may.
    `found`: what doctor must not find ok. Values in braces are paths that are made first."""

    options: dict[str, Any]
    recipe: str = "quickstart"
    batch: int = 16
    iterations: int = 30
    rings: tuple[str, ...] = ()
    found: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.rings


OF_REWARD_MODEL = {"reward_model_path": "{reward}"}
OF_VADER = {"reward_funcs": VADER}
CASES = {
    "shared critic": Case(options=OF_REWARD_MODEL, batch=32, iterations=25),
    "separate critic": Case(options={**OF_VADER, "critic": "separate", "critic_learning_rate": 1e-4}),
    "LoRA": Case(options={**OF_REWARD_MODEL, "use_peft": True, "learning_rate": 3e-4}),
    "RLOO": Case(options={**OF_VADER, "advantage_estimator": "rloo", "num_generations": 4}),
    "InstructGPT": Case(
        recipe="instructgpt",
        options={
            **OF_REWARD_MODEL, "value_model_path": "{reward}", "num_mini_batches": 2, "learning_rate": 1e-5,
            "critic_learning_rate": 5e-5, "ptx_dataset_name": "{demonstrations}", "ptx_batch_ratio": 1, "ptx_coef": 1,
            "ema_decay": "none", "max_prompt_length": "none",
        },
    ),
    "learning rate x100": Case(
        options={**OF_REWARD_MODEL, "learning_rate": 4e-3},
        iterations=15,
        rings=("kl_runaway", "clipping_saturated", "gradient_spike"),
    ),
    "KL coefficient x0.001": Case(
        options={**OF_REWARD_MODEL, "kl_coef": 5e-5}, iterations=60, rings=("kl_runaway",), found=("kl_against_reward",)
    ),
    "constant reward": Case(
        options={"reward_funcs": "{constant}:score"}, iterations=5, rings=("reward_constant",), found=("reward_spread",)
    ),
    "EOS never sampled": Case(
        options={**OF_REWARD_MODEL, "model_name_or_path": "{endless}"},
        batch=32,
        iterations=12,
        rings=("never_ending",),
        found=("eos",),
    ),
    "broken value head": Case(
        options={
            **OF_REWARD_MODEL, "critic": "separate", "value_model_path": "{spoilt}", "critic_learning_rate": 1e-7
        },
        iterations=20,
        rings=("critic_useless",),
        found=("critic_start",),
    ),
}  # fmt: skip


@dataclass
class Seen:
    """What was said of one run: alarms as name@iteration, doctor's checks that were not ok, by verdict."""

    iterations: int
    alarms: list[str]
    looks: list[str]
    stops: list[str]
    said: list[str] = field(default_factory=list)


def main() -> None:
    chosen = arguments().parse_args()
    names = [name.strip() for name in chosen.only.split(",")] if chosen.only else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise SystemExit(f"{unknown[0]} is none of {', '.join(CASES)}.")
    place = chosen.again or chosen.keep
    if chosen.again is None:
        made = prepared(place / "made", chosen.model, chosen.device)
        for name in names:
            run(name, place / name, made, chosen)
    there = [name for name in names if (place / name / "run" / "metrics.jsonl").is_file()]
    if not there:
        raise SystemExit(f"{place} has no runs of this benchmark: there is no NAME/run/metrics.jsonl in it.")
    result = judged({name: seen(place / name) for name in there})
    print(shown(result))
    settings = {name: str(value) for name, value in vars(chosen).items() if name != "output"}
    write(chosen.output, {**result, "settings": settings, "machine": machine()})
    raise SystemExit(not result["kept"])


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--device", default="auto")
    options.add_argument("--iterations", type=int, help="of every run, to see that it runs")
    options.add_argument("--only", help=f"some of the runs, with commas between them: {', '.join(CASES)}")
    options.add_argument("--keep", type=Path, default=Path("runs/benchmarks/alarms"), help="what is kept of the runs")
    options.add_argument("--again", type=Path, help="read a folder of --keep instead of training")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/alarms.json"))
    return options


def prepared(place: Path, model: str, device: str) -> dict[str, str]:
    """The fine-tuned model, the reward model, and what faults are planted with; made where they are not there yet."""
    from clearppo.cli.quickstart import packaged

    place.mkdir(parents=True, exist_ok=True)
    sft, prefs, reward = place / "sft", place / "prefs.jsonl", place / "reward"
    common = {"recipe": "quickstart", "device": device}
    made = {"sft": sft, "reward": reward, "endless": place / "endless", "spoilt": place / "spoilt"}
    if not (sft / "model.safetensors").exists():
        data = packaged("demonstrations")
        clearppo("sft", {**common, "model_name_or_path": model, "dataset_name": data, "output_dir": sft})
    if not prefs.exists():
        given = {"model_name_or_path": sft, "dataset_name": packaged("train"), "labeller": VADER}
        clearppo("prefs", {**common, **given, "output_file": prefs})
    if not (reward / "model.safetensors").exists():
        clearppo("reward", {**common, "model_name_or_path": sft, "dataset_name": prefs, "output_dir": reward})
    if not made["endless"].exists():
        never_ends(sft, made["endless"])
    if not made["spoilt"].exists():
        value_head_times(reward, made["spoilt"], 100.0)
    (place / "constant.py").write_text(CONSTANT, encoding="utf-8")
    also = {"constant": place / "constant.py", "demonstrations": packaged("demonstrations")}
    return {name: str(path) for name, path in (made | also).items()}


def never_ends(model: Path, into: Path) -> None:
    """The same weights, and a tokenizer whose end-of-text token the model has never learned to say."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, weights = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    words.add_special_tokens({"eos_token": NEVER_SAID})
    weights.config.eos_token_id = weights.generation_config.eos_token_id = words.eos_token_id
    words.save_pretrained(into)
    weights.save_pretrained(into)


def value_head_times(model: Path, into: Path, factor: float) -> None:
    """The same model, whose head gives so many times the score."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    weights = AutoModelForSequenceClassification.from_pretrained(model)
    with torch.no_grad():
        weights.score.weight *= factor
    AutoTokenizer.from_pretrained(model).save_pretrained(into)
    weights.save_pretrained(into)


def run(name: str, place: Path, made: dict[str, str], chosen: argparse.Namespace) -> None:
    """Doctor, then the run; what is there already is kept. Of the run all stays but the weights."""
    from clearppo.cli.quickstart import packaged

    case = CASES[name]
    place.mkdir(parents=True, exist_ok=True)
    iterations = chosen.iterations or case.iterations
    options = {
        "recipe": case.recipe, "model_name_or_path": made["sft"], "dataset_name": packaged("train"),
        "output_dir": place / "run", "device": chosen.device, "save_steps": 0,
        "sample_steps": 0, "response_length": RESPONSE, "batch_size": case.batch,
        "total_episodes": case.batch * iterations, "eval_steps": 5, "eval_dataset_name": packaged("heldout"),
        "eval_num_prompts": 32, "eval_reward_funcs": TEXTBLOB,
    }  # fmt: skip
    options |= {option: str(value).format(**made) for option, value in case.options.items()}
    if not (place / "doctor.json").exists():
        progress(f"{name}: doctor")
        clearppo("doctor", {**options, "json": place / "doctor.json"}, allowed=(0, 1))
    if not (place / "run" / "finished.json").exists():
        progress(f"{name}: {iterations} iterations")
        clearppo("ppo", options)
    for weights in (place / "run").rglob("*.safetensors"):
        weights.unlink()


def clearppo(command: str, options: dict[str, Any], *, allowed: Sequence[int] = (0,)) -> None:
    """Run a command in a process of its own. Ends the program with its last words if it fails."""
    given = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "clearppo.cli", command, *words], cwd=ROOT, text=True, capture_output=True, check=False
    )
    if done.returncode not in allowed:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        raise SystemExit(f"clearppo {command} failed with exit code {done.returncode}:\n{last}")


def seen(place: Path) -> Seen:
    """What the rules of now say of a run's metrics, and doctor's findings as they were written."""
    from clearppo.alarms import replayed
    from clearppo.config import PPOConfig, load_config
    from clearppo.train.alarms import facts_of

    by_step: dict[int, dict[str, float]] = {}
    for line in (place / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_step.setdefault(int(row.pop("step")), {}).update(row)
    rows = [by_step[step] for step in sorted(by_step) if step > 0]
    held_out = len((place / "run" / "evaluation" / "step-0.jsonl").read_text(encoding="utf-8").splitlines())
    config = load_config(PPOConfig, config_path=place / "run" / "config.yaml")
    began = [event for event in replayed(rows, facts_of(config, held_out=held_out)) if event.state == "on"]
    file = place / "doctor.json"
    findings = json.loads(file.read_text(encoding="utf-8"))["findings"] if file.exists() else []
    return Seen(
        iterations=len(rows),
        alarms=[f"{event.alarm}@{event.step}" for event in began],
        looks=[finding["name"] for finding in findings if finding["verdict"] == "look"],
        stops=[finding["name"] for finding in findings if finding["verdict"] == "stop"],
        said=[event.sentence for event in began],
    )


def judged(runs: dict[str, Seen]) -> dict[str, Any]:
    """What is true of all runs together: false alarms and stops of the healthy ones, faults that nobody found."""
    healthy = [run for name, run in runs.items() if CASES[name].healthy]
    missed = {name: missing for name, run in runs.items() if (missing := _missing(CASES[name], run))}
    iterations = sum(run.iterations for run in healthy)
    false = sum(len(run.alarms) for run in healthy)
    stops = sum(len(run.stops) for run in healthy)
    return {
        "runs": {name: vars(run) for name, run in runs.items()},
        "healthy_iterations": iterations,
        "false_alarms": false,
        "most_per_1000": 1000 * poisson_upper(false) / iterations if iterations else math.inf,
        "false_stops": stops,
        "missed": missed,
        "kept": false <= FALSE_ALARMS and stops == 0 and not missed,
    }


def _missing(case: Case, run: Seen) -> list[str]:
    rung = {alarm.split("@")[0] for alarm in run.alarms}
    alarm = [] if case.healthy or rung & set(case.rings) else [" or ".join(case.rings)]
    return alarm + [check for check in case.found if check not in run.looks + run.stops]


def poisson_upper(n: int, level: float = 0.95) -> float:
    """The largest mean of a Poisson variable under which `n` or fewer still have a chance of 1 - level."""
    low, high = 0.0, 10.0 + 3 * n
    while high - low > 1e-9:
        mean = (low + high) / 2
        chance = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(n + 1))
        low, high = (mean, high) if chance > 1 - level else (low, mean)
    return low


def shown(result: dict[str, Any]) -> str:
    """The table, and the three sentences that count."""
    rows = [["run", "planted", "iterations", "alarms", "doctor: stop", "doctor: look", ""]]
    for name, run in result["runs"].items():
        case = CASES[name]
        wrong = name in result["missed"] or (case.healthy and (run["alarms"] or run["stops"]))
        lists = [", ".join(run[part]) or "-" for part in ("alarms", "stops", "looks")]
        rows.append([name, "no" if case.healthy else "yes", str(run["iterations"]), *lists, "NO" if wrong else "ok"])
    said = [f"{name}: {words}" for name, run in result["runs"].items() for words in run["said"]]
    closing = [
        f"Healthy: {result['false_alarms']} false alarms in {result['healthy_iterations']} iterations "
        f"(at 95 % at most {result['most_per_1000']:.1f} in 1,000), {result['false_stops']} stops.",
        *(f"Not found in {name}: {', '.join(missing)}." for name, missing in result["missed"].items()),
        f"At most {FALSE_ALARMS} false alarm, no stop, every fault found: {'kept' if result['kept'] else 'NOT kept'}.",
    ]
    return "\n\n".join([table("Alarms and doctor", rows), "\n".join(said), "\n".join(closing)])


if __name__ == "__main__":
    main()
