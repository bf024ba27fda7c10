"""Where a report is written, and what it is made from: nothing else is replaced, and what is odd is no traceback."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clearppo.cli import main
from clearppo.errors import RunDirError
from clearppo.ui import report_file
from clearppo.ui.report import write_report
from clearppo.ui.report_file import clean
from clearppo.ui.report_results import of_evaluation
from clearppo.ui.report_words import words
from clearppo.ui.runs import Run
from tests.pages import made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    made.make(place)
    return place


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "sft", tmp_path / "r1"))


@pytest.fixture
def ppo(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "ppo-a", tmp_path / "ppo"))


def report(*given: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, given)])


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in said), result.stderr


# ---------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "mine.txt", "model.safetensors", "new", "new.htm", ".html"]
)
def test_a_page_is_named_as_one(run: Path, name: str) -> None:
    target = run / name
    if name in ("mine.txt", "model.safetensors"):
        target.write_bytes(b"mine")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    refused(report(run, "--output", target), "does not end in .html", name)
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_no_name_is_no_page(run: Path) -> None:
    refused(report(run, "--output", ""), "does not end in .html")


def test_a_page_of_somebody_else_stays(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "thesis.html"
    page.write_text("<html>mine</html>")
    refused(report(run, "--output", page), "thesis.html is there already and is no report", "--output")
    assert page.read_text() == "<html>mine</html>"
    (run / "report.html").write_text("mine")
    refused(report(run), "report.html is there already")


def test_a_report_is_replaced(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.HTML"
    assert report(run, "--output", page).exit_code == 0
    first = page.read_text(encoding="utf-8")
    assert first.index('<meta name="generator" content="clearppo report">') < report_file.HEAD
    assert report(run, "--output", page, "--language", "zh").exit_code == 0
    assert page.read_text(encoding="utf-8") != first


@pytest.mark.parametrize("to", ["report", "other", "nothing"])
def test_a_link_is_not_replaced(run: Path, tmp_path: Path, to: str) -> None:
    there, link = tmp_path / "there.html", tmp_path / "link.html"
    if to == "report":
        write_report(run, output=there)
    elif to == "other":
        there.write_text("mine")
    link.symlink_to(there)
    before = there.read_bytes() if there.exists() else None
    refused(report(run, "--output", link), "is a link")
    assert link.is_symlink()
    assert (there.read_bytes() if there.exists() else None) == before


@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "no report"), (os.mkdir, "a directory")])
def test_only_a_regular_file_is_replaced(run: Path, tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    target = tmp_path / "odd.html"
    make(target)
    mode = target.lstat().st_mode
    refused(report(run, "--output", target), said)
    assert target.lstat().st_mode == mode


def test_figures_lie_beside_the_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before = sorted(run.iterdir())
    result = report(run, "--png", "--output", tmp_path / "out" / "page.html")
    assert result.stdout == f"wrote {tmp_path}/out/page.html and 2 figures in {tmp_path}/out/figures\n"
    assert {file.name for file in (tmp_path / "out" / "figures").iterdir()} == {"loss.png", "gradient.png"}
    assert sorted(run.iterdir()) == before
    assert report(run, "--png", "--output", tmp_path / "out" / "page.html").exit_code == 0  # replaces its own


def test_a_file_in_the_place_of_the_figures(run: Path) -> None:
    (run / "figures").write_text("f")
    refused(report(run, "--png"), "figures is a file", "--output")
    assert not (run / "report.html").exists()
    assert (run / "figures").read_text() == "f"


def test_figures_of_somebody_else_stay(run: Path) -> None:
    (run / "figures" / "loss.png").mkdir(parents=True)
    (run / "figures" / "loss.png" / "data").write_text("mine")
    (run / "figures" / "gradient.png").write_bytes(b"\x89PNG mine")
    refused(report(run, "--png"), "loss.png is there already and is a directory")
    shutil.rmtree(run / "figures" / "loss.png")
    refused(report(run, "--png"), "gradient.png is there already")
    assert (run / "figures" / "gradient.png").read_bytes() == b"\x89PNG mine"
    assert not (run / "report.html").exists()


def test_figures_that_cannot_be_written_name_this_option(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(report(run, "--png"), "figures (Permission denied). Use an --output that you may write")


# ---------------------------------------------------------------- what it is made from


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "metrics.jsonl", "timings.jsonl", "samples.jsonl", "README.md", "finished.json", "best.json"],
)
def test_a_file_that_may_not_be_read(ppo: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (ppo / name).touch()
    opened = Path.open

    def denied(path: Path, *given: Any, **named: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *given, **named)

    monkeypatch.setattr(Path, "open", denied)
    refused(report(ppo), f"cannot read {ppo / name} (Permission denied)")
    assert not (ppo / "report.html").exists()


def test_a_measurement_that_may_not_be_read(ppo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def denied(path: Path, *given: Any, **named: Any) -> Any:
        if path.parent.name == "evaluation":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *given, **named)

    monkeypatch.setattr(Path, "open", denied)
    refused(report(ppo), "step-0.jsonl (Permission denied)")


def test_rows_that_are_no_samples_are_left_out(ppo: Path) -> None:
    shutil.rmtree(ppo / "evaluation")
    good = {"step": 1, "prompt": "GOOD PROMPT", "completion": "GOOD ANSWER", "score": 1e308, "kl": None}
    talk = good | {"step": 12, "prompt": [{"role": "user", "content": "A TALK"}]}
    bad: list[Any] = [good | change for change in (
        {"prompt": 5}, {"prompt": None}, {"prompt": [5]}, {"completion": 5}, {"completion": None}, {"step": "1"},
        {"step": True},
    )]  # fmt: skip
    odd = [good | {"score": "much", "kl": [1], "prompt": "ODD PROMPT"}, {"step": 1, "prompt": "BARE", "completion": ""}]
    rows = [*bad, 5, [], {"step": 1}, good, *odd, talk]
    deep = "[" * 100_000
    (ppo / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + deep)
    text = write_report(ppo)[0].read_text(encoding="utf-8")
    assert all(part in text for part in ("GOOD PROMPT", "ODD PROMPT", "BARE", "A TALK"))
    assert "much" not in text.split("GOOD PROMPT")[1].split("A TALK")[0]
    assert text.count("GOOD PROMPT") == 1


def test_a_measurement_with_odd_rows_is_left_out(ppo: Path) -> None:
    file = ppo / "evaluation" / "step-12.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    run = Run(id="a", name="a", path=ppo, kind="ppo")
    found = of_evaluation(run, 12, words("en"))
    assert found is not None
    assert list(found.measures) == ["score", "witness"]
    for change in ({"prompt": 5}, {"rewards": None}, {"kl": "x"}, {"length": None}, {"prompt": "another"}):
        file.write_text("".join(json.dumps(row) + "\n" for row in [rows[0] | change, *rows[1:]]))
        assert of_evaluation(run, 12, words("en")) is None, change
    assert "data-sample" in write_report(ppo)[0].read_text(encoding="utf-8")  # answers of samples.jsonl instead
    file.write_text("".join(json.dumps(row | {"score": 1e308, "won": "x"}) + "\n" for row in rows))
    found = of_evaluation(run, 12, words("en"))
    assert found is not None
    assert list(found.measures) == ["witness"]


NAMES = ("rm$x_{$", "_hidden", "a\0b\ud800\x1b\n\tc", "x" * 5000, "$$\\frac{1}{", "_")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_whatever_a_source_is_called(ppo: Path, language: str) -> None:
    rows = [
        {"step": step, "objective/scores": 0.1, "objective/kl": 0.1}
        | {f"rewards/{name}/mean": step + i for i, name in enumerate(NAMES)}
        | {f"eval/rewards/{name}": step + i for i, name in enumerate(NAMES)}
        | {f"time/{name}": 1.0 for name in NAMES}
        for step in range(1, 4)
    ]
    (ppo / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (ppo / "timings.jsonl").unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page, *_ = write_report(ppo, png=True, language=language)
    text = page.read_bytes().decode("utf-8")
    for name in ("sources", "evaluation", "time"):
        figure = text.split(f'data-figure="{name}"')[1].split("</figure>")[0]
        for shown in ("rm$x_{$", "_hidden", "a�b�� c", "x" * 31 + "…", "_"):
            assert f">{shown}</text>" in figure, (name, shown)


def test_many_sources_leave_room_for_their_figure(ppo: Path) -> None:
    rows = [{"step": step} | {f"rewards/source {i}/mean": step * i for i in range(60)} for step in (1, 2)]
    (ppo / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = write_report(ppo)[0].read_text(encoding="utf-8")
    assert ">+ 43</text>" in text
    assert ">source 16</text>" in text


def test_texts_that_no_file_can_hold(ppo: Path) -> None:
    shutil.rmtree(ppo / "evaluation")
    row = {"step": 1, "prompt": "a\ud800b\0c", "completion": "\udfff"}
    (ppo / "samples.jsonl").write_text(json.dumps(row) + "\n")
    text = write_report(ppo)[0].read_bytes().decode("utf-8")
    assert "a�b�c" in text
    assert clean("😀 é\n\t中") == "😀 é\n\t中"


def test_a_directory_whose_name_is_no_text(run: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"r\xff")
    shutil.copytree(run, odd)
    result = report(odd)
    assert result.exit_code == 0, result.output
    assert "r�" in (odd / "report.html").read_bytes().decode("utf-8")


@pytest.mark.parametrize("size", [1e308, 1.7e308, 1e300])
def test_numbers_beyond_all_measure(ppo: Path, size: float) -> None:
    lines = (ppo / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    names = [name for row in rows for name in row if name != "step"]
    rows = [dict.fromkeys(names, (-1) ** i * size) | {"step": i} for i in range(200)]
    (ppo / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_report(ppo, png=True)


def test_what_is_not_about_a_file_stays_a_traceback(ppo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("odd")

    monkeypatch.setattr("clearppo.ui.report.read_part", broken)
    with pytest.raises(OSError, match="odd") as caught:
        write_report(ppo)
    assert not isinstance(caught.value, RunDirError)
