"""The line that says what is optimised: every option that matters is in it, and nothing that is off."""

from typing import Any

import pytest

from clearppo.config import objective


def test_the_defaults(load: Any) -> None:
    assert objective(load()) == (
        "maximise E[min(ratio*A, clip(ratio, 0.8, 1.2)*A)]"
        " - 0.1 * 1/2 E[max((V-R)^2, (clip(V, V_old-0.2, V_old+0.2)-R)^2)]"
        ",  A = GAE(gamma=1, lam=0.95) of r whitened,  R = GAE + V_old"
        ",  r = score on the last token - 0.05*KL_k1(policy||ref),  score = score"
        ",  ratio = exp(log_prob - old_log_prob),  policy = softmax(logits/0.7)"
    )


def test_the_article_reads_like_its_equations(load: Any) -> None:
    """(7) and (8) in (9), then (4), (3), and (1) in (2)."""
    assert objective(load(recipe="article")) == (
        "maximise E[ratio*A] - 0.1 * 1/2 E[(V-R)^2]"
        ",  A = R - V_old,  R = sum of r to the end"
        ",  r = score on the last token - KL_k1(policy||ref),  score = score"
        ",  ratio = exp(log_prob - old_log_prob)"
    )


@pytest.mark.parametrize(
    ("flags", "present", "absent"),
    [
        ({"cliprange": None}, "maximise E[ratio*A] - ", "clip(ratio"),
        ({"cliprange": 0.1}, "clip(ratio, 0.9, 1.1)*A)", "0.8"),
        ({"cliprange_high": 0.28}, "clip(ratio, 0.8, 1.28)*A)", "1.2)"),
        ({"dual_clip": 3}, "E[max(min(ratio*A, clip(ratio, 0.8, 1.2)*A), 3*A where A < 0)]", ""),
        ({"cliprange_value": None}, " - 0.1 * 1/2 E[(V-R)^2],", "clip(V"),
        ({"vf_coef": 0}, "1.2)*A)],  A = GAE(gamma=1, lam=0.95) of r whitened,  r = ", "R)^2"),
        ({"vf_coef": 0.5}, " - 0.5 * 1/2 E[", ""),
        ({"entropy_coef": 0.01}, " + 0.01*E[H],", ""),
        ({}, "", "E[H]"),
        ({"lam": 0.9, "gamma": 0.99}, "GAE(gamma=0.99, lam=0.9)", ""),
        ({"lam": 1}, "A = R - V_old whitened,  R = sum of r to the end,", "GAE"),
        ({"lam": 1, "gamma": 0.99}, "R = sum of 0.99^k * r to the end,", "GAE"),
        ({"whiten_advantages": False}, "lam=0.95) of r,", "whitened"),
        ({"whiten_rewards": True}, "r = (score on the last token - 0.05*KL_k1(policy||ref)) scaled to variance 1", ""),
        ({"kl_coef": 0}, "r = score on the last token,", "KL"),
        ({"kl_coef": 1}, "- KL_k1(policy||ref)", "1*KL"),
        ({"kl_estimator": "full"}, "0.05*KL_full(policy||ref)", "k1"),
        ({"kl_estimator": "k3"}, "0.05*KL_k3(policy||ref)", "k1"),
        (
            {"kl_controller": "adaptive", "kl_target": 3},
            "- beta*KL_k1(policy||ref),  beta from 0.05 adapted to KL = 3 nats an answer (horizon 10000)",
            "",
        ),
        ({"missing_eos_penalty": 1}, "score = score - 1 if the answer never ended", ""),
        (
            {"reward_funcs": "a.py:f,b:g", "reward_model_path": "models/rm", "reward_weights": "1,-0.5,2"},
            "score = f - 0.5*g + 2*RM(rm),",
            "",
        ),
        ({"reward_funcs": [], "reward_model_path": "rm/"}, "score = RM(rm),", ""),
        ({"temperature": 1}, "", "softmax"),
        ({"top_k": 5, "top_p": 0.9}, ",  drawn with top_k 5 and top_p 0.9 (off-policy)", ""),
        ({}, "", "drawn with"),
        ({"early_stop_kl": 0.05}, ",  an update ends at KL(old||new) > 0.05 a token", ""),
        # without a critic
        (
            {"advantage_estimator": "rloo", "num_generations": 4},
            "*A)],  A = S - mean of S over the prompt's other answers whitened,  S = sum of r over the answer,  r = ",
            "V",
        ),
        (
            {"advantage_estimator": "grpo", "num_generations": 4},
            "*A)],  A = (S - mean of S) / (std of S + 1e-4) over the prompt's answers,  S = sum of r over the answer,",
            "whiten",
        ),
        ({"advantage_estimator": "reinforce++"}, "1.2)*A)],  A = sum of r to the end whitened,  r = ", "R"),
        ({"advantage_estimator": "reinforce++", "gamma": 0.9}, "A = sum of 0.9^k * r to the end whitened,", "R"),
        # another lambda for the critic
        ({"critic_lam": 1}, "lam=0.95) of r whitened,  R = sum of r to the end,", "GAE + V_old"),
        ({"critic_lam": 0.9}, "R = GAE(gamma=1, lam=0.9) of r + V_old,", "GAE + V_old"),
        ({"critic_lam": 0.95}, "lam=0.95) of r whitened,  R = GAE + V_old,", ""),
        (
            {"lam": 1, "critic_lam": 0.9},
            "A = sum of r to the end - V_old whitened,  R = GAE(gamma=1, lam=0.9) of r + V_old,",
            "R - V_old",
        ),
        ({"unbiased_whitening": True}, "of r whitened by n - 1,", ""),
        ({"unbiased_whitening": True, "whiten_rewards": True}, "scaled to variance 1 by n - 1,", ""),
        ({"critic_warmup_steps": 5}, ",  in the first 5 iterations only the critic learns", ""),
        # other terms of the loss
        ({"kl_loss_coef": 0.04}, "-R)^2)] - 0.04*E[KL_k3(policy||ref)],  A = ", ""),
        ({"kl_loss_coef": 1, "kl_loss_estimator": "full"}, " - E[KL_full(policy||ref)],  A = ", ""),
        (
            {"ptx_coef": 27.8, "ptx_dataset_name": "texts/pile.jsonl"},
            "-R)^2)] + 27.8*E[log p(token) in pile.jsonl],  A = ",
            "1/2 (",
        ),
        (
            {
                "ptx_coef": 2,
                "ptx_dataset_name": "pile.jsonl",
                "ptx_reduction": "mean",
                "cliprange": None,
                "cliprange_value": None,
            },
            "maximise 1/2 (E[ratio*A] + 2*E[log p(token) in pile.jsonl]) - 0.1 * 1/2 E[(V-R)^2],  A = ",
            "",
        ),
        # what becomes of a score
        ({"score_scaling": "running-std"}, "score = (score) / std so far,", "mean"),
        ({"score_scaling": "running"}, "score = (score - mean so far) / std so far,", ""),
        ({"score_scaling": "reference"}, "score = (score - mean) / std of the start model's answers,", ""),
        (
            {"score_scaling": "running-std", "score_clip": 5, "missing_eos_penalty": 1},
            "score = clip((score) / std so far, -5, 5) - 1 if the answer never ended,",
            "",
        ),
        ({"missing_eos_score": -1}, "score = score, or -1 if the answer never ended,", ""),
        (
            {"fixed_length": True, "truncate_token": ".", "truncate_after": 16, "response_length": 24},
            ",  every answer has 24 tokens,  scored up to its first '.' behind its first 16 tokens",
            "",
        ),
    ],
    ids=str,
)
def test_every_option_that_matters(flags: dict[str, Any], present: str, absent: str, load: Any) -> None:
    line = objective(load(**flags))
    assert present in line
    assert not absent or absent not in line
    assert "\n" not in line


def test_functions_are_named(load: Any) -> None:
    def brevity(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [0.0]

    assert "brevity" in objective(load(reward_funcs=[brevity]))
