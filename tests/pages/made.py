"""Makes run directories without training, in a second and without torch, for pages and their tests to look at.

python -m tests.pages.made DIR            ppo-a, ppo-b, rloo, sft, reward, pipeline/{sft,reward,ppo}
python -m tests.pages.made DIR --large    large too: one iteration of 10,000 answers of 512 tokens
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.config.dump import dump_config
from clearppo.config.load import load_config
from clearppo.record.schema import prompt_id
from tests.pages import numbers
from tests.pages.numbers import Numbers, Spec
from tests.pages.record import as_number, write_record
from tests.pages.words import PROMPTS, answer

A = Spec(seed=1)
B = Spec(
    seed=2, n_steps=12, kl_coef=0.1, kl_estimator="k3", gamma=0.99, lam=0.9, num_ppo_epochs=3, num_mini_batches=1,
    whiten_advantages=False, score_scaling="running", score_clip=2.0, missing_eos_penalty=0.5, exact=True,
    sources=("helpful", "brief"), dropped=((1, 5), (6, 5), (6, 9), (12, 5)), stopped_early=(9,), cliprange_value=None,
)  # fmt: skip
RLOO = Spec(
    seed=3, n_steps=4, advantage_estimator="rloo", num_generations=4, gamma=1.0, whiten_rewards=True, vf_coef=0.0,
    cliprange_value=None,
)  # fmt: skip
LARGE = Spec(seed=4, n_steps=1, batch_size=10_000, response_length=512, likely_end=0.0)
SKIPPED = {"ppo-b": 7}
"""Iterations that could not be learned from, which have no record."""
ALARMS: dict[str, list[dict[str, Any]]] = {
    "ppo-b": [
        {
            "step": 4, "alarm": "reward_jump", "state": "on", "metric": "rewards/helpful/mean", "value": 0.9,
            "limit": 0.7, "start": 0.2, "source": "helpful", "sentence": "the mean of helpful jumped to <b>0.9</b>",
            "advice": "Look whether it is still the same server.", "action": "note",
        },
        {
            "step": 8, "alarm": "kl_runaway", "state": "on", "metric": "objective/kl", "value": 1.4, "limit": 1.2,
            "start": 0.1, "source": None, "sentence": "the policy is 1.4 nats an answer away from its reference",
            "advice": "Raise --kl_coef.", "action": "checkpoint",
        },
        {
            "step": 9, "alarm": "reward_jump", "state": "off", "metric": "rewards/helpful/mean", "value": 0.3,
            "limit": 0.7, "start": 0.2, "source": "helpful", "sentence": "back to 0.3", "advice": "", "action": "note",
        },
    ]
}  # fmt: skip
"""Rows of alarms.jsonl by run: one alarm that is over, and one that is on to the end."""
EVALUATED = (0, 4, 8, 12)
FLAGS = (
    "kl_coef", "kl_estimator", "gamma", "lam", "cliprange", "cliprange_value", "vf_coef", "num_ppo_epochs",
    "num_mini_batches", "learning_rate", "whiten_advantages", "whiten_rewards", "score_scaling", "score_clip",
    "missing_eos_penalty", "batch_size", "response_length", "num_generations", "advantage_estimator",
)  # fmt: skip
OF_A_CRITIC = ("cliprange_value", "vf_coef", "lam", "gamma")


# ---------------------------------------------------------------- files


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---------------------------------------------------------------- PPO


def make_ppo(directory: Path, spec: Spec, *, steps: int | None = None, evaluated: bool = False) -> None:
    """A run of `spec`; finished if all its iterations are there and it is not among those that were stopped."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(ppo_config(directory, spec), encoding="utf-8")
    (directory / "README.md").write_text(f"# {directory.name}\n\nA made run.\n", encoding="utf-8")
    steps = spec.n_steps if steps is None else steps
    if evaluated:
        add_evaluation(directory, spec, 0)
    for step in range(1, steps + 1):
        if SKIPPED.get(directory.name) == step:
            skip_iteration(directory, spec, step)
        else:
            add_iteration(directory, spec, step)
        if evaluated and step in EVALUATED:
            add_evaluation(directory, spec, step)
    if steps == spec.n_steps and directory.name != "ppo-b":
        write_json(directory / "finished.json", {"rounds": steps})
        write_json(directory / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
        (directory / "model.safetensors").write_bytes(b"made")
    if alarms := [row for row in ALARMS.get(directory.name, []) if row["step"] <= steps]:
        append_rows(directory / "alarms.jsonl", alarms)
    if evaluated:
        write_json(
            directory / "plan.json",
            {"peak_bytes": 3 * 2**30, "peak_phase": "learning", "seconds_per_iteration": 5.0, "total_seconds": 60.0},
        )
        mark = {"step": 8, "metric": "eval/score", "value": evaluation(spec, 8)[1]["eval/score"]}
        write_json(directory / "best.json", {"best": [mark]})


def ppo_config(directory: Path, spec: Spec) -> str:
    flags: dict[str, Any] = {
        name: value
        for name in FLAGS
        if (value := getattr(spec, name)) is not None
        and not (spec.advantage_estimator != "gae" and name in OF_A_CRITIC)
    }
    flags |= {
        "model_name_or_path": "models/sft",
        "dataset_name": "data/prompts.jsonl",
        "total_episodes": spec.n_steps * spec.batch_size,
        "micro_batch_size": 16,
        "output_dir": str(directory),
        "sample_steps": 10,
    }
    if len(spec.sources) > 1:
        flags["reward_funcs"] = [f"rewards.py:{name}" for name in spec.sources]
    else:
        flags["reward_model_path"] = "models/reward"
    return dump_config(load_config(PPOConfig, flags=flags))


def add_iteration(directory: Path, spec: Spec, step: int) -> Numbers:
    """What a run leaves of one more iteration: metrics, timings, answers, the record."""
    made = numbers.iteration(spec, step)
    append_rows(directory / "metrics.jsonl", [{"step": step, **metrics(made)}])
    append_rows(directory / "timings.jsonl", [{"step": step, **timings(made)}])
    if step == 1 or step % 10 == 0:
        append_rows(directory / "samples.jsonl", samples(made))
    write_record(directory, made, learning_rate=metrics(made)["lr"])
    return made


def prompt_ids() -> list[str]:
    """The ids of PROMPTS."""
    return [prompt_id(prompt) for prompt in PROMPTS]


def skip_iteration(directory: Path, spec: Spec, step: int) -> None:
    row = {"step": step, "episode": float(step * spec.batch_size), "faults/skipped_steps": float(spec.num_ppo_epochs)}
    append_rows(directory / "metrics.jsonl", [row])
    append_rows(directory / "timings.jsonl", [{"step": step}])


def metrics(made: Numbers) -> dict[str, float]:
    """The numbers of train/metrics.py that follow from what was made."""
    spec, step, mask = made.spec, made.step, made.mask
    n = len(made.answers)
    scored = made.scores[made.learned]
    kl, entropy = float(made.kl.sum()) / n, float(-made.old_log_probs.sum()) / n
    cells = mask & made.learned[:, None]
    read = ~np.isnan(made.ratios) & cells
    ratios = made.ratios[read].astype(np.float64)
    returns, values = made.returns[cells].astype(np.float64), made.values[cells].astype(np.float64)
    policy_loss = float((-np.broadcast_to(made.advantages, read.shape)[read] * ratios).mean())
    row = {
        "episode": float(step * n),
        "objective/scores": float(scored.mean()),
        "objective/raw_scores": float(made.raw_scores[made.learned].mean()),
        "reward_std": float(scored.std()),
        "objective/kl": kl,
        "objective/kl_coef": spec.kl_coef,
        "objective/entropy": entropy,
        "objective/non_score_reward": -spec.kl_coef * kl,
        "objective/rlhf_reward": float(scored.mean()) - spec.kl_coef * kl,
        "loss/policy_avg": policy_loss,
        "policy/approxkl_avg": float((np.log(ratios) ** 2 / 2).mean()),
        "policy/clipfrac_avg": float(made.clipped[read].mean()),
        "policy/entropy_avg": 1.8 - 0.02 * step,
        "policy/grad_norm": 3.5 - 0.1 * step,
        "policy/early_stop": float(step in spec.stopped_early),
        "faults/skipped_steps": 0.0,
        "val/ratio": float(ratios.mean()),
        "val/ratio_var": float(ratios.var()),
        "returns/mean": float(returns.mean()),
        "returns/var": float(returns.var()),
        "completions/mean_length": float(mask.sum()) / n,
        "completions/clipped_ratio": sum(a.finish_reason == "length" for a in made.answers) / n,
        "val/num_eos_tokens": float(sum(a.finish_reason == "stop" for a in made.answers)),
        "sampling/log_prob_difference": float(np.abs(made.sampler_log_probs - made.old_log_probs)[cells].mean()),
        "lr": spec.learning_rate * (1 - (step - 1) / max(spec.n_steps, 12)),
    }
    if not made.learned.all():
        row["rewards/dropped"] = float((~made.learned).sum())
    if spec.vf_coef:
        error = float(((values - returns) ** 2).mean())
        row |= {"loss/value_avg": error / 2, "val/error": error, "val/mean": float(values.mean())}
        row["critic/vf_explained_var"] = 1 - error / float(returns.var())
        if spec.cliprange_value is not None:
            row["val/clipfrac_avg"] = max(0.0, 0.06 - 0.005 * step)
    for name, part in made.parts.items():
        row[f"rewards/{name}/mean"] = float(np.nanmean(part))
        row[f"rewards/{name}/std"] = float(np.nanstd(part))
    return row


def timings(made: Numbers) -> dict[str, float]:
    seconds = {"time/sampling": 2.0 + 0.03 * made.step, "time/feedback": 0.8, "time/learning": 2.5}
    total = sum(seconds.values())
    memory = {"memory/sampling": 2.1, "memory/feedback": 1.9, "memory/learning": 3.2 + 0.01 * made.step}
    return {"eps": len(made.answers) / total, "tokens_per_second": float(made.mask.sum()) / total, **seconds, **memory}


def samples(made: Numbers) -> list[dict[str, Any]]:
    return [
        {
            "step": made.step,
            "prompt": made.prompts[i],
            "completion": one.text,
            "score": as_number(made.scores[i]),
            "kl": float(made.kl[i].sum()),
            "finish_reason": one.finish_reason,
        }
        for i, one in enumerate(made.answers)
    ]


def evaluation(spec: Spec, step: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The answers to held-out prompts after `step`, and the numbers of the evaluation."""
    rng = np.random.default_rng([spec.seed, 1000 + step])
    progress = step / spec.n_steps
    rows: list[dict[str, Any]] = []
    for prompt in [*PROMPTS[:6], "A prompt that only the evaluation has", PROMPTS[12]]:
        one = answer(rng, good=0.35 + 0.5 * progress, longest=spec.response_length)
        score, witness = one.mood * 1.2 + float(rng.normal(0.1, 0.2)), one.mood * 0.6
        won = None if step == 0 else float(score > 0.2)
        kl = 5.0 * progress + float(rng.exponential(0.2)) * progress
        rows.append(
            {
                "step": step, "prompt": prompt, "completion": one.text, "score": score, "rewards": {"witness": witness},
                "won": won, "kl": kl, "length": len(one.ids), "finish_reason": one.finish_reason,
            }
        )  # fmt: skip
    row = {
        "eval/score": sum(r["score"] for r in rows) / len(rows),
        "eval/kl": sum(r["kl"] for r in rows) / len(rows),
        "eval/length": sum(r["length"] for r in rows) / len(rows),
        "eval/clipped_ratio": sum(r["finish_reason"] == "length" for r in rows) / len(rows),
        "eval/repetition": 0.01 * progress,
        "eval/rewards/witness": sum(r["rewards"]["witness"] for r in rows) / len(rows),
    }
    if step:
        row["eval/win_rate"] = sum(r["won"] for r in rows) / len(rows)
    return rows, row


def add_evaluation(directory: Path, spec: Spec, step: int) -> None:
    rows, row = evaluation(spec, step)
    append_rows(directory / "evaluation" / f"step-{step}.jsonl", rows)
    append_rows(directory / "metrics.jsonl", [{"step": step, **row}])


# ---------------------------------------------------------------- the other steps


def make_sft(directory: Path) -> None:
    flags = {"model_name_or_path": "smollm2-135m-instruct", "dataset_name": "demos.jsonl", "output_dir": str(directory)}
    rows = [
        {"step": i, "loss": 2.5 + 1.4 * 0.88**i, "epoch": i / 12, "lr": 5e-5 * (1 - i / 25), "grad_norm": 7 - 0.15 * i,
         "faults/skipped_steps": 0.0}
        for i in range(1, 25)
    ]  # fmt: skip
    for i in (12, 24):
        loss = 3.1 + 0.9 * 0.9**i
        rows[i - 1] |= {"eval/loss": loss, "eval/perplexity": math.exp(loss)}
    _make_step(directory, dump_config(load_config(SFTConfig, flags=flags)), rows)


def make_reward(directory: Path) -> None:
    flags = {"model_name_or_path": "models/sft", "dataset_name": "comparisons.jsonl", "output_dir": str(directory)}
    rows = [
        {"step": i, "loss": 0.28 + 0.42 * 0.9**i, "accuracy": 0.86 - 0.34 * 0.85**i, "margin": 2.6 - 2.5 * 0.88**i,
         "score/mean": 0.3 - 0.9 * 0.8**i, "score/std": 2.8 - 2.5 * 0.9**i, "epoch": i / 14,
         "lr": 5e-5 * (1 - i / 29), "faults/skipped_steps": 0.0, "grad_norm": 2.5 + 0.4 * math.sin(i)}
        for i in range(1, 29)
    ]  # fmt: skip
    for i in (14, 28):
        rows[i - 1] |= {"eval/loss": 0.47, "eval/accuracy": 0.74 + 0.0013 * i, "eval/margin": 2.3}
    _make_step(directory, dump_config(load_config(RewardModelConfig, flags=flags)), rows)
    write_json(directory / "reward_report.json", reward_report())


def reward_report() -> dict[str, Any]:
    """A report of a real run, as train/reward_report.py writes it."""
    return json.loads((Path(__file__).parent / "reward_report.json").read_text(encoding="utf-8"))


def _make_step(directory: Path, config: str, rows: list[dict[str, float]]) -> None:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(config, encoding="utf-8")
    append_rows(directory / "metrics.jsonl", rows)
    times = [{"step": i, "tokens_per_second": 240.0, "time/learning": 2.4} for i in range(1, len(rows) + 1)]
    append_rows(directory / "timings.jsonl", times)
    write_json(directory / "finished.json", {"rounds": len(rows)})
    write_json(directory / "config.json", {"model_type": "llama"})
    (directory / "model.safetensors").write_bytes(b"made")


def make_pipeline(directory: Path) -> None:
    """What `clearppo quickstart` leaves: the steps and evaluation.json."""
    make_sft(directory / "sft")
    make_reward(directory / "reward")
    make_ppo(directory / "ppo", A)
    measures = {"reward model": (-0.12, 1.4), "VADER": (0.22, 0.76), "TextBlob": (0.21, 0.57)}
    half = {"half_interval_95": 0.08}
    rng = np.random.default_rng(5)
    texts = [(prompt, answer(rng, good=0.3, longest=24), answer(rng, good=0.95, longest=24)) for prompt in PROMPTS]
    write_json(
        directory / "evaluation.json",
        {
            "measures": {
                name: {
                    "before": {"mean": before, **half},
                    "after": {"mean": after, **half},
                    "change": {"mean": after - before, **half},
                }
                for name, (before, after) in measures.items()
            },
            "win_rate": {"mean": 0.86, "half_interval_95": 0.05},
            "kl_nats": {"mean": 4.95, "half_interval_95": 0.53},
            "repetition": {"before": 0.0, "after": 0.0019},
            "mean_length": {"before": 13.9, "after": 16.4},
            "reward_model": reward_report(),
            "verdict": "The policy improved in truth, as far as VADER and TextBlob can tell, which took no part in "
            "training.",
            "prompts": len(texts),
            "answers": len(texts),
            "samples": [
                {
                    "prompt": prompt,
                    "before": before.text,
                    "after": after.text,
                    "scores_before": dict.fromkeys(measures, before.mood),
                    "scores_after": dict.fromkeys(measures, after.mood),
                }
                for prompt, before, after in texts
            ],
        },
    )
    write_json(directory / "pipeline.json", {"version": 1, "steps": {}})


def make(directory: Path, *, large: bool = False) -> None:
    """All of it. Runs that are there already are made again."""
    runs = {
        "ppo-a": lambda path: make_ppo(path, A, evaluated=True),
        "ppo-b": lambda path: make_ppo(path, B, steps=11),
        "rloo": lambda path: make_ppo(path, RLOO),
        "sft": make_sft,
        "reward": make_reward,
        "pipeline": make_pipeline,
    }
    if large:
        runs["large"] = lambda path: make_ppo(path, LARGE)
    for name, make_run in runs.items():
        shutil.rmtree(directory / name, ignore_errors=True)
        make_run(directory / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make run directories without training.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--large", action="store_true", help="one iteration of 10,000 answers of 512 tokens too")
    args = parser.parse_args()
    make(args.directory, large=args.large)
