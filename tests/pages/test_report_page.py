"""The page of `clearppo report` in a browser without a network and without scripts: one file holds all it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from clearppo.record.read import Iteration, iteration_path
from tests.pages import made
from tests.pages.looking import overflow

OUTSIDE = re.compile(r"""(?:src|href|url\(|@import)\s*=?\s*["'(]?\s*(?:https?:)?//""", re.I)


def write(run: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    words = ["report", str(run), "--output", str(output), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "clearppo.cli", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def report(run: Path, output: Path, *more: str) -> Path:
    writing = write(run, output, *more)
    said, _ = writing.communicate(timeout=120)
    assert writing.returncode == 0, said
    return output


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports on a pipeline, and in Chinese on a run that was stopped."""
    place = tmp_path_factory.mktemp("reports")
    pipeline, chinese = place / "pipeline.html", place / "chinese.html"
    beside = write(runs / "ppo-b", chinese, "--language", "zh")
    report(runs / "pipeline", pipeline)
    assert beside.wait(120) == 0
    return {"pipeline": pipeline, "chinese": chinese}


@pytest.mark.parametrize("name", ["pipeline", "chinese"])
@pytest.mark.parametrize(
    "context",
    [{"offline": True, "java_script_enabled": False}, {"offline": True, "viewport": {"width": 390, "height": 800}}],
    indirect=True, ids=["no scripts", "narrow"],
)  # fmt: skip
def test_a_report_stands_alone(page: Page, written: dict[str, Path], name: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script of an answer ran: {dialog.message}"))
    page.on("request", lambda it: pytest.fail(f"asked for {it.url}") if it.url.startswith(("http", "ws")) else None)
    page.goto(written[name].as_uri())
    expect(page.locator("h1")).to_be_visible()
    assert page.locator("svg").count() >= 3
    assert page.locator("script, iframe, object, [onerror], img[src=x]").count() == 0
    assert page.locator("svg").first.bounding_box()["width"] > 100  # pyright: ignore
    expect(page.locator("html")).to_have_attribute("lang", re.compile("zh" if name == "chinese" else "en"))
    source = written[name].read_text(encoding="utf-8")
    assert not OUTSIDE.search(source)
    assert "{{" not in source.replace("{{ 7 * 7 }}", "")  # a template's own; that of an answer is text


@pytest.mark.parametrize("context", [{"offline": True, "viewport": {"width": 390, "height": 800}}], indirect=True)
def test_a_report_fits_a_telephone(page: Page, written: dict[str, Path]) -> None:
    for file in written.values():
        page.goto(file.as_uri())
        assert overflow(page) <= 0, file.name


def test_a_report_says_what_the_files_say(page: Page, written: dict[str, Path], runs: Path) -> None:
    page.goto(written["pipeline"].as_uri())
    text = " ".join((page.locator("body").text_content() or "").split())
    assert "The policy improved in truth" in text
    assert "clearppo view" in text
    report = made.reward_report()
    worth = page.locator("[data-name=reward_report]")
    expect(worth).to_contain_text(f"{100 * report['accuracy']['value']:.1f}%")
    expect(worth).to_contain_text(f"{report['accuracy']['n_pairs']} pairs")
    assert page.locator("[data-figure]").count() >= 8

    record = Iteration(iteration_path(runs / "pipeline" / "ppo", 12))
    best = record.answer(record.page("score", descending=True, limit=1).rows[0]["row"])
    telling = page.locator(f".telling[data-row='{best['row']}']").first
    expect(telling).to_contain_text(f"{best['score']:+.2f}")
    expect(telling.locator("[data-token]")).to_have_count(best["length"])
    for j, piece in enumerate(best["tokens"]):
        expect(telling.locator(f"[data-token='{j}']")).to_contain_text(piece.strip() or "↵")


def test_a_report_can_be_read_in_the_dark(browser: Browser, written: dict[str, Path]) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(written["pipeline"].as_uri())
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3]
    assert max(red, green, blue) < 80
    page.close()


def test_a_run_that_never_did_anything_has_a_report_too(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "young"
    run.mkdir()
    (run / "config.yaml").write_bytes((runs / "ppo-a" / "config.yaml").read_bytes())
    assert "<h1" in report(run, tmp_path / "young.html").read_text(encoding="utf-8")
