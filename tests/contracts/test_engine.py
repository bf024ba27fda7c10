"""What every Engine must do, on one process."""

import math

import pytest
import torch
from torch import nn

from clearppo.engines.base import Engine
from clearppo.engines.local import LocalEngine, has_fast_bf16, keep_freed_memory, select_device
from clearppo.errors import DeviceError


def keeps_the_contract(engine: Engine) -> None:
    module = engine.wrap(nn.Linear(2, 1, bias=False).double())
    nn.init.constant_(module.weight, 0.0)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64, device=engine.device)
    for _ in range(2):  # two micro-batches add up
        engine.backward(module(x).sum() / 2)
    norm = engine.step(optimiser, list(module.parameters()), max_norm=1.0)
    assert norm == pytest.approx(5.0)  # the norm before clipping
    torch.testing.assert_close(module.weight.detach(), -x / 5, atol=1e-5, rtol=1e-5)
    engine.backward(module(x).sum())  # gradients of the step before are forgotten
    assert engine.step(optimiser, list(module.parameters()), max_norm=None) == pytest.approx(5.0)
    torch.testing.assert_close(module.weight.detach(), -x / 5 - x, atol=1e-5, rtol=1e-5)
    before = module.weight.detach().clone()
    engine.backward(module(x * math.nan).sum())
    assert not math.isfinite(engine.step(optimiser, list(module.parameters()), max_norm=1.0))
    torch.testing.assert_close(module.weight.detach(), before)  # a step that is not finite is not taken
    assert float(engine.sum(torch.tensor(3.0))) == 3.0
    assert torch.equal(engine.gather(x), x)


def test_local() -> None:
    keeps_the_contract(LocalEngine(torch.device("cpu")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError, match=f"device = {name}, but .*--device auto"):
        select_device(name)


def test_devices() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type in ("cpu", "cuda", "mps")
    assert isinstance(has_fast_bf16(torch.device("cpu")), bool)
    assert isinstance(keep_freed_memory(), bool)
