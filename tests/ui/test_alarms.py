"""The alarms of a run: paired from their rows, told in both languages, and beside what was planned."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clearppo.catalogue.alarms import ALARMS
from clearppo.ui.alarms import Alarm, advice_of, alarms_of, as_events, as_told, in_short, sentence_of, title_of
from clearppo.ui.planned import planned
from clearppo.ui.runs import Run

ROW = {
    "step": 3, "alarm": "kl_runaway", "state": "on", "metric": "objective/kl", "value": 31.25, "limit": -20.5,
    "start": 0.4, "source": None, "sentence": "it runs", "advice": "hold it", "action": "stop",
}  # fmt: skip


def run_with(directory: Path, *rows: Any) -> Run:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (directory / "alarms.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return Run(id="x", name="x", path=directory, kind="ppo")


def found(directory: Path, *rows: Any) -> list[tuple[str, str | None, int, int | None]]:
    return [(it.alarm, it.source, it.step, it.over) for it in alarms_of(run_with(directory, *rows))]


def test_a_beginning_and_an_end_are_one_alarm(tmp_path: Path) -> None:
    jump = ROW | {"alarm": "reward_jump", "source": "brief"}
    rows = [
        ROW,
        jump | {"step": 4},
        jump | {"step": 5, "source": "kind"},
        ROW | {"step": 8, "state": "off"},
        jump | {"step": 9, "state": "off"},
        ROW | {"step": 11},
    ]
    assert found(tmp_path, *rows) == [
        ("kl_runaway", None, 3, 8),
        ("reward_jump", "brief", 4, 9),
        ("reward_jump", "kind", 5, None),
        ("kl_runaway", None, 11, None),
    ]


def test_rows_that_are_none_are_left_out(tmp_path: Path) -> None:
    rows = [
        "rubbish", "[1]", "{}", '{"step": "3", "alarm": "kl_runaway"}', ROW | {"alarm": 7}, ROW | {"state": "off"},
        ROW | {"state": "maybe"}, ROW, ROW | {"step": 4}, '{"step": 9, "alarm": "kl_run',
    ]  # fmt: skip
    assert found(tmp_path, *rows) == [("kl_runaway", None, 3, None)]
    assert found(tmp_path) == []
    assert alarms_of(Run(id="x", name="x", path=tmp_path / "absent", kind="ppo")) == ()


def test_values_that_are_none_are_missing(tmp_path: Path) -> None:
    strange = ROW | {"value": "31", "limit": None, "metric": 4, "sentence": ["x"], "advice": None, "action": {}}
    (alarm,) = alarms_of(run_with(tmp_path, json.dumps(strange | {"start": float("nan")})))
    assert {alarm.value, alarm.limit, alarm.start, alarm.metric, alarm.sentence, alarm.action} == {None}
    assert sentence_of(alarm, "en") == ""
    assert advice_of(alarm, "en") == ALARMS["kl_runaway"].advice[0]
    assert as_told([alarm])[0]["title"] == {"en": "KL runs away", "zh": "KL 失控"}


def test_the_file_is_read_again_when_it_has_grown(tmp_path: Path) -> None:
    assert len(alarms_of(run_with(tmp_path, ROW))) == 1
    run = run_with(tmp_path, ROW, ROW | {"step": 5, "state": "off"}, ROW | {"step": 6})
    assert [alarm.over for alarm in alarms_of(run)] == [5, None]


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run_with(tmp_path, ROW)
    os.symlink(tmp_path / "alarms.jsonl", tmp_path / "run" / "alarms.jsonl")
    assert alarms_of(Run(id="x", name="x", path=tmp_path / "run", kind="ppo")) == ()


def test_the_run_speaks_english_and_the_numbers_chinese(tmp_path: Path) -> None:
    (alarm,) = alarms_of(run_with(tmp_path, ROW | {"source": "brief"}))
    assert title_of(alarm, "en") == "KL runs away (brief)"
    assert title_of(alarm, "zh") == "KL 失控（brief）"
    assert (sentence_of(alarm, "en"), advice_of(alarm, "en")) == ("it runs", "hold it")
    assert sentence_of(alarm, "zh") == "objective/kl 为 31.25，界限 −20.5，开始时 0.4"
    assert advice_of(alarm, "zh") == ALARMS["kl_runaway"].advice[1]


def test_an_alarm_of_a_newer_version_is_called_by_its_name() -> None:
    alarm = Alarm(
        alarm="moon_full", step=1, over=None, metric="moon", source=None, value=1.0, limit=0.5, start=None,
        sentence=None, advice=None, action="howl",
    )  # fmt: skip
    assert title_of(alarm, "zh") == "Moon_full"
    assert sentence_of(alarm, "en") == "moon is 1, limit 0.5"
    assert advice_of(alarm, "en") == advice_of(alarm, "zh") == ""


def test_events_and_the_list(tmp_path: Path) -> None:
    alarms = alarms_of(run_with(tmp_path, ROW, ROW | {"step": 8, "state": "off"}, ROW | {"step": 9}))
    events = [(event["step"], event["kind"], event["text"]) for event in as_events(alarms)]
    assert events == [
        (3, "alarm", "KL runs away: it runs"),
        (8, "alarm_over", "KL runs away: over"),
        (9, "alarm", "KL runs away: it runs"),
    ]
    assert as_events(alarms)[1]["words"]["zh"] == "KL 失控：已解除"
    assert [(it["alarm"], it["step"], it["over"]) for it in in_short(alarms)] == [
        ("kl_runaway", 3, 8),
        ("kl_runaway", 9, None),
    ]


# --------------------------------------------------------------------------------------------- planned and measured

TIMES = {
    0: {"time/evaluating": 1.0},
    1: {"time/sampling": 2.0, "time/learning": 3.0, "memory/sampling": 1.0, "memory/learning": 2.0},
    2: {"time/sampling": 2.0, "time/learning": 5.0, "memory/sampling": 1.5, "memory/learning": 1.25},
}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            {"peak_bytes": 3 * 2**30, "peak_phase": "learning", "seconds_per_iteration": 4.0},
            {
                "memory": {"planned": 3.0, "measured": 2.0, "phase": "learning", "measured_phase": "learning"},
                "seconds": {"planned": 4.0, "measured": 5.0},
            },
        ),
        ({"seconds_per_iteration": 4.0, "peak_bytes": "all"}, {"seconds": {"planned": 4.0, "measured": 5.0}}),
        ({"peak_phase": 1}, None),
        ([1], None),
    ],
)
def test_planned_against_measured(plan: Any, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert planned(Run(id="x", name="x", path=tmp_path, kind="ppo"), TIMES) == expected


def test_nothing_is_measured_yet(tmp_path: Path) -> None:
    run = Run(id="x", name="x", path=tmp_path, kind="ppo")
    assert planned(run, TIMES) is None
    (tmp_path / "plan.json").write_text('{"peak_bytes": 1073741824, "peak_phase": 3}')
    assert planned(run, {}) == {
        "memory": {"planned": 1.0, "measured": None, "phase": None, "measured_phase": None},
    }
