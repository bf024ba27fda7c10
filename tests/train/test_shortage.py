"""Out of memory is one sentence that says what to lower, with the values at hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.config import PPOConfig, SFTConfig, load_config
from clearppo.errors import ShortOfMemoryError
from clearppo.train.shortage import is_shortage, memory_told

REAL = {
    "python": MemoryError(),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 40000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "cuda": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.25 GiB is "
        "free."
    ),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "mps": RuntimeError(
        "MPS backend out of memory (MPS allocated: 9.0 GB). Tried to allocate 512.00 MiB on private pool."
    ),
}


def ppo(**options: Any) -> PPOConfig:
    asked = {
        "model_name_or_path": "m", "dataset_name": "d", "reward_funcs": "a.py:f", "output_dir": "o", "device": "cpu",
    }  # fmt: skip
    return load_config(PPOConfig, flags={**asked, **options})


def told(error: Exception, phase: str, config: Any, **more: Any) -> str:
    with pytest.raises(ShortOfMemoryError) as caught, memory_told(config, lambda: phase, **more):
        raise error
    assert caught.value.exit_code == 3
    assert caught.value.__cause__ is error
    return str(caught.value)


@pytest.mark.parametrize("name", REAL)
def test_what_allocators_say_is_understood(name: str) -> None:
    assert is_shortage(REAL[name])
    assert told(REAL[name], "learning", None).startswith("out of memory, learning")


def test_other_errors_keep_their_traceback() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("x")):
        with pytest.raises(type(error)), memory_told(None, lambda: "learning"):
            raise error


def test_the_sizes_and_what_to_lower() -> None:
    text = told(REAL["cuda"], "learning", ppo(), tokens=4096, free=lambda: 1_250_000_000)
    assert text == (
        "out of memory, learning (asked for 2.68 GB, 1.25 GB free). Lower --max_tokens_per_microbatch (now 4096) "
        "first, then --micro_batch_size (now 16); or use --gradient_checkpointing true or --use_peft true."
    )
    text = told(REAL["mps"], "sampling", ppo(batch_size=32), tokens=4096)
    assert "(asked for 0.54 GB). Lower --generation_batch_size (now 32) first, then --response_length (now 53)" in text
    assert "--generation_batch_size (now 3)" in told(MemoryError(), "sampling", ppo(generation_batch_size=3))
    text = told(MemoryError(), "loading", ppo(use_peft=True))
    assert text == (
        "out of memory, loading. Use a smaller model or --dtype bfloat16 (now float32); or use "
        "--gradient_checkpointing true."
    )
    config = load_config(SFTConfig, flags={"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"})
    assert "Lower --max_tokens_per_microbatch (now none) first" in told(MemoryError(), "learning", config)


def test_a_real_allocation_that_is_too_large() -> None:
    with pytest.raises(ShortOfMemoryError, match=r"asked for \d+\.\d\d GB"), memory_told(None, lambda: "sampling"):
        torch.empty(2**62, dtype=torch.uint8)


def test_the_tensors_of_what_failed_are_let_go() -> None:
    """Saving what was learned needs memory too."""
    import weakref

    alive: list[Any] = []

    def fails() -> None:
        large = torch.zeros(10)
        alive.append(weakref.ref(large))
        raise MemoryError

    with pytest.raises(ShortOfMemoryError), memory_told(None, lambda: "learning"):
        fails()
    assert alive[0]() is None


def test_commands_without_a_run_say_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from clearppo.cli import main
    from clearppo.cli.main import FrontDoor

    def fails(*_: Any, **__: Any) -> None:
        raise REAL["cuda"]

    monkeypatch.setattr(FrontDoor, "invoke", fails)
    with pytest.raises(SystemExit) as caught:
        main(["env"])
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith("error: out of memory. Use a smaller model")


def test_models_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clearppo import api
    from clearppo.build import steps

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(steps, "build_sft", fails)
    config = load_config(SFTConfig, flags={"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"})
    with pytest.raises(
        ShortOfMemoryError, match=r"^out of memory, loading the models\. Use a smaller model or --dtype"
    ):
        api.train_sft(config)


def test_a_run_says_it_and_keeps_what_it_has(tmp_path: Path) -> None:
    from tests.tiny import tiny_causal_lm
    from tests.train.test_faults import lines
    from tests.train.test_faults import ppo as small

    run = small(tmp_path, {"lm": tiny_causal_lm(tmp_path / "lm")})
    calls = iter(range(100))

    def short(gradient: torch.Tensor) -> torch.Tensor:
        if next(calls) == 9:
            raise REAL["cpu"]
        return gradient

    next(run.policy.actor.parameters()).register_hook(short)
    with pytest.raises(ShortOfMemoryError, match=r"out of memory, learning \(asked for 40000.00 GB, .* free\)"):
        run.train()
    assert len(lines(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "interrupted" / "model.safetensors").exists()
