"""The record of a made iteration: the columns of record/schema.py, from the arrays, written by record/store.py."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clearppo.record.schema import DIRECTORY, prompt_cell, prompt_id, schema
from clearppo.record.store import write_iteration
from tests.pages.numbers import Numbers
from tests.pages.words import PIECES

FLOAT = pa.float32()


def write_record(directory: Path, made: Numbers, *, learning_rate: float) -> None:
    """The file of an iteration, in the run's directory."""
    write_iteration(directory / DIRECTORY, made.step, record_table(made), meta(made, learning_rate))


def meta(made: Numbers, learning_rate: float) -> dict[str, Any]:
    spec = made.spec
    return {
        "n_answers": len(made.answers),
        "n_tokens": int((made.mask & made.learned[:, None]).sum()),
        "temperature": 0.7,
        "policy_version": made.step - 1,
        "kl_coef": spec.kl_coef,
        "kl_estimator": spec.kl_estimator,
        "score_scaling": made.scaling,
        "score_clip": spec.score_clip,
        "missing_eos_penalty": spec.missing_eos_penalty,
        "missing_eos_score": None,
        "whiten_rewards": made.whitenings.get("whiten_rewards"),
        "estimator": spec.advantage_estimator,
        "group_size": spec.num_generations,
        "gamma": spec.gamma,
        "lam": spec.lam,
        "critic_lam": None,
        "whiten_advantages": made.whitenings.get("whiten_advantages"),
        "critic_only": False,
        "learning_rate": learning_rate,
        "epochs": spec.num_ppo_epochs,
        "num_mini_batches": spec.num_mini_batches,
        "objective": {
            "clip": spec.cliprange,
            "clip_high": None,
            "dual_clip": None,
            "importance_cap": None,
            "importance_level": "token",
            "clip_value": spec.cliprange_value,
            "vf_coef": spec.vf_coef,
            "entropy_coef": 0.0,
            "kl_loss_coef": 0.0,
            "kl_loss_estimator": "k3",
        },
        "first_is_old": False,
    }


def record_table(made: Numbers) -> pa.Table:
    """One row an answer."""
    lengths = made.lengths
    ids = np.concatenate([a.ids for a in made.answers])
    # An answer that was left out has no return and no advantage, and without a critic nobody has a value.
    left_out = ~made.learned
    no_critic = np.full(len(lengths), made.spec.advantage_estimator != "gae")
    columns: dict[str, Any] = {
        "row": range(len(lengths)),
        "prompt_id": [prompt_id(prompt) for prompt in made.prompts],
        "prompt": [prompt_cell(prompt) for prompt in made.prompts],
        "completion": [a.text for a in made.answers],
        "finish_reason": [a.finish_reason for a in made.answers],
        "score": floats(made.scores),
        "raw_score": floats(made.raw_scores),
        "parts": pa.StructArray.from_arrays([floats(part) for part in made.parts.values()], list(made.parts)),
        "length": lengths,
        "kl": floats(made.kl.sum(axis=1)),
        "reward": floats(made.rewards.sum(axis=1)),
        "advantage": floats(np.where(made.learned, made.advantages.sum(axis=1) / lengths, np.nan)),
        "learned": made.learned,
        "token_ids": lists(lengths, pa.array(ids.astype(np.int32))),
        "tokens": lists(lengths, pa.array(np.array(PIECES, dtype=object)[ids], pa.string())),
        "log_probs": of_tokens(made, made.old_log_probs),
        "sampler_log_probs": of_tokens(made, made.sampler_log_probs),
        "ref_log_probs": of_tokens(made, made.ref_log_probs),
        "kls": of_tokens(made, made.kl),
        "rewards": of_tokens(made, made.rewards),
        "values": of_tokens(made, made.values, no_critic),
        "returns": of_tokens(made, made.returns, left_out),
        "advantages": of_tokens(made, made.advantages, left_out),
        "ratios": ratios(made),
        "prompt_ids": pa.array([[len(word) for word in prompt_cell(p).split(" ")] for p in made.prompts]),
    }
    known = schema(list(made.parts))
    return pa.table(
        {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
    ).cast(known)


def ratios(made: Numbers) -> pa.Array:
    """[epoch][token] of each answer; null for an epoch that did not read it."""
    epochs, n = len(made.ratios), len(made.answers)
    unread = np.isnan(made.ratios[:, :, 0]) | ~made.learned  # [epochs, B]
    by_answer = made.ratios.transpose(1, 0, 2)  # [B, epochs, T]
    cells = np.broadcast_to(made.mask[:, None, :], by_answer.shape)
    inner = lists(np.repeat(made.lengths, epochs), floats(np.nan_to_num(by_answer[cells])), unread.T.ravel())
    return lists(np.full(n, epochs), inner)


def of_tokens(made: Numbers, cells: Any, null: Any = None) -> pa.Array:
    """A list for each answer; null where `null` is true."""
    return lists(made.lengths, floats(cells[made.mask]), null)


def lists(lengths: Any, values: pa.Array, null: Any = None) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=None if null is None else pa.array(null))


def floats(values: Any) -> pa.Array:
    return pa.array(np.asarray(values, dtype=np.float32), FLOAT, from_pandas=True)  # NaN: null


def as_number(value: float) -> float | None:
    """What JSON has in the place of NaN."""
    return None if math.isnan(value) else float(value)
