"""Which rows pass through a model together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearppo.batch import portions

LENGTHS = st.lists(st.integers(0, 40), max_size=30)


@given(LENGTHS, st.none() | st.integers(1, 9), st.none() | st.integers(1, 120))
def test_every_row_once_and_within_the_bounds(lengths, rows, tokens) -> None:
    groups = portions(lengths, max_rows=rows, max_tokens=tokens)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert rows is None or len(group) <= rows
        assert tokens is None or len(group) == 1 or len(group) * longest <= tokens


@given(LENGTHS, st.none() | st.integers(1, 9), st.none() | st.integers(1, 120))
def test_the_longest_come_first_and_groups_are_as_full_as_they_may_be(lengths, rows, tokens) -> None:
    groups = portions(lengths, max_rows=rows, max_tokens=tokens)
    flat = [lengths[row] for group in groups for row in group]
    assert flat == sorted(lengths, reverse=True)
    for group in groups[:-1]:  # one row more would have been too much
        more = len(group) + 1
        assert (rows is not None and more > rows) or (tokens is not None and more * lengths[group[0]] > tokens)


def test_by_hand() -> None:
    lengths = [3, 9, 4, 1, 9]
    assert portions(lengths) == [[1, 4, 2, 0, 3]]
    assert portions(lengths, max_rows=2) == [[1, 4], [2, 0], [3]]
    assert portions(lengths, max_tokens=12) == [[1], [4], [2, 0, 3]]
    assert portions(lengths, max_tokens=5) == [[1], [4], [2], [0], [3]]  # 9 is too long, and goes alone
    assert portions(lengths, max_rows=2, max_tokens=12) == [[1], [4], [2, 0], [3]]
    assert portions([], max_rows=2) == []
    assert portions([0, 0], max_tokens=1) == [[0], [1]]  # an empty row counts as one token


@pytest.mark.parametrize("bad", [{"max_rows": 0}, {"max_tokens": 0}])
def test_a_group_of_nothing_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="one row at least"):
        portions([1, 2], **bad)
