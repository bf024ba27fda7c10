"""Files of the record, made by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from clearppo.record.schema import prompt_cell, prompt_id, schema
from clearppo.record.store import write_iteration

META: dict[str, Any] = {
    "n_answers": 150, "n_tokens": 360, "temperature": 0.7, "policy_version": 2, "kl_coef": 0.05, "kl_estimator": "k1",
    "score_scaling": None, "score_clip": None, "missing_eos_penalty": 1.0, "missing_eos_score": None,
    "whiten_rewards": None, "estimator": "gae", "group_size": 1, "gamma": 1.0, "lam": 0.95, "critic_lam": None,
    "whiten_advantages": {"shift": -0.5, "scale": 2.0}, "critic_only": False, "learning_rate": 1e-5, "epochs": 2,
    "num_mini_batches": 1, "objective": {"clip": 0.2, "vf_coef": 0.1}, "first_is_old": False,
}  # fmt: skip
SCORES = (0.5, None, -1.0, 0.5, 2.0)


def row(number: int, **changed: Any) -> dict[str, Any]:
    """An answer of three tokens; its score repeats every five rows, and every fifth has none."""
    prompt = changed.pop("prompt", f"Question {number // 2}?")
    score = SCORES[number % 5]
    learned = score is not None
    tokens = [0.25 * number, 0.5, -1.0]
    return {
        "row": number,
        "prompt_id": prompt_id(prompt),
        "prompt": prompt_cell(prompt),
        "completion": f"Answer {number}",
        "finish_reason": "length" if number % 3 == 0 else "stop",
        "score": score,
        "raw_score": score,
        "parts": {"length": score, "taste": 1.0 - number if learned else None},
        "length": 3,
        "kl": 0.1 * number,
        "reward": 1.0,
        "advantage": 0.5 if learned else None,
        "learned": learned,
        "token_ids": [number, 1, 2],
        "tokens": ["An", "swer ", str(number)],
        "log_probs": tokens,
        "sampler_log_probs": tokens,
        "ref_log_probs": tokens,
        "kls": [0.0, None, 0.5],
        "rewards": tokens,
        "values": tokens,
        "returns": tokens if learned else None,
        "advantages": tokens if learned else None,
        "ratios": [[1.0, 1.0, 1.0], None],
        "prompt_ids": [7, 8],
        **changed,
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema(["length", "taste"]))


def made(run_dir: Path, step: int = 3, n: int = 150, **meta: Any) -> Path:
    """An iteration of n answers below a run's directory."""
    write_iteration(run_dir / "record", step, table([row(i) for i in range(n)]), {**META, **meta})
    return run_dir / "record" / f"step-{step:06d}.parquet"
