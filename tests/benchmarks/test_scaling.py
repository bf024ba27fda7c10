"""The benchmark over several processes: its arithmetic, and that it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import layouts, scaling

REPO = Path(__file__).resolve().parents[2]


def test_medians_and_shares() -> None:
    rows = [
        {"time/sampling": 9.0, "time/feedback": 9.0, "time/learning": 9.0, "memory/learning": 9.0},
        *(
            {
                "time/sampling": 1.0, "time/feedback": 2.0, "time/learning": learning, "memory/learning": 1.5,
                "communication/sampling": 0.0, "communication/feedback": 0.5, "communication/learning": 0.5,
                "memory/sampling": 1.25,
            }
            for learning in (1.0, 2.0, 7.0)
        ),
    ]  # fmt: skip
    found = scaling.timed(rows)
    assert found["iteration_s"] == 5.0
    assert found["phases"] == {"sampling": 1.0, "feedback": 2.0, "learning": 2.0}
    assert found["communication_share"] == pytest.approx(1 / 5)
    assert found["communication"]["learning"] == 0.5
    assert found["peak_gib"] == 1.5


def test_twice_the_answers_in_the_same_time() -> None:
    alone = {"processes": 1, "batch": 8, "iteration_s": 4.0}
    assert scaling.efficiency(alone, {"processes": 2, "batch": 16, "iteration_s": 4.0}) == (2.0, 1.0)
    assert scaling.efficiency(alone, {"processes": 4, "batch": 8, "iteration_s": 2.0}) == (2.0, 0.5)


def test_cases() -> None:
    chosen = scaling.checked(scaling.arguments().parse_args(["--processes", "4,2", "--kinds", "full", "--batch", "3"]))
    found = [(case["processes"], case["kind"], case["scaling"], case["batch"]) for case in scaling.cases(chosen)]
    assert found == [
        (1, "none", "strong", 3),
        (2, "full", "strong", 3),
        (4, "full", "strong", 3),
        (2, "full", "weak", 6),
        (4, "full", "weak", 12),
    ]
    with pytest.raises(SystemExit, match="half is none of none, full"):
        scaling.checked(scaling.arguments().parse_args(["--kinds", "half"]))


@pytest.mark.parametrize("asked", [("1 B", "all weights", 1), ("8 B", "four models", 8), ("70 B", "LoRA", 64)])
def test_rows_of_the_page_are_what_plan_says(asked: tuple[str, str, int]) -> None:
    line = f"| {' | '.join(layouts.row(*asked))} |"
    assert line in layouts.PAGE.read_text(encoding="utf-8"), "run python -m benchmarks.layouts --write"


@pytest.mark.slow
def test_the_tables_of_the_page_are_what_plan_says() -> None:
    page = layouts.PAGE.read_text(encoding="utf-8")
    assert layouts.with_tables(page, layouts.tables()) == page, "run python -m benchmarks.layouts --write"
    assert page.count("| 70 B | four models |") == 3


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = [sys.executable, "-m", "benchmarks.scaling", "--smoke", "--output", str(file)]
    done = subprocess.run(words, cwd=REPO, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert [one["processes"] for one in results] == [1, 2, 2, 2, 2]
    assert results[0]["communication_share"] == 0.0
    assert all(0.0 < one["communication_share"] < 1.0 for one in results[1:])
    assert "of ideal" in done.stdout
