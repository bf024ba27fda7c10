"""When an alarm begins and when it is over, and that a run which goes on comes to the same events."""

import json
from collections.abc import Callable

import pytest

from clearppo.alarms import Alarms, Facts, replayed
from tests.alarms.test_rules import FACTS, Row, later, rows


def wave(*parts: tuple[int, float]) -> Callable[[int], float]:
    """A value for so many iterations, then another, and so on."""
    values = [value for n, value in parts for _ in range(n)]
    return lambda step: values[min(step, len(values)) - 1]


def events(made: list[Row], facts: Facts = FACTS) -> list[tuple[int, str]]:
    return [(event.step, event.state) for event in replayed(made, facts)]


def test_one_event_when_it_begins_and_one_when_it_is_over() -> None:
    made = rows(40, objective__kl=wave((10, 1), (10, 32), (10, 2), (10, 32)))
    assert events(made) == [(13, "on"), (23, "off"), (33, "on")]
    over = replayed(made, FACTS)[1]
    assert over.sentence.startswith("objective/kl is 2, and not beyond its limit of ")
    assert over.advice == ""


def test_what_stays_near_its_limit_does_not_ring_again_and_again() -> None:
    assert events(rows(60, policy__clipfrac_avg=lambda step: 0.29 if step % 8 < 3 else 0.32)) == [(7, "on")]
    assert events(rows(60, policy__clipfrac_avg=lambda step: 0.2 if 20 < step < 24 else 0.32)) == [
        (5, "on"), (23, "off"), (28, "on"),
    ]  # fmt: skip


def test_an_iteration_that_was_left_out_counts_for_nothing() -> None:
    made = rows(5, objective__kl=later(1, 40, at=3))
    assert events([*made[:4], {"faults/skipped_steps": 4.0}, made[4]]) == [(6, "on")]


def test_what_is_not_looked_for_does_not_ring() -> None:
    alarms = Alarms(FACTS, {"kl_runaway": "off"})
    made = rows(20, objective__kl=lambda _: 100.0)
    assert [alarms.look(n, made[:n]) for n in range(1, 20)] == [[]] * 19
    assert alarms.on == []


def test_how_many_are_on_and_since_when() -> None:
    alarms = Alarms(FACTS, {"kl_runaway": "stop"})
    made = rows(20, objective__kl=later(1, 32, at=10), policy__entropy_avg=later(2, 0.1, at=11))
    found = [event for n in range(1, 14) for event in alarms.look(n, made[:n])]
    assert [(event.alarm, event.step, event.action, alarms.since(event)) for event in found] == [
        ("kl_runaway", 12, "stop", 10), ("entropy_collapse", 13, "note", 11),
    ]  # fmt: skip
    assert alarms.on == ["kl_runaway", "entropy_collapse"]


@pytest.mark.parametrize("stop", range(1, 40, 3))
def test_a_state_through_json_leads_to_the_same_events(stop: int) -> None:
    made = rows(
        40,
        objective__kl=wave((10, 1), (10, 32), (10, 2), (10, 32)),
        completions__mean_length=wave((15, 20), (15, 60), (10, 20)),
        rewards__good__std=wave((18, 1), (4, 0), (18, 1)),
    )
    whole, first, second = Alarms(FACTS), Alarms(FACTS), Alarms(FACTS)
    expected = [event for n in range(1, 41) for event in whole.look(n, made[:n])]
    assert len(expected) >= 6
    found = [event for n in range(1, stop + 1) for event in first.look(n, made[:n])]
    second.load_state(json.loads(json.dumps(first.state())))
    again = json.loads(json.dumps(made))
    found += [event for n in range(stop + 1, 41) for event in second.look(n, again[:n])]
    assert found == expected
    assert [json.dumps(event.row()) for event in found] == [json.dumps(event.row()) for event in expected]


def test_the_state_is_small_when_nothing_is_wrong() -> None:
    alarms, made = Alarms(FACTS), rows(100)
    for n in range(1, 101):
        alarms.look(n, made[:n])
    assert len(json.dumps(alarms.state())) < 500


def test_looking_costs_the_same_after_thousands_of_iterations() -> None:
    made = rows(6000)
    touched = 0

    class Counting(list[Row]):
        def __getitem__(self, item: object) -> object:  # type: ignore[override]
            nonlocal touched
            found = super().__getitem__(item)  # type: ignore[index]
            touched += len(found) if isinstance(item, slice) else 1
            return found

    Alarms(FACTS).look(6000, Counting(made))
    assert touched < 1500
