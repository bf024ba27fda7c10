"""The statistics of a report: against values from elsewhere, and against simulated samples."""

import itertools
import math
import random

import pytest

from clearppo.train import agreement as core


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_the_textbook(right: int, n: int, low: float, high: float) -> None:
    assert core.wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert core.wilson(1 - right / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(
    ("degrees", "t"), [(3, 3.182446), (5, 2.570582), (10, 2.228139), (30, 2.042272), (1000, 1.962339)]
)
def test_student_is_that_of_the_tables(degrees: int, t: float) -> None:
    assert core.student(degrees) == pytest.approx(t, rel=1e-2)


def test_pairs_of_their_own_prompts_have_no_design_effect() -> None:
    found = core.agreement([[i % 3 > 0] for i in range(300)])
    assert found.value == pytest.approx(2 / 3)
    assert found.design_effect == pytest.approx(300 / 299)
    assert found.clustered == pytest.approx(found.wilson, abs=2e-3)
    assert (found.n_pairs, found.n_prompts) == (300, 300)


def test_pairs_that_only_repeat_each_other_count_once() -> None:
    """Six pairs a prompt, all right or all wrong: the interval of 100 prompts, not of 600 pairs."""
    found = core.agreement([[i % 4 > 0] * 6 for i in range(100)])
    assert found.design_effect == pytest.approx(6 * 100 / 99)
    alone = core.agreement([[i % 4 > 0] for i in range(100)])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=2e-3)
    assert found.wilson[1] - found.wilson[0] < 0.5 * (found.high - found.low)


def test_the_wider_interval_is_quoted() -> None:
    """Half of each prompt's pairs right: prompts differ less than chance would have it; Wilson's is the wider."""
    found = core.agreement([[True, False]] * 50)
    assert (found.low, found.high) == found.wilson
    assert found.clustered[1] - found.clustered[0] < found.wilson[1] - found.wilson[0]


def test_at_the_ends() -> None:
    every = core.agreement([[True] * 6] * 20)
    assert every.value == every.high == 1.0
    assert every.low == pytest.approx(core.wilson(1.0, 20, core.student(19))[0])
    assert core.agreement([[False]] * 10).low == pytest.approx(0.0, abs=1e-12)
    one = core.agreement([[True, False, True]])
    assert (one.low, one.high) == (0.0, 1.0)
    assert core.agreement([[True], [], [False]]).n_prompts == 2
    with pytest.raises(ValueError, match="no pair"):
        core.agreement([[], []])


@pytest.mark.parametrize("dependent", [0.0, 0.5, 0.9])
def test_the_interval_covers_the_truth(dependent: float) -> None:
    """800 samples of 60 prompts of six pairs, right with probability 0.7, `dependent` of them as the prompt's first."""
    generator = random.Random(0)
    covered = narrow = 0
    for _ in range(800):
        groups = []
        for _ in range(60):
            first = generator.random() < 0.7
            groups.append([first if generator.random() < dependent else generator.random() < 0.7 for _ in range(6)])
        found = core.agreement(groups)
        covered += found.low <= 0.7 <= found.high
        narrow += found.wilson[0] <= 0.7 <= found.wilson[1]
    assert covered / 800 > 0.935
    assert (narrow / 800 < 0.9) is (dependent > 0)  # Wilson's alone would claim too much


def test_correlations() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    y = [2.0, 1.0, 4.0, 3.0, 7.0]
    # By hand: deviations of y are -1.4, -2.4, .6, -.4, 3.6; sum of products 12; 10 and 21.2 the sums of squares.
    assert core.pearson(x, y) == pytest.approx(12 / math.sqrt(10 * 21.2))
    assert core.spearman(x, y) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert core.spearman(x, [math.exp(v) for v in y]) == pytest.approx(core.spearman(x, y))
    assert core.pearson(x, [3.0] * 5) is None
    assert core.spearman([1.0] * 5, y) is None
    assert core.ranks([5.0, 1.0, 5.0, 0.0, 5.0]) == [4.0, 2.0, 4.0, 1.0, 4.0]
    for order in itertools.permutations(range(4)):
        assert core.ranks([float(v) for v in order]) == [v + 1 for v in order]


def test_quantiles_and_histogram() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [core.quantile(values, s) for s in (0, 0.5, 1, 1 / 6)] == pytest.approx([1, 2.5, 4, 1.5])
    assert core.quantile([7.0], 0.95) == 7.0
    assert core.histogram([0.0, 0.5, 1.0, 1.0, 2.0], 4) == ((0.0, 0.5, 1.0, 1.5, 2.0), (1, 1, 2, 1))
    edges, counts = core.histogram([3.0, 3.0], 4)
    assert len(edges) == 5
    assert counts == (2, 0, 0, 0)


def test_calibration_by_hand() -> None:
    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    said = [logit(0.55)] * 2 + [-logit(0.55)] * 2 + [logit(0.85)] * 3 + [-logit(0.85)] + [0.0]
    bins, error = core.calibration(said, (0.5, 0.7, 1.0))
    assert [b.n_pairs for b in bins] == [5, 4]
    assert [b.predicted for b in bins] == pytest.approx([(4 * 0.55 + 0.5) / 5, 0.85])
    assert [b.observed for b in bins] == pytest.approx([0.5, 0.75])
    assert error == pytest.approx((5 * 0.04 + 4 * 0.10) / 9)
    certain, error = core.calibration([5000.0, -5000.0], (0.5, 0.9, 1.0))
    assert [(b.predicted, b.observed, b.n_pairs) for b in certain] == [(1.0, 0.5, 2)]
    assert error == 0.5
