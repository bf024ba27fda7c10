"""The report on a reward model: numbers by hand, and a verdict that says what the numbers mean."""

import json
import math
import random
from typing import Any

import pytest

from clearppo.data.comparisons import Comparison, ComparisonSet
from clearppo.errors import DataError, TrainingError
from clearppo.train.reward_report import RewardReport, ScoredComparison, reward_report, scored


def pair(better: float, worse: float, lengths: tuple[int, int] = (5, 7), **more: Any) -> ScoredComparison:
    return ScoredComparison(scores=(better, worse), lengths=lengths, pairs=((0, 1),), **more)


def simulated(n: int, share: float, *, scale: float = 1.0, seed: int = 0, **more: Any) -> list[ScoredComparison]:
    """n pairs of which exactly `share` are right; lengths are chance."""
    generator = random.Random(seed)
    comparisons = []
    for i in range(n):
        difference = scale * abs(generator.gauss(0.9, 0.5)) * (1 if i < share * n else -1)
        lengths = (generator.randint(5, 30), generator.randint(5, 30))
        base = generator.gauss(0, 1)
        comparisons.append(pair(base + difference, base, lengths, **more))
    return comparisons


RANKED = ScoredComparison(
    scores=(2.0, 1.0, 1.0, -1.0), lengths=(4, 3, 9, 9), labels=(0.9, 0.5, 0.4, -0.3),
    pairs=((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),
)  # fmt: skip
REVERSED = ScoredComparison(scores=(0.0, 3.0), lengths=(2, 8), labels=(0.2, 0.1), pairs=((0, 1),))


def test_numbers_by_hand() -> None:
    report = reward_report([RANKED, REVERSED], clear_gap=0.5)
    assert report.accuracy.value == pytest.approx(5 / 7)  # the tie 1 : 2 and the reversed pair are wrong
    assert (report.accuracy.n_pairs, report.accuracy.n_prompts, report.n_ties) == (7, 2, 1)
    differences = [1, 1, 3, 0, 2, 2, -3]
    assert report.log_loss == pytest.approx(sum(math.log1p(math.exp(-d)) for d in differences) / 7)
    assert report.margin_kind == "labels"
    # Gaps of labels: .1 (tie), .1 (reversed), .4, .5, .7, .8, 1.2
    assert report.clear is not None
    assert (report.clear.n_pairs, report.clear.value) == (3, 1.0)
    assert report.near_ties.high == pytest.approx(0.25)
    assert (report.near_ties.agreement.n_pairs, report.near_ties.agreement.value) == (2, 0.0)
    assert sum(bin.agreement.n_pairs for bin in report.by_margin) == 7
    assert report.length.n_pairs == 6
    assert report.length.longer_wins == pytest.approx(1 / 6)
    assert report.length.prefers_longer == pytest.approx(2 / 6)
    assert report.length.right_when_longer_wins == 1.0
    assert report.length.right_when_shorter_wins == pytest.approx(3 / 5)
    assert report.scores.n == 6
    assert report.scores.mean == pytest.approx(1.0)
    assert report.scores.std == pytest.approx(math.sqrt((1 + 0 + 0 + 4 + 1 + 4) / 6))
    assert report.scores.quantiles["0"] == -1.0
    assert report.scores.quantiles["0.5"] == 1.0
    assert report.scores.quantiles["1"] == 3.0
    assert sum(report.scores.histogram_counts) == 6
    assert report.train is None


def test_the_lengths_by_hand() -> None:
    """Better one longer: 0 > 1 (4 : 3, right), 1 : 2 is shorter, and so on, pair by pair."""
    report = reward_report([RANKED])
    longer = [(0, 1)]
    shorter = [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert report.length.n_pairs == len(longer) + len(shorter)
    assert report.length.longer_wins == pytest.approx(1 / 5)
    assert report.length.prefers_longer == pytest.approx(1 / 5)
    assert report.length.right_when_longer_wins == 1.0
    assert report.length.right_when_shorter_wins == pytest.approx(3 / 4)


def test_without_labels_margins_are_the_models_own() -> None:
    report = reward_report([pair(1.0, 0.0), pair(0.0, 0.1), pair(3.0, 0.0), pair(2.0, 0.0)])
    assert report.margin_kind == "scores"
    assert report.near_ties.agreement.value == 0.0
    assert [bin.agreement.value for bin in report.by_margin] == [0.0, 1.0, 1.0, 1.0]
    some = reward_report([pair(1.0, 0.0), pair(1.0, 0.0, labels=(1.0, 0.0))])
    assert some.margin_kind == "scores"


def test_equal_gaps_are_one_bin() -> None:
    report = reward_report([pair(1.0, 0.0, labels=(1.0, 0.0))] * 8)
    assert [(bin.low, bin.high, bin.agreement.n_pairs) for bin in report.by_margin] == [(1.0, 1.0, 8)]
    assert report.near_ties == report.by_margin[0]
    assert report.clear is None


def test_calibration_reads_scores_in_logits() -> None:
    """A gain of 1 / 3 after training makes scores smaller; with it as logit_scale the report is the same."""
    raw = simulated(200, 0.7, scale=2.0)
    plain = reward_report(raw)
    shrunk = [pair(c.scores[0] / 3 + 1, c.scores[1] / 3 + 1, (c.lengths[0], c.lengths[1])) for c in raw]
    scaled = reward_report(shrunk, logit_scale=1 / 3)
    assert scaled.calibration_error == pytest.approx(plain.calibration_error)
    assert scaled.log_loss == pytest.approx(plain.log_loss)
    assert scaled.verdict == plain.verdict
    assert reward_report(shrunk).calibration_error != pytest.approx(plain.calibration_error, rel=0.05)
    assert plain.overconfidence > 0
    assert sum(bin.n_pairs for bin in plain.calibration) == 200


def test_one_prompt_in_several_rows_is_one_prompt() -> None:
    apart = simulated(60, 0.75)
    together = simulated(60, 0.75, prompt="the same")
    assert reward_report(apart).accuracy.n_prompts == 60
    found = reward_report(together).accuracy
    assert (found.n_prompts, found.n_pairs) == (1, 60)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_gap_to_training_pairs() -> None:
    report = reward_report(simulated(400, 0.7), train=simulated(400, 0.95, seed=1))
    assert report.train is not None
    assert report.train.gap == pytest.approx(0.25)
    assert report.train.low == pytest.approx(0.2, abs=0.01)
    assert report.train.high == pytest.approx(0.3, abs=0.01)
    assert report.train.train.value == 0.95


# --------------------------------------------------------------------------------------------- the verdict


def said(report: RewardReport) -> str:
    return " ".join(report.verdict.reasons)


@pytest.mark.parametrize(
    ("n", "share", "level"),
    [
        (1000, 0.72, "good"),
        (1000, 0.62, "usable"),
        (1000, 0.55, "not good enough"),
        (1000, 0.50, "not good enough"),
        (2000, 0.30, "not good enough"),
        (200, 0.70, "usable"),
        (200, 0.58, "not good enough"),
        (100, 0.58, "cannot tell"),
        (20, 0.75, "cannot tell"),
        (20, 1.0, "good"),
        (3, 1.0, "cannot tell"),
        (1, 1.0, "cannot tell"),
        (20, 0.1, "not good enough"),
    ],
)
def test_the_level(n: int, share: float, level: str) -> None:
    report = reward_report(simulated(n, share))
    assert report.verdict.level == level, said(report)
    assert report.verdict.meaning.lower().startswith(level.split()[0])
    assert f"It is right in {share:.1%} of {n} pair{'s' * (n > 1)} (of" in said(report)
    assert f"{report.accuracy.low:.1%} and {report.accuracy.high:.1%}" in said(report)
    if level == "cannot tell":
        assert "raise --eval_fraction" in said(report)


def test_how_many_pairs_it_takes() -> None:
    assert "about 400 held-out pairs" in said(reward_report(simulated(20, 0.75)))


def test_a_model_that_follows_length() -> None:
    by_length = [pair(c.lengths[0] / 10, c.lengths[1] / 10, (c.lengths[0], c.lengths[1])) for c in simulated(600, 0.5)]
    favoured = [
        c if (c.lengths[0] > c.lengths[1]) or i % 3 == 0 else pair(c.scores[1], c.scores[0], c.lengths[::-1])
        for i, c in enumerate(by_length)
    ]
    report = reward_report(favoured)
    assert report.accuracy.value > 0.7
    assert report.verdict.level == "not good enough"
    assert "prefers the longer answer in 100%" in said(report)
    assert report.length.pearson == pytest.approx(1.0)
    report = reward_report([pair(-c.scores[0], -c.scores[1], (c.lengths[0], c.lengths[1])) for c in favoured])
    assert "prefers the shorter answer in 100%" in said(report)


def test_a_model_no_better_than_length() -> None:
    longer = [
        pair(c.scores[0], c.scores[1], (30, 10) if i % 5 else (10, 30)) for i, c in enumerate(simulated(1000, 0.72))
    ]
    report = reward_report(longer)
    assert report.length.longer_wins == pytest.approx(0.8)
    assert report.verdict.level == "usable"
    assert "Always choosing the longer answer would be right as often (80%)" in said(report)


def test_a_model_that_knows_by_heart() -> None:
    report = reward_report(simulated(1000, 0.75), train=simulated(1000, 0.99))
    assert report.verdict.level == "usable"
    assert "24 points more often" in said(report)
    assert reward_report(simulated(1000, 0.75), train=simulated(1000, 0.8)).verdict.level == "good"


def test_a_few_pairs_say_nothing_of_what_it_knows_by_heart_or_of_length() -> None:
    few = reward_report(simulated(1, 0.0), train=simulated(5, 0.2))
    assert few.train is not None
    assert few.train.gap > 0.15
    assert few.train.low < 0
    assert few.verdict.level == "cannot tell"
    assert few.verdict.reasons[0].startswith("It is right in 0.0% of 1 pair (of 1 prompt) that it")
    assert len(few.verdict.reasons) == 2
    assert "1 pair)" in few.rows()[0][1]
    many = reward_report(simulated(200, 0.7), train=simulated(20, 0.9))
    assert many.train is not None
    assert (many.train.gap > 0.15, many.train.low > 0) == (True, False)
    assert "points more often" not in said(many)


def test_a_model_that_is_too_sure_or_not_sure_enough() -> None:
    assert "surer than it should be" in said(reward_report(simulated(1000, 0.72, scale=10)))
    shy = reward_report(simulated(1000, 0.9, scale=0.01))
    assert "less sure than it could be" in said(shy)
    assert shy.verdict.level == "good"


def test_a_constant_model() -> None:
    report = reward_report([pair(1.0, 1.0)] * 100)
    assert report.verdict.level == "not good enough"
    assert report.verdict.reasons[0] == "It gives every answer the same score."
    assert (report.accuracy.value, report.n_ties) == (0.0, 100)
    assert report.length.pearson is None
    json.loads(report.to_json())


def test_clear_pairs_are_named_where_there_are_labels() -> None:
    labelled = [
        pair(c.scores[0], c.scores[1], (c.lengths[0], c.lengths[1]), labels=(i % 2 + 0.3, 0.0))
        for i, c in enumerate(simulated(400, 0.75))
    ]
    report = reward_report(labelled, clear_gap=0.5)
    assert report.clear is not None
    assert report.clear.n_pairs == 200
    assert "On the 200 pairs whose labels are clearly apart it is right in 75%." in said(report)
    assert "clearly apart" not in said(reward_report(simulated(400, 0.75)))


# --------------------------------------------------------------------------------------------- what it is kept as


def test_json() -> None:
    report = reward_report([RANKED, REVERSED], train=[RANKED])
    content = json.loads(report.to_json())
    assert (content["schema"], content["version"]) == ("clearppo.reward_report", 1)
    documented = RewardReport.__doc__ or ""
    for name in content.keys() - {"schema", "version"}:
        assert f"{name} " in documented, f"{name} is not documented"
    assert content["accuracy"]["value"] == pytest.approx(5 / 7)
    assert content["verdict"]["level"] == report.verdict.level
    assert content["by_margin"][0]["agreement"]["n_pairs"] == 2
    assert len(content["scores"]["histogram_edges"]) == len(content["scores"]["histogram_counts"]) + 1
    assert content["train"]["train"]["n_pairs"] == 6


def test_lines() -> None:
    report = reward_report(simulated(500, 0.7), train=simulated(100, 0.8))
    lines = report.lines()
    assert lines[0] == report.verdict.meaning
    text = "\n".join(lines)
    assert "accuracy on held-out pairs" in text
    assert "70.0%" in text
    assert "always choosing the longer answer" in text
    assert "accuracy on pairs learned from" in text
    assert all(name and value for name, value in report.rows())
    assert "not defined" in "\n".join(reward_report([pair(1.0, 0.0, (5, 5))]).lines())


def test_what_cannot_be_reported() -> None:
    with pytest.raises(DataError, match=r"there is no held-out pair.*--eval_fraction"):
        reward_report([])
    with pytest.raises(TrainingError, match="not finite"):
        reward_report([pair(math.nan, 0.0)])


def test_from_a_comparison_set() -> None:
    messages = [{"role": "user", "content": "a"}]
    rows = (
        Comparison(prompt="a", answers=("b", "c"), pairs=((1, 0),), margins=(0.0,), choice=1, labels=(0.0, 1.0)),
        Comparison(prompt=messages, answers=("b", "c", "d"), pairs=((0, 2),), margins=(0.0,), choice=0, labels=None),
        Comparison(prompt="", answers=("b", "c"), pairs=((0, 1),), margins=(0.0,), choice=0, labels=None),
    )
    ids = (((5,), (6,)), ((5,), (6,), (7,)), ((5,), (6,)))
    comparisons = ComparisonSet(
        comparisons=rows, ids=ids, answer_tokens=((1, 2), (3, 4, 5), (6, 7)), n_too_long=0, longest=1
    )
    first, second, third = scored(comparisons, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert first == ScoredComparison(scores=(0.1, 0.2), lengths=(1, 2), pairs=((1, 0),), labels=(0.0, 1.0), prompt="a")
    assert (second.scores, second.lengths, second.labels) == ((0.3, 0.4, 0.5), (3, 4, 5), None)
    assert hash(second.prompt) != hash(first.prompt)
    assert (third.scores, third.prompt) == ((0.6, 0.7), None)
