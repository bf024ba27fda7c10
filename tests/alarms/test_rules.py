"""Each rule by hand values: the iteration in which it rings, what it says, and what it does not ring for."""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from clearppo.alarms import NAMES, RULES, Event, Facts, replayed

FACTS = Facts(batch_size=32, response_length=24, held_out=128)
Row = dict[str, float]


def quiet(step: int) -> Row:
    """An iteration in which nothing is wrong: 20 tokens an answer of 2 nats each, a little KL, all of it noisy."""
    chance = random.Random(step)
    return {
        "objective/kl": 0.3 * step**0.8,
        "objective/kl_coef": 0.05,
        "objective/entropy": 40 + chance.gauss(0, 3),
        "objective/raw_scores": 0.1 * step + chance.gauss(0, 0.2),
        "policy/entropy_avg": 2.0 + chance.gauss(0, 0.1),
        "policy/clipfrac_avg": 0.25 / step,
        "policy/grad_norm": 4 + chance.gauss(0, 0.5),
        "critic/vf_explained_var": -0.5 + 0.1 * min(step, 8) + chance.gauss(0, 0.1),
        "completions/mean_length": 20 + chance.gauss(0, 2),
        "completions/clipped_ratio": 0.4 + chance.gauss(0, 0.08),
        "completions/repetition": 0.02 + 0.01 * chance.random(),
        "sampling/log_prob_difference": 0.04 + 0.005 * chance.random(),
        "rewards/good/mean": 0.1 * step + chance.gauss(0, 0.2),
        "rewards/good/std": 1.0 + 0.1 * chance.random(),
    }


def rows(n: int, **changes: Callable[[int], float]) -> list[Row]:
    """`n` quiet iterations with other numbers for some metrics, as functions of the iteration, from 1."""
    named = {name.replace("__", "/"): value for name, value in changes.items()}
    return [{**quiet(step), **{name: value(step) for name, value in named.items()}} for step in range(1, n + 1)]


def rung(made: list[Row], facts: Facts = FACTS) -> list[tuple[int, str, str]]:
    return [(event.step, event.alarm, event.state) for event in replayed(made, facts)]


def first(made: list[Row], facts: Facts = FACTS) -> Event:
    return replayed(made, facts)[0]


def test_the_rules_have_the_names_in_their_order() -> None:
    assert tuple(RULES) == NAMES
    for rule in RULES.values():
        assert rule.advice.endswith(".")
        assert rule.patience >= 1


def test_a_quiet_run_has_no_alarm() -> None:
    assert rung(rows(200)) == []


def test_a_run_without_these_numbers_has_no_alarm() -> None:
    assert rung([{} for _ in range(50)]) == []
    assert rung([{"faults/skipped_steps": 4.0} if step % 3 else quiet(step) for step in range(1, 60)]) == []


def later(normal: float, wrong: float, at: int = 20) -> Callable[[int], float]:
    """One value until iteration `at`, another from then on."""
    return lambda step: wrong if step >= at else normal


@pytest.mark.parametrize(
    ("changes", "alarm", "step", "words"),
    [
        ({"policy__approxkl_avg": later(0.1, 150)}, "clipping_saturated", 20, "moved the policy by 150 nats a token"),
        ({"objective__kl": later(1, 35)}, "kl_runaway", 22, "the KL from the reference is 35 nats an answer"),
        ({"policy__entropy_avg": later(2, 0.7)}, "entropy_collapse", 22, "has fallen from 2 to 0.7 nats"),
        ({"completions__mean_length": later(20, 40)}, "length_growth", 24, "grown from 20 to 40 tokens"),
        ({"completions__mean_length": later(20, 9)}, "length_shrink", 24, "shrunk from 20 to 9 tokens"),
        ({"completions__repetition": later(0.02, 0.2)}, "repetition", 22, "20% of the answers' 4-grams"),
        ({"critic__vf_explained_var": later(0.3, -0.5)}, "critic_useless", 26, "variance -0.5 in the last 8"),
        ({"policy__clipfrac_avg": later(0.1, 0.35)}, "clipping_saturated", 24, "35% of the tokens are clipped"),
        ({"policy__clipfrac_avg": later(0.7, 0.7)}, "clipping_saturated", 5, "70% of the tokens are clipped"),
        ({"sampling__log_prob_difference": later(0.04, 0.15)}, "sampler_mismatch", 21, "disagree by 0.15 nats"),
        ({"sampling__log_prob_difference": later(0.4, 0.4)}, "sampler_mismatch", 2, "disagree by 0.4 nats"),
        ({"policy__grad_norm": later(4, 30)}, "gradient_spike", 20, "was 30 in this iteration, and 4 in those before"),
        ({"rewards__good__std": later(1, 0), "rewards__good__mean": later(1, 0.3)}, "reward_constant", 20, "good "),
        ({"rewards__good__mean": later(1, 3)}, "reward_jump", 21, "the mean of good has gone from 1 to 3"),
        ({"completions__clipped_ratio": later(0.4, 0.95)}, "never_ending", 24, "95% of the answers are cut at 24"),
    ],
)  # fmt: skip
def test_what_rings_and_when(changes: Mapping[str, Any], alarm: str, step: int, words: str) -> None:
    made = rows(step - 1, **changes)
    assert rung(made) == []
    event = first(rows(step, **changes))
    assert (event.step, event.alarm, event.state) == (step, alarm, "on")
    assert words in event.sentence
    assert event.metric in RULES[alarm].metrics or alarm.startswith("reward_")
    assert event.advice == RULES[alarm].advice
    assert math.isfinite(event.value)
    assert math.isfinite(event.limit)
    assert event.source == ("good" if alarm.startswith("reward_") else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective__kl": lambda step: 35 if step % 3 else 1},  # never three times in a row
        {"objective__kl": lambda step: 19},  # half of 40 nats
        {"policy__entropy_avg": later(0.04, 0.001)},  # sure of itself from the start
        {"completions__mean_length": later(20, 29)},
        {"completions__mean_length": later(6, 3)},  # only 3 tokens fewer
        {"completions__mean_length": lambda step: 60 if step % 3 == 0 else 20},  # one batch of three
        {"completions__repetition": later(0.001, 0.1)},
        {"policy__approxkl_avg": lambda _: 0.9},
        {"critic__vf_explained_var": lambda step: -0.2},  # noise around a critic that knows nothing yet
        {"critic__vf_explained_var": lambda step: -3 if step % 3 == 0 else 0.2},  # batches of equal rewards
        {"critic__vf_explained_var": lambda step: -20 * 0.9**step},  # it is learning
        {"policy__clipfrac_avg": lambda step: 0.5 * 0.8**step},
        {"policy__grad_norm": lambda step: 1.1**step},  # it grows, but not at once
        {"rewards__good__mean": lambda step: 0.4 * step},  # learned fast
        {"rewards__good__mean": lambda step: 8 if step == 20 else 1},  # one batch
        {"rewards__good__std": lambda step: 0 if step % 3 == 0 else 0.3, "rewards__good__mean": lambda _: 1},
        {"completions__clipped_ratio": later(0.97, 1), "completions__mean_length": later(20, 20)},
        {"completions__clipped_ratio": later(0.75, 0.97)},
        {"objective__kl": lambda _: math.nan, "policy__grad_norm": lambda _: math.inf},
    ],
)
def test_what_does_not_ring(changes: Mapping[str, Any]) -> None:
    steps = 28 if "completions__clipped_ratio" in changes else 60  # before so many tokens that the other rule rings
    assert rung(rows(steps, **changes)) == []


def test_a_kl_without_a_penalty_may_go_further() -> None:
    far = {"objective__kl": later(1, 35), "objective__kl_coef": lambda _: 0.0}
    assert rung(rows(40, **far)) == []
    assert rung(rows(40, **{**far, "objective__kl": later(1, 70)})) == [(22, "kl_runaway", "on")]


def test_a_kl_that_is_steered_to_may_be_twice_its_target() -> None:
    far = rows(40, objective__kl=later(1, 35))
    assert rung(far, Facts(batch_size=32, response_length=24, kl_target=18.0)) == []
    assert rung(far, Facts(batch_size=32, response_length=24, kl_target=17.0)) == [(22, "kl_runaway", "on")]


def test_a_collapse_at_once_is_measured_against_the_first_iteration() -> None:
    assert first(rows(9, policy__entropy_avg=lambda step: 2 if step == 1 else 0.2)).alarm == "entropy_collapse"
    lost = rows(9, objective__entropy=lambda step: 40 if step == 1 else 2, objective__kl=later(0, 25, at=2))
    assert rung(lost) == [(4, "kl_runaway", "on")]


def test_a_policy_that_waits_for_its_critic_is_looked_at_when_it_learns() -> None:
    facts = Facts(batch_size=32, response_length=24, warmup=10)
    made = rows(60, policy__grad_norm=later(0.02, 3, at=11))
    assert rung(made, facts) == []
    assert rung(made)[0] == (11, "gradient_spike", "on")


def test_a_constant_reward_rings_at_once_but_for_0_and_1() -> None:
    constant = {"rewards__good__std": lambda _: 1e-9}
    event = first(rows(1, rewards__good__mean=lambda _: 0.7, **constant))
    assert (event.step, event.source) == (1, "good")
    assert event.sentence == "good gives each of 32 answers the same score, 0.7: nothing can be learned from it"
    zeros = {"rewards__good__std": lambda _: 0.0, "rewards__good__mean": lambda _: 0.0}
    assert rung(rows(9, **zeros)) == [(4, "reward_constant", "on")]
    assert rung(rows(9, **zeros), Facts(batch_size=512, response_length=24)) == [(3, "reward_constant", "on")]
    assert rung(rows(16, **zeros), Facts(batch_size=8, response_length=24)) == [(16, "reward_constant", "on")]
    assert rung(rows(60, **zeros), Facts(batch_size=7, response_length=24)) == []


def test_of_two_sources_the_one_that_is_meant_is_named() -> None:
    made = [
        {**quiet(step), "rewards/a/b/mean": 0.5, "rewards/a/b/std": 0.0 if step > 5 else 1.0} for step in range(1, 10)
    ]
    (event,) = replayed(made, FACTS)
    assert (event.step, event.alarm, event.source, event.metric) == (6, "reward_constant", "a/b", "rewards/a/b/std")


def test_nothing_ends_is_said_once_there_are_enough_tokens() -> None:
    unended = {"completions__clipped_ratio": lambda _: 1.0, "completions__mean_length": lambda _: 24.0}
    (event,) = replayed(rows(12, **unended), FACTS)
    assert event.step == 8  # 32 x 24 = 768 tokens an iteration
    assert event.sentence == ("none of the 256 answers of the last 8 iterations has ended: each was cut at 24 tokens")
    assert first(rows(1, **unended), Facts(batch_size=256, response_length=24)).step == 1
    assert rung(rows(12, **unended), Facts(batch_size=32, response_length=24, endings=False)) == []
    one = rows(30, **{**unended, "completions__clipped_ratio": lambda step: 31 / 32 if step % 7 == 0 else 1.0})
    assert rung(one) == []


def evaluated(step: int, held_out: float, optimised: float = 0.7) -> Row:
    if step % 5:
        return quiet(step)
    return {**quiet(step), "eval/win_rate": optimised, "eval/win_rate/gold": held_out}


def test_a_held_out_measure_that_falls_while_the_score_does_not() -> None:
    course = dict(zip(range(5, 50, 5), (0.55, 0.62, 0.7, 0.68, 0.57, 0.55, 0.5, 0.5, 0.5), strict=True))
    made = [evaluated(step, course.get(step, 0)) for step in range(1, 42)]
    (event,) = replayed(made, FACTS)
    assert (event.step, event.alarm, event.source, event.metric) == (
        31, "held_out_apart", "gold", "eval/win_rate/gold",
    )  # fmt: skip
    assert event.limit == pytest.approx(0.7 - 2 * math.sqrt(0.5 / 128))
    assert "is 55%, and was 70% after iteration 15" in event.sentence
    fewer = Facts(batch_size=32, response_length=24, held_out=16)
    assert rung(made, fewer) == []  # 16 prompts: 0.2 may be chance
    falling = [
        {**evaluated(step, course.get(step, 0), optimised=0.9 - step / 100), "objective/raw_scores": 0.9 - step / 100}
        for step in range(1, 42)
    ]
    assert rung(falling) == []  # what is optimised falls as well
    assert rung(made[:30]) == [(30, "held_out_apart", "on")]  # the evaluation after the last iteration


def test_the_score_itself_may_fall_on_held_out_prompts() -> None:
    course = dict(zip(range(5, 50, 5), (0.6, 0.8, 0.75, 0.6, 0.55, 0.5, 0.5, 0.5, 0.5), strict=True))
    made = [evaluated(step, 0.6, optimised=course.get(step, 0)) for step in range(1, 42)]
    (event,) = replayed(made, FACTS)
    assert (event.step, event.source, event.metric) == (26, None, "eval/win_rate")
    assert "the optimised score on held-out prompts has fallen" in event.sentence
