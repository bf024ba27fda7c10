"""The arithmetic of the benchmark of the record."""

from pathlib import Path

import pytest

from benchmarks import record
from tests.tiny import tiny_causal_lm


def test_medians_of_all_but_the_first_iteration() -> None:
    found = record.summary([9.0, 2.2, 4.1, 3.3], [5.0, 0.2, 0.1, 0.3], [900, 10, 20, 60], [1, 2, 3, 5])
    assert found["iteration_s"] == pytest.approx(3.0)
    assert found["record_s"] == pytest.approx(0.2)
    assert found["share"] == pytest.approx(0.2 / 3.0)
    assert (found["bytes"], found["bytes_per_token"]) == (20, 9.0)


def test_it_measures_a_run(tmp_path: Path) -> None:
    model = tiny_causal_lm(tmp_path / "model")
    words = ["--model", model, "--iters", "2", "--batch", "4", "--response", "3", "--device", "cpu"]
    result = record.measure(record.arguments().parse_args(words), str(tmp_path))
    assert result["record_s"] > 0
    assert result["iteration_s"] > 0
    assert result["bytes_per_token"] > 0
    assert "bytes a token" in record.shown(result)
