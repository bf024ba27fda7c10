"""The codec of a run's state: every tree comes back bit for bit, and anybody can read the files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from clearppo.train import safetensors
from clearppo.train.state_file import TENSORS, TREE, read_state, write_state

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
]  # fmt: skip
AWKWARD = st.sampled_from(["", "$", "$tensor", "$int", "$$float", "a/b", "0", "é", "\x00", "__metadata__", "x'"])
KEYS = AWKWARD | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


def tensor_of(dtype: torch.dtype, shape: list[int], seed: int) -> Tensor:
    """Every bit by chance, so that NaNs of all kinds are among the floats."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 256, (math.prod(shape) * size,), generator=generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


TENSOR = st.builds(tensor_of, st.sampled_from(TYPES), SHAPES, st.integers(0, 2**30))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        PLAIN | st.integers(-(2**200), 2**200) | TENSOR,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a: Any, b: Any) -> bool:
    """Equal in type and in every bit; all NaNs of Python count as one."""
    if type(a) is not type(b):
        return False
    match a:
        case Tensor():
            bits = a.shape == b.shape and a.dtype == b.dtype
            return bits and torch.equal(raw(a), raw(b))
        case dict():
            return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
        case list():
            return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
        case float():
            return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
        case _:
            return a == b


@settings(max_examples=200, deadline=None)
@given(tree=TREES)
def test_every_tree_comes_back(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("state")
    write_state(directory, tree)
    assert same(read_state(directory), tree)


def test_numbers_that_other_formats_lose(tmp_path: Path) -> None:
    tree = {
        "numbers": [0.1 + 0.2, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.0, 1, True, 2**63, -(2**64), 10**5000],
        "words": ["$tensor", "nan", ""],
        "nothing": None,
    }
    write_state(tmp_path, tree)
    assert same(read_state(tmp_path), tree)


def test_views_parameters_and_shared_memory_come_back_as_what_they_are_worth(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tree = {"whole": whole, "turned": whole.T, "column": whole[:, 1], "again": whole, "scalar": whole[2, 3]}
    write_state(tmp_path, {**tree, "learned": torch.nn.Parameter(whole)})
    found = read_state(tmp_path)
    assert same(found, {**tree, "learned": whole})
    found["whole"].zero_()
    assert found["again"].sum() == 66  # each has memory of its own


def test_names_that_the_format_keeps_for_itself_and_ways_that_look_alike(tmp_path: Path) -> None:
    one = torch.ones(1)
    tree = {"__metadata__": one, "a": {"b": one * 2}, "a/b": one * 3, "": {"": one * 4}, "'": one * 5}
    write_state(tmp_path, tree)
    assert same(read_state(tmp_path), tree)


def test_large_tensors_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "_CHUNK", 24)
    tree = {"a": torch.arange(100), "b": torch.arange(35, dtype=torch.int8).reshape(5, 7).T}
    write_state(tmp_path, tree)
    assert same(read_state(tmp_path), tree)


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    tensors = {"half": torch.ones(3, dtype=torch.bfloat16), "odd": torch.zeros(1, dtype=torch.int8), "w": torch.eye(2)}
    write_state(tmp_path, {"optimiser": [tensors], "step": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == [TREE, TENSORS]
    assert json.loads((tmp_path / TREE).read_text())["step"] == 3
    found = load_file(tmp_path / TENSORS)
    assert same(found["optimiser/0/w"], torch.eye(2))
    assert len(found) == 3
    header = int.from_bytes((tmp_path / TENSORS).read_bytes()[:8], "little")
    assert header % 8 == 0  # so that a program that maps the file finds aligned numbers


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = {"b": torch.ones(2), "a": {"x": torch.zeros(3, dtype=torch.uint8)}, "n": 1.5}
    for name in ("one", "two"):
        write_state(tmp_path / name, tree)
    for name in (TREE, TENSORS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_tree_without_tensors_and_an_empty_one(tmp_path: Path) -> None:
    for i, tree in enumerate([{}, {"step": 1}]):
        write_state(tmp_path / str(i), tree)
        assert read_state(tmp_path / str(i)) == tree


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": [(1, 2)]}, "a/0: a tuple"),
        ({"a": {1: 2}}, "a: a key of type int"),
        ({"a": {"b": object()}}, "a/b: a object"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a: a tensor of torch.complex64"),
        ({"a": torch.eye(2).to_sparse()}, "a: a tensor of torch.float32, torch.sparse_coo"),
        ({"a": b"bytes"}, "a: a bytes"),
    ],
)
def test_what_cannot_be_kept_is_said_with_its_place(tree: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=said):
        write_state(tmp_path, tree)
