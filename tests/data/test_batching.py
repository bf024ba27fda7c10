"""Length-grouped batches and the held-out part: nothing lost, nothing twice, all chance from the seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.data import length_grouped, split_off
from clearppo.errors import DataError


def grouped(lengths: list[int], batch_size: int, seed: int = 0) -> list[list[int]]:
    return length_grouped(lengths, batch_size, torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9), st.integers(0, 2**40))
def test_every_row_once(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = grouped(lengths, batch_size, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    sizes = sorted(map(len, batches))
    assert all(size == batch_size for size in sizes[1:])
    assert len(batches) == -(-len(lengths) // batch_size)
    if lengths:
        assert max(lengths) in [lengths[row] for row in batches[0]]
    assert grouped(lengths, batch_size, seed) == batches


def padding(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) - sum(lengths)


def test_like_lengths_come_together_and_epochs_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 500, (4000,), generator=generator).tolist()
    in_file_order = [list(range(start, start + 16)) for start in range(0, 4000, 16)]
    first, second = (length_grouped(lengths, 16, generator) for _ in range(2))
    assert padding(lengths, first) < 0.1 * padding(lengths, in_file_order)
    assert {frozenset(batch) for batch in first}.isdisjoint(frozenset(batch) for batch in second)
    # The order of the batches says nothing of their lengths: neither half of the epoch is the long one.
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in first]
    half = len(means) // 2
    assert abs(sum(means[:half]) - sum(means[half:])) / half < 60


def test_few_rows_are_mixed_anew_each_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = list(range(32))
    epochs = [length_grouped(lengths, 4, generator) for _ in range(4)]
    assert len({frozenset(frozenset(batch) for batch in epoch) for epoch in epochs}) == 4


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0.01, 0.9), st.integers(0, 99))
def test_no_key_on_both_sides(keys: list[int], fraction: float, seed: int) -> None:
    if len(set(keys)) < 2:
        with pytest.raises(DataError, match="--eval_fraction 0"):
            split_off(keys, fraction, seed)
        return
    kept, held = split_off(keys, fraction, seed)
    assert sorted(kept + held) == list(range(len(keys)))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert kept
    assert held
    assert {keys[i] for i in kept}.isdisjoint(keys[i] for i in held)
    assert split_off(keys, fraction, seed) == (kept, held)


def test_the_fraction_is_met_and_the_seed_chooses() -> None:
    kept, held = split_off(range(200), 0.05, 0)
    assert (len(kept), len(held)) == (190, 10)
    assert split_off(range(200), 0.05, 1)[1] != held
    assert split_off("aab", 0, 0) == ([0, 1, 2], [])
