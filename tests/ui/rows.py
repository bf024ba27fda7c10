"""Rows and metadata of the record, written by hand."""

import copy
from typing import Any

OBJECTIVE = {
    "clip": None,
    "clip_high": None,
    "dual_clip": None,
    "importance_cap": None,
    "importance_level": "token",
    "clip_value": None,
    "vf_coef": 0.1,
    "entropy_coef": 0.0,
    "kl_loss_coef": 0.0,
    "kl_loss_estimator": "k3",
}

META: dict[str, Any] = {
    "kl_coef": 1.0,
    "kl_estimator": "k1",
    "score_scaling": None,
    "score_clip": None,
    "missing_eos_penalty": None,
    "missing_eos_score": None,
    "whiten_rewards": None,
    "estimator": "gae",
    "group_size": 1,
    "gamma": 1.0,
    "lam": 1.0,
    "critic_lam": None,
    "whiten_advantages": None,
    "critic_only": False,
    "first_is_old": False,
    "objective": OBJECTIVE,
}
"""The article's, but for what a test changes."""


def meta(objective: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    found = copy.deepcopy(META) | changed
    found["objective"] |= objective or {}
    return found


def row(**changed: Any) -> dict[str, Any]:
    """The answer for which test_equations.py has the article's equations worked out: three tokens, score 2."""
    found: dict[str, Any] = {
        "row": 0,
        "score": 2.0,
        "raw_score": 2.0,
        "finish_reason": "stop",
        "length": 3,
        "learned": True,
        "reward": 1.75,
        "token_ids": [5, 6, 7],
        "tokens": ["A", " dog", "\n"],
        "log_probs": [-1.0, -2.0, -0.5],
        "sampler_log_probs": [-1.0, -2.0, -0.5],
        "ref_log_probs": [-1.5, -1.75, -0.5],
        "kls": [0.5, -0.25, 0.0],
        "rewards": [-0.5, 0.25, 2.0],
        "values": [0.5, 0.25, 1.0],
        "returns": [1.75, 2.25, 2.0],
        "advantages": [1.25, 2.0, 1.0],
        "ratios": [[1.0, 1.0, 1.0], [1.5, 0.5, 2.0]],
    }
    assert not set(changed) - set(found), set(changed) - set(found)
    return found | changed


def one(**changed: Any) -> dict[str, Any]:
    """An answer of one token, for what a single number shows; every list has one value."""
    lists = {name: value[-1:] for name, value in row().items() if isinstance(value, list) and name != "ratios"}
    return row(**{**lists, "length": 1, "ratios": [[1.0]], "reward": 2.0, **changed})
