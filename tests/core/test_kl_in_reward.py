"""What a policy gradient makes of each KL estimator inside the reward, by summing over the whole vocabulary."""

import pytest
import torch

from clearppo.core.kl import full_kl, kl

LOGITS = torch.tensor([0.3, -0.5, 1.1, 0.2, -2.0], dtype=torch.float64)
REF = torch.tensor([0.5, 0.0, -0.5, 1.0, -1.0], dtype=torch.float64).log_softmax(-1)


def felt(estimator: str) -> torch.Tensor:
    """E_p[grad log p(token) * k(token)] with respect to the logits."""
    logits = LOGITS.clone().requires_grad_()
    log_p = logits.log_softmax(-1)
    d, r = log_p.detach()[None], REF[None]
    if estimator == "full":
        charge = full_kl(LOGITS[None, None], REF[None, None]).expand(1, 5)
    else:
        charge = kl(d, r, estimator)
    return torch.autograd.grad((d.exp() * log_p * charge).sum(), logits)[0]


def gradient_of_kl(reverse: bool) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    log_p = logits.log_softmax(-1)
    value = (REF.exp() * (REF - log_p)).sum() if reverse else (log_p.exp() * (log_p - REF)).sum()
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", gradient_of_kl(False)),
        ("k3", gradient_of_kl(False) - gradient_of_kl(True)),
        ("full", torch.zeros(5, dtype=torch.float64)),
    ],
)
def test_what_is_felt(estimator: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(felt(estimator), expected, atol=1e-12, rtol=1e-9)


def test_k2_is_another_penalty() -> None:
    assert float((felt("k2") - gradient_of_kl(False)).abs().max()) > 0.01
