"""--deterministic: what is switched on, and what is said where it cannot be had."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clearppo import api
from clearppo.build.common import make_engine
from clearppo.errors import DeviceError

REAL = {
    "an operation": (
        "cumsum_cuda_kernel does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation, or you can "
        "use the 'warn_only=True' option, if that's acceptable for your application.",
        "cumsum_cuda_kernel does not have a deterministic implementation",
    ),
    "cuBLAS": (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
        "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
        "CuBLAS and you have CUDA >= 10.2.",
        "Deterministic behavior was enabled",
    ),
}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_it_is_on_where_it_is_asked_for() -> None:
    make_engine("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    torch.backends.cudnn.benchmark = True
    make_engine("cpu", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_engine("cpu", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def run_that_raises(error: Exception) -> Any:
    released: list[bool] = []

    def train() -> None:
        raise error

    run_dir = SimpleNamespace(release=lambda: released.append(True))
    return SimpleNamespace(train=train, run_dir=run_dir, released=released)


@pytest.mark.parametrize("case", REAL)
def test_what_torch_cannot_do_is_a_sentence(case: str) -> None:
    text, said = REAL[case]
    run = run_that_raises(RuntimeError(text))
    with pytest.raises(DeviceError) as error:
        api._trained(run)
    assert str(error.value).startswith(f"deterministic = true cannot be had here: {said}")
    assert str(error.value).endswith("Leave out --deterministic, or use --device cpu.")
    assert run.released == [True]


def test_other_errors_pass_and_the_directory_is_free() -> None:
    run = run_that_raises(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        api._trained(run)
    assert run.released == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_backward_passes_on_a_gpu_are_equal() -> None:
    make_engine("cuda", deterministic=True)
    table = torch.randn(50, 64, device="cuda", requires_grad=True)
    ids = torch.randint(0, 50, (20_000,), device="cuda")
    gradients = [torch.autograd.grad((table[ids] ** 2).sum(), table)[0] for _ in range(3)]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
