"""What the tests of core share: ragged masks with holes, random tensors, garbage for padding, and comparisons."""

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st

# The same examples on every run: a red test stays red. deadline=None because the first call pays for torch.
quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)

seeds = st.integers(0, 2**31 - 1)


@st.composite
def masks(draw, max_rows=4, max_length=6):
    """[B, T] with one True cell at least: right-padded, or with holes anywhere; rows may be empty."""
    rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    if draw(st.booleans()):
        lengths = draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows))
        cells = [[t < n for t in range(length)] for n in lengths]
    else:
        row = st.lists(st.booleans(), min_size=length, max_size=length)
        cells = draw(st.lists(row, min_size=rows, max_size=rows))
    if not any(map(any, cells)):
        cells[draw(st.integers(0, rows - 1))][draw(st.integers(0, length - 1))] = True
    return torch.tensor(cells)


def normals(seed, *shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def poisoned(x, mask):
    """`x` with NaN, infinities and 1e30 in turn outside the mask."""
    garbage = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30], dtype=x.dtype)
    return torch.where(mask, x, garbage[torch.arange(x.numel()).view(x.shape) % 5])


def close(actual, expected, rtol=1e-9, atol=1e-12):
    """Assert equality up to float64 rounding; `expected` may be nested lists. NaN equals NaN."""
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=atol, equal_nan=True)


def same_bits(a, b):
    if a.dtype == torch.float64:
        a, b = a.contiguous().view(torch.int64), b.contiguous().view(torch.int64)
    assert torch.equal(a, b)


def with_grad(*tensors):
    return [t.clone().requires_grad_() for t in tensors]
