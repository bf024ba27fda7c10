import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from clearppo.core import masks as core
from tests.core.cases import close, masks, normals, quick, seeds
from tests.oracles import masks as oracle


@quick
@given(masks(), seeds, st.booleans())
def test_moments_are_those_of_the_loops(mask, seed, unbiased):
    (x,) = normals(seed, mask.shape)
    close(core.masked_sum(x, mask), math.fsum(oracle.cells(x.tolist(), mask.tolist())))
    close(core.masked_mean(x, mask), oracle.mean(x.tolist(), mask.tolist()))
    close(core.masked_var(x, mask, unbiased), oracle.variance(x.tolist(), mask.tolist(), unbiased))


@quick
@given(masks(), seeds, st.booleans(), st.booleans(), st.sampled_from([1e-8, 1e-6, 1.0]))
def test_whiten_is_that_of_the_loops(mask, seed, shift_mean, unbiased, eps):
    (x,) = normals(seed, mask.shape)
    result = core.whiten(3 * x + 2, mask, shift_mean, unbiased, eps)
    close(result, oracle.whiten((3 * x + 2).tolist(), mask.tolist(), shift_mean, unbiased, eps), atol=1e-10)


def test_whitened_numbers_have_mean_0_and_variance_1():
    (x,) = normals(0, (8, 16))
    mask = x < 1  # ragged, with holes
    y = core.whiten(5 * x - 3, mask)
    close(core.masked_mean(y, mask), 0.0)
    close(core.masked_var(y, mask), 1.0, rtol=1e-8)
    close(core.masked_mean(core.whiten(5 * x - 3, mask, shift_mean=False), mask), core.masked_mean(5 * x - 3, mask))


def test_variance_of_one_cell():
    x, mask = torch.tensor([[2.0, 9.0]]), torch.tensor([[True, False]])
    assert core.masked_var(x, mask) == 0
    assert core.masked_var(x, mask, unbiased=True).isnan()
    assert core.whiten(x, mask).tolist() == [[0.0, 0.0]]
    assert core.whiten(x, mask, unbiased=True)[0, 0].isnan()
    assert core.whiten(x, mask, unbiased=True)[0, 1] == 0


@quick
@given(masks())
def test_last_index(mask):
    assert core.last_index(mask).tolist() == oracle.last_index(mask.tolist())


def test_last_index_by_hand():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert core.last_index(mask).tolist() == [1, 2, 3, -1, 0, 3]


def test_kept_selects_any_shape():
    x, mask = torch.tensor([1.0, math.nan, 3.0]), torch.tensor([True, False, True])
    assert core.kept(x, mask).tolist() == [1.0, 0.0, 3.0]


def test_half_precision_is_widened():
    x = torch.full((1, 1001), 1.0, dtype=torch.bfloat16)  # bfloat16 cannot count beyond 256
    total = core.masked_sum(x, torch.ones(1, 1001, dtype=torch.bool))
    assert total.dtype == torch.float32
    assert total == 1001
    assert core.kept(x.double(), x > 0).dtype == torch.float64
    assert core.whiten(x.half(), x > 0).dtype == torch.float32


@pytest.mark.parametrize("function", [core.masked_mean, core.masked_var, core.whiten])
def test_an_empty_mask_has_no_mean(function):
    with pytest.raises(ValueError, match="empty"):
        function(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))


def test_an_empty_mask_sums_to_0():
    assert core.masked_sum(torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool)) == 0


@pytest.mark.parametrize("mask", [torch.ones(2, 3), torch.ones(2, 1).bool(), torch.ones(3).bool()])
def test_masks_of_another_kind_or_shape_are_refused(mask):
    with pytest.raises((ValueError, TypeCheckError), match="mask"):
        core.masked_sum(torch.ones(2, 3), mask)
