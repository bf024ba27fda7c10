"""What the checks make of numbers: each threshold from both sides, by hand."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from clearppo.errors import RewardError
from clearppo.train.agreement import agreement
from clearppo.train.doctor import answers, learning, machine, prompts, rewards
from clearppo.train.doctor.asking import Replies, Source
from clearppo.train.doctor.brief import in_brief
from clearppo.train.doctor.finding import Diagnosis, Finding, Problem, finding, worst
from tests.tiny import tiny_tokenizer


def replies(*total: float) -> Replies:
    return Replies(total=total, scores=())


def test_the_worst_problem_decides_and_stands_first() -> None:
    problems = [Problem("look", "A.", "B."), Problem("stop", "C.", "D."), Problem("look", "A.", "B.")]
    found = finding("eos", "5", problems, "fine")
    assert (found.verdict, found.reason, found.mend) == ("stop", "C. A.", "D. B.")
    assert str(found) == "eos: 5. C. A. D. B."
    assert finding("eos", "5", [], "Fine.").reason == "Fine."
    assert worst([]) == "ok"


@pytest.mark.parametrize("wrong", [{"name": "nose"}, {"mend": "Do it."}, {"verdict": "stop"}])
def test_a_finding_makes_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"check|mend"):
        Finding(**{"name": "eos", "verdict": "ok", "measured": "1", "reason": "Well.", "mend": ""} | wrong)


def test_a_diagnosis_keeps_its_order_and_does_not_leave_out_what_was_made() -> None:
    found = Diagnosis(step="ppo")
    found.add(finding("disk", "1", [], ""), finding("eos", "1", [Problem("look", "x", "y")], ""))
    found.add(finding("pad", "1", [], ""))
    found.leave_out(["pad", "memory"], "because")
    assert [one.name for one in found.findings] == ["eos", "pad", "disk"]
    assert found.verdict == "look"
    assert found.to_json()["not_checked"] == {"memory": "because"}


def test_in_brief() -> None:
    fine, wrong = finding("pad", "1", [], ""), finding("eos", "2", [Problem("stop", "It.", "Do.")], "")
    assert in_brief([fine])[0].startswith("doctor, in brief: pad, disk ok")
    lines = in_brief([fine, wrong])
    assert lines[0] == "doctor says STOP: eos: 2. It. Do."
    assert "1 to look at" in lines[1]


# ------------------------------------------------------------------------------------------------ prompts


@pytest.mark.parametrize(("copies", "verdict"), [(2, "ok"), (3, "look"), (5, "look"), (6, "stop")])
def test_duplicate_prompts(copies: int, verdict: str) -> None:
    rows = [f"prompt {i}" for i in range(10 - copies)] + ["Prompt  0 "] * copies
    found = prompts.duplicate_prompts(rows)
    assert (found.verdict, found.measured) == (verdict, f"{copies * 10}% of 10 prompts")


def test_duplicates_among_messages_and_tokens() -> None:
    chats = [(("user", "Hi "),), (("user", "hi"),), (("user", "yes"),)]
    assert prompts.duplicate_prompts(chats).measured == "33% of 3 prompts"
    assert "'hi'" in prompts.duplicate_prompts(chats[:2]).reason
    assert prompts.duplicate_prompts([(1, 2), (1, 2), (1, 3)]).measured == "33% of 3 prompts"


def test_prompts_that_are_measured_with_and_learned_from() -> None:
    rows = [f"prompt {i}" for i in range(20)]
    assert prompts.duplicate_prompts(rows, held_out=["new"] * 19 + ["prompt 1"]).verdict == "ok"
    found = prompts.duplicate_prompts(rows, held_out=["new"] * 18 + ["prompt 1", "PROMPT 2"])
    assert found.verdict == "look"
    assert "2 of the 20 held-out" in found.reason


@pytest.mark.parametrize(("left_out", "verdict"), [(0, "ok"), (5, "ok"), (6, "look"), (95, "look"), (96, "stop")])
def test_prompts_length(left_out: int, verdict: str) -> None:
    lengths = [3] * 94 + [9]
    found = prompts.prompts_length(lengths, left_out=left_out, limit=9, option="max_prompt_length", noun="prompts")
    assert found.verdict == verdict
    assert found.measured == "95 prompts of 3 to 9 tokens, half of them up to 3"
    assert ("--max_prompt_length" in found.mend) == (verdict != "ok")


def test_pad() -> None:
    assert "the EOS" in prompts.pad(tiny_tokenizer(), 160).measured
    assert prompts.pad(tiny_tokenizer(pad=None), 160).measured == "none"
    own = tiny_tokenizer(pad="<pad>")
    assert prompts.pad(own, 160).verdict == "ok"
    assert prompts.pad(own, own.pad_token_id).verdict == "stop"


# ------------------------------------------------------------------------------------------------ answers

ENDINGS = answers.Endings(
    ids=frozenset({1}), vocabulary=10, words="'<eos>'", response_length=64, ended=0, lengths=[64] * 8,
    likeliest=1e-3, expected=0.01, after_sentence=2e-3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "chat", "fined", "verdict"),
    [
        ({}, False, False, "ok"),
        ({}, True, False, "look"),
        ({}, False, True, "look"),
        ({"response_length": 128}, False, False, "look"),
        ({"response_length": 15}, True, False, "ok"),
        ({"ended": 1}, True, True, "ok"),
        ({"ended": 8, "lengths": [1] * 5 + [9] * 3}, False, False, "look"),
        ({"after_sentence": 9e-4}, True, False, "stop"),
        ({"after_sentence": 9e-4}, False, False, "ok"),
        ({"after_sentence": 9e-6}, False, False, "stop"),
        ({"after_sentence": 9e-6, "expected": 0.06}, False, False, "ok"),
        ({"after_sentence": None}, False, False, "ok"),
        ({"after_sentence": None, "likeliest": 9e-6}, False, False, "stop"),
        ({"ids": frozenset({10}), "ended": 1}, False, False, "stop"),
    ],
)
def test_eos(change: dict[str, Any], chat: bool, fined: bool, verdict: str) -> None:
    assert answers.eos(replace(ENDINGS, **change), chat=chat, fined=fined).verdict == verdict


@pytest.mark.parametrize(
    ("length", "available", "expected"), [(20, 100, 16), (20, 3, 3), (1024, 100, 8), (10**6, 9, 4)]
)
def test_longer_answers_to_fewer_prompts(length: int, available: int, expected: int) -> None:
    assert answers.n_prompts(length, available) == expected


# ------------------------------------------------------------------------------------------------ rewards


def test_a_constant_score_and_one_that_is_constant_on_these_answers() -> None:
    pairs = [(0, 1), (2, 3)]
    assert rewards.reward_spread(replies(1, 1, 1, 1), pairs, 0, [1.0, 1.0]).verdict == "stop"
    seldom = rewards.reward_spread(replies(0, 0, 0, 0), pairs, 0, [0.0, 1.0])
    assert seldom.verdict == "look"
    assert "1" in seldom.reason


def test_spread_within_and_between_prompts() -> None:
    pairs = [(0, 1), (2, 3)]
    # variance over n - 1: 8/3 between 1, 1, 3, 3; within: 0
    assert rewards.reward_spread(replies(1, 1, 3, 3), pairs, 0, []).verdict == "look"
    found = rewards.reward_spread(replies(1, 2, 3, 4), pairs, 0, [])
    assert (
        found.measured == "standard deviation 1.118, 30% of the variance between answers to one prompt"
    )  # 0.5 / (5/3)
    assert found.verdict == "ok"
    assert "--temperature" in rewards.reward_spread(replies(1, 1, 3, 3), pairs, 2, []).mend
    missing = rewards.reward_spread(replies(1, math.nan, 3, 4), pairs, 0, [])
    assert missing.verdict == "ok"


def lengths(over: float | None, same: float | None, n: int = 32) -> Finding:
    return rewards.reward_length(rewards.Lengths(n=n, over_answers=over, n_same=16, same_answer=same))


@pytest.mark.parametrize(
    ("over", "same", "n", "verdict"),
    [
        (0.85, 1.0, 32, "stop"), (0.85, 0.0, 32, "stop"), (0.85, 0.0, 8, "look"), (0.79, 1.0, 32, "look"),
        (0.55, 0.2, 32, "look"), (0.55, 0.2, 8, "ok"), (0.45, 0.75, 32, "ok"), (0.0, 0.85, 32, "look"),
        (None, 0.85, 32, "look"), (None, None, 32, "ok"), (-0.85, -1.0, 32, "look"), (-0.7, -1.0, 32, "ok"),
    ],
)  # fmt: skip
def test_reward_length(over: float | None, same: float | None, n: int, verdict: str) -> None:
    assert lengths(over, same, n).verdict == verdict


def test_lengths_over_answers_and_over_parts_of_one() -> None:
    whole = replies(1.0, 5.0, 2.0, 6.0)
    seen = rewards.lengths(whole, [1, 5, 2, 6], [0, 2], replies(0.5, 1.0), replies(2.0, 1.5))
    assert seen.over_answers == pytest.approx(1.0)
    assert seen.same_answer == pytest.approx((1.0 + 0.5) / 2)  # 0.5 1 2 rises; of 1 2 1.5 the ranks are 1 3 2
    failed = Replies(total=None, scores=None, error=RewardError("too long"))
    assert rewards.lengths(whole, [1, 5, 2, 6], [0, 2], replies(0.5, 1.0), failed).same_answer == pytest.approx(1.0)
    assert rewards.lengths(whole, [1, 5, 2, 6], [0, 2], failed, replies(0.5, 3.0)).same_answer == pytest.approx(0.0)
    assert rewards.lengths(whole, [1, 5, 2, 6], [0, 2], failed, failed).same_answer is None


def test_edge_cases() -> None:
    real, best = [0.0, 1.0, 2.0, 3.0], [1.0, 3.0]
    worse = rewards.reward_edge_cases(real, best, {"an empty answer": replies(0.0, 0.0)})
    assert (worse.verdict, worse.measured) == ("ok", "real answers 1.5; an empty answer 0")
    better = rewards.reward_edge_cases(real, best, {"an empty answer": replies(4.0, 4.0)})
    assert better.verdict == "look"
    assert "An empty answer gets 4" in better.reason
    # more than three quarters of all, and yet to one prompt of two less than a real one
    assert rewards.reward_edge_cases(real, best, {"an empty answer": replies(2.9, 2.9)}).verdict == "ok"
    failed = Replies(total=None, scores=None, error=RewardError("it is nan for row 1."))
    broken = rewards.reward_edge_cases(real, best, {"an empty answer": failed, "a blank answer": replies(0, 0)})
    assert broken.verdict == "stop"
    assert "nan for row 1" in broken.reason
    none = replies(math.nan, math.nan)
    assert "an empty answer: none" in rewards.reward_edge_cases(real, best, {"an empty answer": none}).measured


SOURCE = Source(name="f", milliseconds=2.0, none=0.0, agreement=None, by_order=False)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "ok"), ({"agreement": 0.9}, "look"), ({"agreement": 0.4}, "stop"), ({"milliseconds": 1500.0}, "look"),
        ({"agreement": 0.4, "by_order": True}, "look"), ({"none": 0.5}, "ok"),
    ],
)  # fmt: skip
def test_reward_functions(change: dict[str, Any], verdict: str) -> None:
    assert rewards.reward_functions([SOURCE, replace(SOURCE, name="g", **change)]).verdict == verdict


def test_missing_scores() -> None:
    assert rewards.reward_finite(replies(1, 2, 3, 4, math.nan)).verdict == "ok"
    few = rewards.reward_finite(replies(1, 2, math.nan))
    assert few.verdict == "look"
    assert few.measured == "2 answers scored 1 to 2, 1 without a score"


@pytest.mark.parametrize(
    ("right", "n", "verdict"), [(0.9, 60, "ok"), (0.5, 60, "look"), (0.5, 120, "stop"), (0.1, 60, "stop")]
)
def test_reward_pairs(right: float, n: int, verdict: str) -> None:
    found = rewards.reward_pairs(agreement([[i < right * n] for i in range(n)]), "pairs.jsonl")
    assert found.verdict == verdict


# ------------------------------------------------------------------------------------------------ learning

PRICE = learning.Price(coef=0.05, held_by_loss=0.0, adaptive=False, target=6.0, reach=1.2, learned_score=True)
ONE = [1.0, -1.0]  # a standard deviation of 1


@pytest.mark.parametrize(
    ("scores", "change", "verdict"),
    [
        (ONE, {}, "ok"),
        (ONE, {"coef": 5e-5}, "look"),
        (ONE, {"coef": 1.0}, "ok"),  # the article's
        ([0.1, -0.1], {"coef": 1.0}, "ok"),
        (ONE, {"coef": 11.0}, "look"),
        ([100.0, -100.0], {}, "look"),  # 10 nats cost 0.005 deviations
        (ONE, {"coef": 5e-5, "held_by_loss": 0.04}, "ok"),
        (ONE, {"coef": 0.0}, "look"),
        (ONE, {"coef": 0.0, "learned_score": False}, "ok"),
        (ONE, {"coef": 11.0, "adaptive": True}, "ok"),
        (ONE, {"coef": 5e-5, "adaptive": True}, "look"),
        (ONE, {"coef": 5e-5, "adaptive": True, "reach": 100.0}, "ok"),
        (ONE, {"adaptive": True, "target": 1000.0}, "look"),
    ],
)
def test_kl_against_reward(scores: list[float], change: dict[str, Any], verdict: str) -> None:
    found = learning.kl_against_reward(scores, replace(PRICE, **change))
    assert found.verdict == verdict


def test_the_coefficient_that_is_proposed() -> None:
    found = learning.kl_against_reward([20.0, -20.0], replace(PRICE, coef=1e-4))
    assert found.measured == "10 nats cost 5e-05 standard deviations of the score (0.0001 x 10 / 20)"
    assert "--kl_coef around 0.2 to 4" in found.mend


START = learning.Start(values=0.0, spread=0.0, returns=1.0, error=1.0, explained=0.0, broken=0, gradient=3.0)


@pytest.mark.parametrize(
    ("change", "learns", "verdict"),
    [
        ({}, True, "ok"),
        ({"values": 9.0, "spread": 1.0}, True, "ok"),
        ({"values": 11.0, "spread": 1.0}, True, "stop"),
        ({"values": 1.0, "spread": 0.0}, True, "stop"),
        ({"values": 1.0, "returns": 0.0, "spread": 1.0}, True, "stop"),
        ({"broken": 1}, True, "stop"),
        ({"gradient": None}, True, "stop"),
        ({"gradient": 0.0}, True, "stop"),
        ({"gradient": math.nan}, True, "stop"),
        ({}, False, "look"),
    ],
)
def test_critic_start(change: dict[str, Any], learns: bool, verdict: str) -> None:
    assert learning.critic_start(replace(START, **change), learns=learns).verdict == verdict


# ------------------------------------------------------------------------------------------------ the machine


@dataclass
class Plan:
    peak_bytes: float = 8 * 2**30
    peak_phase: str = "learning"
    available_bytes: float | None = 16 * 2**30
    seconds_per_iteration: float | None = 30.0
    total_seconds: float | None = 3000.0


def test_memory_and_time() -> None:
    found = machine.memory(Plan())
    assert (found.verdict, found.measured) == ("ok", "peak 8.0 GiB in learning of 16.0 GiB")
    assert machine.memory(Plan(available_bytes=8.5 * 2**30)).verdict == "look"
    assert machine.memory(Plan(available_bytes=7 * 2**30)).verdict == "stop"
    assert machine.memory(Plan(available_bytes=None)).verdict == "ok"
    assert machine.duration(Plan(), 100, "iteration").measured == "about 50.0 minutes: 100 iterations of 30 s"
    assert machine.duration(Plan(total_seconds=2e5), 100, "iteration").verdict == "look"
    assert machine.duration(Plan(seconds_per_iteration=None), 100, "iteration").verdict == "ok"


def test_disk() -> None:
    gib = 2**30
    assert machine.disk(gib, 2 * gib, "o").verdict == "ok"
    full = machine.disk(2 * gib, gib, "o")
    assert full.verdict == "stop"
    assert "--save_steps 0" in full.mend
    assert "--save_steps 0" not in machine.disk(2 * gib, gib, "o", checkpoints=False).mend
    assert machine.disk(gib, 2 * gib, "o", held="o holds a run.").verdict == "look"
    assert machine.disk(gib, 2 * gib, "o", refused=True).verdict == "stop"
