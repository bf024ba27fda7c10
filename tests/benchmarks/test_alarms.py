"""The arithmetic of the benchmark of alarms: what counts as found, as false, and as kept."""

import pytest

from benchmarks.alarms import CASES, Seen, judged, poisson_upper, shown


def seen(*alarms: str, looks: tuple[str, ...] = (), stops: tuple[str, ...] = ()) -> Seen:
    return Seen(iterations=30, alarms=list(alarms), looks=list(looks), stops=list(stops))


def test_most_that_chance_allows() -> None:
    """The rule of three, and a value of the tables (Garwood 1936)."""
    assert poisson_upper(0) == pytest.approx(2.9957, abs=1e-3)
    assert poisson_upper(1) == pytest.approx(4.7439, abs=1e-3)


def test_one_false_alarm_is_kept_and_two_are_not() -> None:
    assert judged({"RLOO": seen("reward_jump@3"), "LoRA": seen()})["kept"]
    assert not judged({"RLOO": seen("reward_jump@3"), "LoRA": seen("reward_jump@9")})["kept"]
    assert not judged({"RLOO": seen(stops=("eos",))})["kept"]


def test_a_fault_is_found_by_its_own_alarm_and_check() -> None:
    name = "constant reward"
    right = judged({name: seen("reward_constant@1", stops=("reward_spread",))})
    assert right["kept"]
    other = judged({name: seen("kl_runaway@4", stops=("reward_spread",))})
    assert other["missed"] == {name: ["reward_constant"]}
    assert judged({name: seen("reward_constant@1")})["missed"] == {name: ["reward_spread"]}
    assert "Not found in constant reward: reward_constant." in shown(other)


def test_five_runs_are_healthy_and_five_are_not() -> None:
    assert sum(case.healthy for case in CASES.values()) == 5
    assert len(CASES) == 10
