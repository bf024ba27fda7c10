"""The list of runs, the overview of a run and the report on a reward model, in a browser."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from clearppo.lock import lock, unlock
from clearppo.record.read import Iteration, iteration_path
from tests.pages import made
from tests.pages.looking import drawn, look, numbers, overflow, traces, until

RUNS = {"ppo-a", "ppo-b", "rloo", "sft", "reward", "pipeline~sft", "pipeline~reward", "pipeline~ppo"}
VIEWS = {
    "runs": {},
    "overview": {"run": ["ppo-a", "ppo-b"]},
    "iteration": {"run": "ppo-b", "step": 6},
    "answer": {"run": "ppo-a", "step": 12, "row": 0},
    "compare": {"run": ["ppo-a", "ppo-b"]},
    "reward": {"run": "reward"},
}
TITLES = {
    "runs": "运行",
    "overview": "ppo-a · ppo-b",
    "iteration": "迭代",
    "answer": "回答",
    "compare": "提示",
    "reward": "奖励模型",
}


def rows_of(file: Path) -> dict[int, dict[str, float]]:
    """A file of rows by step, those of one step together."""
    found: dict[int, dict[str, float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row.pop("step"), {}).update(row)
    return found


@pytest.mark.parametrize("view_name", VIEWS)
def test_every_view_stands_in_both_languages_and_themes(page: Page, view: str, view_name: str) -> None:
    look(page, view, view_name, **VIEWS[view_name])
    fits(page)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    english = page.locator("#main").inner_text()

    page.keyboard.press("l")
    drawn(page, view_name)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("#main h1").first).to_contain_text(TITLES[view_name])
    assert not re.findall(r"\{\w+\}", page.locator("#main").inner_text())  # a word whose blank was not filled
    fits(page)

    page.emulate_media(color_scheme="dark")
    drawn(page, view_name)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(dark) < 0.2 < 0.8 < luminance(light)
    page.reload()
    drawn(page, view_name)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")  # the choice is kept
    assert page.locator("#main").inner_text() != english


def fits(page: Page) -> None:
    """The page is never wider than the window, on a telephone either."""
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        until(page, lambda: overflow(page) <= 0, seconds=5)


def luminance(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_runs_are_listed_found_and_laid_over_each_other(page: Page, view: str) -> None:
    page.goto(view)
    drawn(page, "runs")
    expect(page.locator("tr[data-run]")).to_have_count(len(RUNS))
    assert {row.get_attribute("data-run") for row in page.locator("tr[data-run]").all()} == RUNS
    expect(page.locator("tr[data-run=ppo-b] [data-name=state]")).to_have_text("stopped")
    expect(page.locator("tr[data-run=ppo-a] [data-name=state]")).to_have_text("finished")
    expect(page.locator("tr[data-run=ppo-b] [data-name=step]")).to_contain_text("11 / 12")

    page.locator("#by-name").click()
    names = [row.get_attribute("data-run") for row in page.locator("tr[data-run]").all()]
    assert names == sorted(RUNS, reverse="order=desc" in page.url)
    page.keyboard.press("/")
    page.keyboard.type("ppo-")
    expect(page.locator("tr[data-run]")).to_have_count(2)
    assert "q=ppo-" in page.url
    for name in ("ppo-a", "ppo-b"):
        page.locator(f"tr[data-run={name}] input").check()
    page.locator("#overlay").click()
    drawn(page, "overview")
    names = " ".join(str(trace["name"]) for trace in traces(page, "score"))
    assert "ppo-a" in names
    assert "ppo-b" in names


def test_curves_are_the_numbers_of_the_file(page: Page, view: str, runs: Path) -> None:
    look(page, view, "overview", run="ppo-a")
    rows = rows_of(runs / "ppo-a" / "metrics.jsonl")
    steps = [step for step in sorted(rows) if "objective/kl" in rows[step]]
    drawn_kl = [dict(zip(trace["x"], trace["y"], strict=True)) for trace in traces(page, "kl")]
    expected = {step: rows[step]["objective/kl"] for step in steps}
    assert any({step: found.get(step) for step in steps} == expected for found in drawn_kl)
    score = rows[12]["objective/scores"]
    shown = page.locator(".tile[data-name='objective/scores'] .value").inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(score, rel=5e-3)


def test_charts_are_those_of_the_metrics_that_there_are(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-a")
    with_critic = {figure.get_attribute("data-chart") for figure in page.locator("[data-chart]").all()}
    look(page, view, "overview", run="rloo")
    without = {figure.get_attribute("data-chart") for figure in page.locator("[data-chart]").all()}
    assert without < with_critic
    look(page, view, "overview", run="sft")
    expect(page.locator("[data-chart]").first).to_be_visible()
    assert not with_critic & {"loss"}
    losses = [
        trace["y"] for trace in traces(page, page.locator("[data-chart]").first.get_attribute("data-chart") or "")
    ]
    assert losses


def test_a_click_on_a_curve_opens_the_iteration(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-a")
    traces(page, "score")
    plot = page.locator("[data-chart=score] .plot")
    plot.scroll_into_view_if_needed()
    # where iteration 5 is drawn, in the middle of the plot's height
    place = plot.evaluate(
        "p => { const {xaxis, yaxis} = p._fullLayout; const y = p.data[0].y[p.data[0].x.indexOf(5)];"
        "return [xaxis._offset + xaxis.d2p(5), yaxis._offset + yaxis.d2p(y)]; }"
    )
    plot.hover(position={"x": place[0], "y": place[1]})
    expect(plot.locator(".hoverlayer")).to_contain_text("5")
    plot.click(position={"x": place[0], "y": place[1]})
    drawn(page, "iteration")
    assert "step=5" in page.url
    page.go_back()
    drawn(page, "overview")


def test_events_are_told(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-b")
    kinds = {event.get_attribute("data-kind") for event in page.locator("[data-kind]").all()}
    assert {"skipped", "early_stop", "dropped", "alarm", "alarm_over"} <= kinds


def shapes(page: Page, chart: str) -> list[dict[str, float]]:
    """What a chart draws besides its lines."""
    drawn_by = "p => (p.layout.shapes ?? []).map(({type, x0, x1, y0, yref}) => ({type, x0, x1, y0, yref}))"
    return page.locator(f"[data-chart='{chart}'] .plot").evaluate(drawn_by)


def test_alarms_are_told_in_both_languages_and_drawn(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-b")
    alarms = page.locator(".alarms [data-alarm]")
    expect(alarms).to_have_count(2)
    expect(alarms.nth(0)).to_have_attribute("data-state", "on")
    expect(alarms.nth(0)).to_contain_text("KL runs away")
    expect(alarms.nth(0)).to_contain_text("since iteration 8")
    expect(alarms.nth(0)).to_contain_text("The run wrote a checkpoint.")
    expect(alarms.nth(1)).to_have_attribute("data-state", "over")
    expect(alarms.nth(1)).to_contain_text("the mean of helpful jumped to <b>0.9</b>")
    expect(page.locator("tr[data-kind=alarm]").last).to_contain_text("1.4 nats an answer away")

    traces(page, "kl")
    while_on = [(it["x0"], it["x1"]) for it in shapes(page, "kl") if it["type"] == "rect"]
    limits = [(it["x0"], it["x1"], it["y0"]) for it in shapes(page, "kl") if it["yref"] == "y"]
    assert (while_on, limits) == ([(8, 11)], [(8, 11, 1.2)])
    traces(page, "length")
    assert not [it for it in shapes(page, "length") if it["type"] == "rect"]

    page.keyboard.press("l")
    drawn(page, "overview")
    expect(alarms.nth(0)).to_contain_text("KL 失控")
    expect(alarms.nth(0)).to_contain_text("objective/kl 为 1.4，界限 1.2，开始时 0.1")
    expect(page.locator("tr[data-kind=alarm_over]")).to_contain_text("已解除")
    page.locator("#mark").uncheck()
    until(page, lambda: shapes(page, "kl") == [])
    alarms.nth(0).locator("a").click()
    drawn(page, "iteration")
    assert "step=8" in page.url


def test_the_list_of_runs_says_which_alarms_are_on(page: Page, view: str) -> None:
    look(page, view, "runs")
    expect(page.locator("tr[data-run=ppo-b] [data-name=alarms]")).to_have_text("KL runs away")
    expect(page.locator("tr[data-run=ppo-a] [data-name=alarms]")).to_have_text("")


def test_what_was_planned_stands_beside_what_was_measured(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-a")
    expect(page.locator(".plan tr[data-name=memory] td")).to_have_text(["3 (learning)", "3.32 (learning)", "−10 %"])
    expect(page.locator(".plan tr[data-name=seconds] td")).to_have_text(["5", "5.5", "−9 %"])
    assert [trace["name"] for trace in traces(page, "memory")] == ["sampling", "feedback", "learning"]
    look(page, view, "overview", run="rloo")
    expect(page.locator(".plan")).to_be_hidden()


def test_the_report_on_a_reward_model(page: Page, view: str) -> None:
    look(page, view, "runs")
    page.locator("tr[data-run=reward] a", has_text="report").click()
    drawn(page, "reward")
    report = made.reward_report()
    text = page.locator("#main").inner_text()
    assert report["verdict"]["meaning"] in text
    assert all(reason in text for reason in report["verdict"]["reasons"])
    assert f"{100 * report['accuracy']['value']:.1f}" in text
    assert page.locator("[data-chart]").count() >= 3


def test_pages_follow_a_run_that_is_going_on(page: Page, runs: Path, tmp_path: Path, start) -> None:
    run = tmp_path / "runs" / "live"
    made.make_ppo(run, made.A, steps=3)
    held = lock(run)
    try:
        url = start("view", tmp_path / "runs", "--port", "0", "--no-open").url
        look(page, url, "overview", run="live")
        expect(page.locator("[data-name=step]")).to_contain_text("3 / 12")
        assert max(traces(page, "kl")[0]["x"]) == 3
        made.add_iteration(run, made.A, 4)
        expect(page.locator("[data-name=step]")).to_contain_text("4 / 12")
        until(page, lambda: max(traces(page, "kl")[0]["x"]) == 4)

        look(page, url, "iteration", run="live")
        expect(page.locator("#iteration-title")).to_contain_text("4")
        made.add_iteration(run, made.A, 5)
        expect(page.locator("#iteration-title")).to_contain_text("5")
        expected = Iteration(iteration_path(run, 5)).page().rows[0]["score"]
        until(page, lambda: numbers(page, "tr[data-row='0'] [data-name=score]") == pytest.approx([expected]))
    finally:
        unlock(held)
    look(page, url, "runs")
    expect(page.locator("[data-name=state]")).to_have_text("stopped")
    shutil.rmtree(run / "record")
    look(page, url, "runs")
    expect(page.locator("tr[data-run=live] [data-name=recorded]")).to_have_text("–")


def test_a_server_that_is_gone_is_said_once_and_found_again(page: Page, tmp_path: Path, start, watch) -> None:
    made.make_sft(tmp_path / "sft")
    served = start("view", tmp_path, "--port", "0", "--no-open")
    look(page, served.url, "overview", run="sft")
    watch.expect("ERR_CONNECTION_REFUSED", "Failed to load resource")
    served.stop()
    look_again(page)
    expect(page.locator("#banner")).to_contain_text("does not answer")
    port = served.url.rpartition(":")[2]
    start("view", tmp_path, "--port", port, "--no-open")
    look_again(page)
    expect(page.locator("#banner")).to_have_count(0)


def look_again(page: Page) -> None:
    """What a page takes for its reader coming back to it: it asks the server at once."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
