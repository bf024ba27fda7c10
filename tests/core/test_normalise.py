"""Running moments against those of everything seen, listed; fixed moments; the cases without a spread."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core.normalise import FIRST_COUNT, FixedMoments, RunningMoments, RunningScaling
from tests.core.cases import close, normals, quick, seeds
from tests.oracles import normalise as oracle


def floats(*scores):
    return torch.tensor(scores, dtype=torch.float64)


@st.composite
def batches(draw):
    """Batches of scores of one scale and offset, 2 scores in all at least."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
    scale, shift = draw(st.sampled_from([1e-3, 1.0, 50.0])), draw(st.sampled_from([-300.0, 0.0, 2.0]))
    return [scale * x + shift for x in normals(draw(seeds), *[(n,) for n in sizes])]


@quick
@given(batches())
def test_running_moments_are_those_of_all_scores_so_far(batches):
    moments, seen = RunningMoments(), []
    for batch in batches:
        moments = moments.updated(batch)
        seen += batch.tolist()
        assert moments.count == len(seen)
        assert moments.mean == pytest.approx(oracle.mean(seen), rel=1e-12, abs=1e-12)
        if len(seen) > 1:
            assert moments.std == pytest.approx(oracle.std(seen, unbiased=True), rel=1e-9)
            assert math.sqrt(moments.var) == pytest.approx(oracle.std(seen, unbiased=False), rel=1e-9)


@quick
@given(batches())
def test_how_scores_come_in_batches_does_not_matter(batches):
    parts, whole = RunningMoments(), RunningMoments().updated(torch.cat(batches))
    for batch in reversed(batches):
        parts = parts.updated(batch)
    assert (parts.count, parts.mean) == (whole.count, pytest.approx(whole.mean, rel=1e-12, abs=1e-12))
    assert parts.std == pytest.approx(whole.std, rel=1e-9)


@quick
@given(batches(), st.booleans())
def test_running_scaling_counts_a_batch_before_it_scales_it(batches, centred):
    scaling, seen = RunningScaling(centred=centred), []
    for batch in batches:
        seen += batch.tolist()
        scaling = scaling.updated(batch)
        if len(seen) > 1:
            mean, std = oracle.mean(seen) if centred else 0.0, oracle.std(seen, unbiased=True)
            close(scaling.scaled(batch), [(x - mean) / std for x in batch.tolist()], rtol=1e-8, atol=1e-8)


def test_a_scaling_is_a_value():
    scaling, scores = RunningScaling(), floats(1, 2, 4)
    scaling.updated(scores)
    assert scaling == RunningScaling()
    assert scaling.moments == RunningMoments(count=FIRST_COUNT, mean=0, var=0)
    close(scores, [1, 2, 4])
    assert scaling.updated(scores) == scaling.updated(scores)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_without_a_spread_scores_are_not_blown_up(value, centred):
    """One score, then many equal ones: the source divides by 0 at the first, and by rounding after it."""
    scaling = RunningScaling(centred=centred)
    for n in (1, 3, 7, 1000):
        batch = torch.full((n,), value, dtype=torch.float32)
        scaling = scaling.updated(batch)
        assert scaling.moments.std == 1
        expected = torch.zeros(n) if centred else batch
        torch.testing.assert_close(scaling.scaled(batch), expected, rtol=1e-6, atol=1e-6 * max(1, abs(value)))


def test_before_any_score_nothing_is_scaled():
    close(RunningScaling().scaled(floats(3, -5)), [3, -5])
    close(RunningScaling(centred=True).scaled(floats(3, -5)), [3, -5])


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
def test_a_small_spread_is_a_spread(offset):
    """Neighbouring float32 numbers differ by 6e-8 of themselves at least: far above what counts as rounding."""
    low = torch.tensor(offset + 0.1)
    pair = torch.stack([low, torch.nextafter(low, torch.tensor(math.inf))])
    assert 0 < RunningMoments().updated(pair).std < 1e-3
    assert 0 < FixedMoments.of(pair).std < 1e-3


@quick
@given(batches())
def test_fixed_moments_make_mean_0_and_deviation_1(batches):
    scores = torch.cat(batches)
    fixed = FixedMoments.of(scores)
    assert fixed.mean == pytest.approx(oracle.mean(scores.tolist()), rel=1e-12, abs=1e-12)
    assert fixed.std == pytest.approx(oracle.std(scores.tolist(), unbiased=False), rel=1e-9)
    scaled = fixed.scaled(scores)
    close(scaled.mean(), 0.0, atol=1e-8)
    close(scaled.var(correction=0), 1.0, rtol=1e-7)
    assert fixed.updated(100 * scores) is fixed


def test_fixed_moments_without_a_spread_take_off_the_mean():
    assert FixedMoments.of(floats(0.3)) == FixedMoments(mean=0.3, std=1)
    thirds = torch.full((3,), 0.1, dtype=torch.float64)
    assert FixedMoments.of(thirds).std == 1
    close(FixedMoments.of(thirds).scaled(thirds), [0, 0, 0], atol=1e-15)


@pytest.mark.parametrize("scaling", [RunningScaling(), RunningScaling(centred=True), FixedMoments(mean=2, std=4)])
def test_scores_keep_their_precision_and_half_precision_is_widened(scaling):
    for dtype, expected in ((torch.float64,) * 2, (torch.float32,) * 2, (torch.bfloat16, torch.float32)):
        scores = torch.tensor([1.0, 2.0], dtype=dtype)
        assert scaling.updated(scores).scaled(scores).dtype == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_none_would_spoil_all_later_ones(bad):
    for take in (RunningMoments().updated, RunningScaling().updated, FixedMoments.of):
        with pytest.raises(ValueError, match=f"a score is {bad}; moments need"):
            take(floats(1, bad))
        with pytest.raises(ValueError, match="there is no score; moments need"):
            take(floats())


@pytest.mark.parametrize("std", [0, -1, math.nan, math.inf])
def test_fixed_moments_that_are_none(std):
    with pytest.raises(ValueError, match="std = "):
        FixedMoments(mean=0, std=std)
    with pytest.raises(ValueError, match="mean = "):
        FixedMoments(mean=math.nan, std=1)
