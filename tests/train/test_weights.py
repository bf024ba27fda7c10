"""Which weights a checkpoint's model files hold bit for bit, and which stand beside; digests of what a run reads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clearppo.errors import CheckpointError
from clearppo.learning.optimiser import adamw, load_optimiser_state, optimiser_state
from clearppo.train.chance import chance_state, seed_chance, set_chance, undisturbed_chance
from clearppo.train.marks import data_mark, weights_mark
from clearppo.train.state_file import read_state, write_state
from clearppo.train.weights import load_weights, weights_state


def learned(**values: list[float]) -> dict[str, nn.Parameter]:
    return {f"net.{name}": nn.Parameter(torch.tensor(value)) for name, value in values.items()}


def test_only_what_the_files_hold_bit_for_bit_is_left_to_them(tmp_path: Path) -> None:
    weights = learned(same=[1.0, 2.0], rounded=[1.0], sign=[0.0], typed=[1.0], nan=[float("nan")], missing=[3.0])
    save_file(
        {
            "same": torch.tensor([1.0, 2.0]),
            "rounded": torch.tensor([1.0000001]),
            "sign": torch.tensor([-0.0]),
            "typed": torch.tensor([1.0], dtype=torch.bfloat16),
            "nan": torch.tensor([float("nan")]),
            "other": torch.zeros(1),
        },
        tmp_path / "model.safetensors",
    )
    state = weights_state(weights, tmp_path, "net.")
    assert state["files"] == {"net.same": "model.safetensors", "net.nan": "model.safetensors"}
    assert set(state["tensors"]) == {"net.rounded", "net.sign", "net.typed", "net.missing"}
    fresh = learned(same=[0.0, 0.0], rounded=[0.0], sign=[1.0], typed=[0.0], nan=[0.0], missing=[0.0])
    places = {name: weight.data_ptr() for name, weight in fresh.items()}
    load_weights(fresh, state, tmp_path)
    for name, weight in weights.items():
        assert torch.equal(fresh[name].view(torch.int32), weight.view(torch.int32))
        assert fresh[name].data_ptr() == places[name]


@pytest.mark.parametrize("other", [{"a": [0.0], "b": [0.0]}, {}, {"a": [0.0, 0.0]}])
def test_other_weights_are_refused_and_nothing_is_changed(tmp_path: Path, other: dict[str, list[float]]) -> None:
    state = weights_state(learned(a=[1.0]), tmp_path, "net.")
    fresh = learned(**other)
    with pytest.raises(CheckpointError, match="learns other weights"):
        load_weights(fresh, state, tmp_path)
    assert not any(bool(weight.any()) for weight in fresh.values())


@pytest.mark.parametrize("style", ["torch", "tf"])
def test_an_optimiser_goes_on_with_the_same_bits(tmp_path: Path, style: str) -> None:
    def parameters() -> list[nn.Parameter]:
        made = torch.Generator().manual_seed(0)
        # One whose memory is laid out column by column, one that gets no gradient at first.
        return [
            nn.Parameter(torch.randn(5, 3, generator=made).t()), nn.Parameter(torch.randn(4, generator=made)),
            nn.Parameter(torch.randn(2, generator=made)),
        ]  # fmt: skip

    def step(members: list[nn.Parameter], optimiser: torch.optim.Optimizer, number: int) -> None:
        made = torch.Generator().manual_seed(number)
        for member in members[: 2 if number < 3 else 3]:
            member.grad = torch.randn(member.shape, generator=made)
        optimiser.step()

    whole = parameters()
    optimiser = adamw(whole, learning_rate=0.1, weight_decay=0.1, style=style)
    for number in range(5):
        if number == 2:
            write_state(tmp_path, {"state": optimiser_state(optimiser), "weights": list(whole)})
        step(whole, optimiser, number)
    resumed, kept = parameters(), read_state(tmp_path)
    again = adamw(resumed, learning_rate=0.1, weight_decay=0.1, style=style)
    load_optimiser_state(again, kept["state"])
    with torch.no_grad():
        for member, weight in zip(resumed, kept["weights"], strict=True):
            member.copy_(weight)
    for number in range(2, 5):
        step(resumed, again, number)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    moment = again.state[resumed[0]]["exp_avg" if style == "torch" else "m"]
    assert moment.stride() == resumed[0].stride()
    with pytest.raises(ValueError, match="3 parameters for an optimiser of 1"):
        load_optimiser_state(adamw(resumed[:1], learning_rate=0.1), kept["state"])


def test_all_global_generators_are_kept(tmp_path: Path) -> None:
    import random

    import numpy as np

    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.randn(()))]

    seed_chance(3)
    drawn()  # half of a pair of normal numbers is kept by Python and by NumPy
    write_state(tmp_path, {"chance": chance_state()})
    kept = read_state(tmp_path)["chance"]
    set_chance(kept)
    expected = drawn()
    assert drawn() != expected
    set_chance(kept)
    assert drawn() == expected
    set_chance(kept)
    with undisturbed_chance():
        drawn()
    assert drawn()[2:] == expected[2:]  # the checks of types draw from Python's own
    seed_chance(3)
    first = drawn()
    seed_chance(3)
    assert drawn() == first


def test_marks_tell_data_and_weights_apart() -> None:
    assert data_mark(((1, 2), (3,))) == data_mark(((1, 2), (3,)))
    others = [((1, 2, 3),), ((1,), (2, 3)), ((1, 2), (4,)), (("1", 2), (3,)), ((True, 2), (3,)), ()]
    assert len({data_mark(other) for other in [((1, 2), (3,)), *others]}) == 7
    weight = torch.tensor([[1.0, 2.0]])
    marks = [("a", weight), ("b", weight), ("a", weight.t()), ("a", weight.double()), ("a", -weight)]
    assert len({weights_mark([mark]) for mark in marks}) == 5
