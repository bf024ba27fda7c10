"""`clearppo report`, and how the quickstart ends."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from clearppo.cli import main
from clearppo.cli.quickstart import look_inside
from tests.pages import made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made.make_sft(tmp_path / "my run")
    return tmp_path / "my run"


def test_the_command(run: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(run), "--png"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {run}/report.html and 2 figures in {run}/figures\n"
    assert {file.name for file in (run / "figures").iterdir()} == {"loss.png", "gradient.png"}


def test_elsewhere_and_in_chinese(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["report", str(run), "--output", str(page), "--language", "zh"])
    assert result.exit_code == 0, result.output
    assert "有监督微调：my run，基于 smollm2-135m-instruct" in page.read_text(encoding="utf-8")
    assert not (run / "report.html").exists()


def test_nothing_to_report_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is no run in ")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(run), "--output", str(tmp_path / "absent" / "page.html")])
    assert result.exit_code == 2
    assert "Use an --output that you may write" in result.stderr
    result = CliRunner().invoke(main, ["report", str(run), "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "does not end in .html" in result.stderr


def test_the_quickstart_writes_it_and_says_how_to_see_more(run: Path) -> None:
    said = look_inside(run)
    assert (run / "report.html").is_file()
    assert f"The report:  {run}/report.html  (clearppo report " in said
    assert f"clearppo view '{run}'" in said
    assert f"clearppo report '{run}'" in said


def test_the_quickstart_does_without_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = look_inside(run)
    assert "pip install 'clearppo[view]'" in said
    assert not (run / "report.html").exists()
