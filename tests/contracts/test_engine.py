"""What every Engine must do, on one process."""

import math
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from clearppo.engines.base import Engine
from clearppo.engines.local import (
    ALLOCATOR,
    LocalEngine,
    _left_in_container,
    free_memory,
    has_fast_bf16,
    keep_freed_memory,
    select_device,
)
from clearppo.errors import ConfigError, DeviceError


def refused() -> None:
    raise ConfigError("of rank 0.")


def keeps_the_contract(engine: Engine) -> None:
    module = engine.wrap(nn.Linear(2, 1, bias=False).double())
    nn.init.constant_(module.weight, 0.0)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64, device=engine.device)
    for _ in range(2):  # two micro-batches add up
        engine.backward(module(x).sum() / 2 / engine.world)
    norm = engine.step(optimiser, list(module.parameters()), max_norm=1.0)
    assert norm == pytest.approx(5.0)  # the norm before clipping
    torch.testing.assert_close(module.weight.detach(), -x / 5, atol=1e-5, rtol=1e-5)
    engine.backward(module(x).sum() / engine.world)  # gradients of the step before are forgotten
    assert engine.step(optimiser, list(module.parameters()), max_norm=None) == pytest.approx(5.0)
    torch.testing.assert_close(module.weight.detach(), -x / 5 - x, atol=1e-5, rtol=1e-5)
    before = module.weight.detach().clone()
    engine.backward(module(x * math.nan).sum())
    assert not math.isfinite(engine.step(optimiser, list(module.parameters()), max_norm=1.0))
    torch.testing.assert_close(module.weight.detach(), before)  # a step that is not finite is not taken
    assert float(engine.sum(torch.tensor(3.0))) == 3.0 * engine.world
    assert engine.gather({"rank": engine.rank}) == [{"rank": rank} for rank in range(engine.world)]
    pieces = engine.gather(engine.deal([3, 1, 4, 1, 5]))
    assert sorted(piece for part in pieces for piece in part) == [0, 1, 2, 3, 4]  # each piece is done by one
    assert pieces[engine.rank] == sorted(pieces[engine.rank])
    assert len(set(engine.gather(engine.passes(len(pieces[engine.rank]))))) >= 1
    assert engine.passes(2) >= 2
    assert engine.share(lambda: ["told", math.inf]) == ["told", math.inf]
    with pytest.raises(ConfigError, match="of rank 0"):
        engine.share(refused)
    with engine.waiting():
        time.sleep(0.01)
    assert engine.waited() >= (0.009 if engine.world > 1 else 0.0)
    assert engine.waited() == engine.waited() >= 0.0  # nothing was said in between
    engine.agree({"option": "value"})
    with engine.together():
        engine.unite(module)


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
    with pytest.raises(DeviceError, match="device = foo is none that torch knows"):
        select_device("foo")


@pytest.mark.parametrize("max_norm", [None, 1e-3, 4.999, 4.9999995, 5.0, 5.0000005, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(max_norm: float | None) -> None:
    def stepped(step) -> torch.Tensor:
        parameter = nn.Parameter(torch.zeros(2))
        without = nn.Parameter(torch.zeros(3))  # that has no gradient
        parameter.grad = torch.tensor([3.0, 4.0])
        step(torch.optim.SGD([parameter, without], lr=1.0), [parameter, without])
        return parameter.detach()

    def plain(optimiser, parameters) -> None:
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimiser.step()

    engine = LocalEngine(torch.device("cpu"))
    assert torch.equal(stepped(lambda o, p: engine.step(o, p, max_norm)), stepped(plain))


def test_the_allocator_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOCATOR, "default")
    assert not keep_freed_memory()
    monkeypatch.setenv(ALLOCATOR, "jemalloc")
    with pytest.raises(ConfigError, match=r"CLEARPPO_ALLOCATOR = jemalloc is not known\. Write .*=default"):
        keep_freed_memory()


def test_free_memory_is_no_more_than_a_container_leaves(tmp_path: Path) -> None:
    assert _left_in_container(tmp_path) is None
    for name, text in (("memory.max", "1000"), ("memory.current", "700"), ("memory.stat", "anon 600\nfile 90\n")):
        (tmp_path / name).write_text(text)
    assert _left_in_container(tmp_path) == 390
    (tmp_path / "memory.max").write_text("max")
    assert _left_in_container(tmp_path) is None
    if sys.platform == "linux":
        free = free_memory(torch.device("cpu"))
        assert free is not None
        assert 2**20 < free < 2**50
