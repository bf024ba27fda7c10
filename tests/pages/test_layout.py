"""How the pages of `clearppo view` are laid out: what fits, what stays in sight, what is left as it was."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from clearppo.lock import lock, unlock
from clearppo.record.schema import prompt_id
from tests.pages import made
from tests.pages.looking import drawn, look, traces, until


@pytest.mark.parametrize(
    ("view_name", "run"), [("iteration", "ppo-a"), ("iteration", "ppo-b"), ("overview", ["ppo-a", "ppo-b"])]
)
def test_tables_are_shown_whole_on_a_laptop(page: Page, view: str, view_name: str, run: str | list[str]) -> None:
    look(page, view, view_name, run=run)
    for language in ("en", "zh-CN"):
        expect(page.locator("html")).to_have_attribute("lang", language)
        until(page, lambda: hidden(page) == [0] * page.locator(".card.flush .scroll, .card.scroll").count() != [])
        page.keyboard.press("l")
        drawn(page, view_name)


def hidden(page: Page) -> list[int]:
    """By how many pixels each table is wider than its card."""
    tables = page.locator(".card.flush .scroll, .card.scroll")
    return tables.evaluate_all("all => all.map((it) => it.scrollWidth - it.clientWidth)")


def test_axes_of_shares_and_of_counts_end_where_these_do(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-b")
    reach = "p => [...p._fullLayout.yaxis.range, p._fullLayout.yaxis.dtick]"
    for chart in ("cut", "clipfrac"):
        traces(page, chart)
        low, high, _ = page.locator(f"[data-chart={chart}] .plot").evaluate(reach)
        assert -0.02 < low < high < 1.02
    traces(page, "dropped")
    low, _, step = page.locator("[data-chart=dropped] .plot").evaluate(reach)
    assert (low, step % 1) == (0, 0)


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_on_a_telephone_the_answer_comes_first(page: Page, view: str) -> None:
    look(page, view, "answer", run="ppo-a", step=9, row=7)
    panel = page.locator("#token-panel")
    expect(panel).to_have_attribute("data-panel-token", re.compile(r"\d"))
    assert top(page, "#token-panel") > top(page, ".all-tokens") > top(page, "#tokens")
    page.locator("#token-3").click()
    expect(panel).to_have_attribute("data-panel-token", "3")
    assert panel.bounding_box()["y"] < 844  # it has come to the foot of the window
    panel.locator(".close").click()
    assert top(page, "#token-panel") > top(page, ".all-tokens")


def top(page: Page, selector: str) -> float:
    return page.locator(selector).evaluate("it => it.getBoundingClientRect().top")


def test_tokens_stay_beside_their_numbers(page: Page, view: str) -> None:
    look(page, view, "answer", run="ppo-a", step=9, row=7, table=1)
    place = page.locator(".token-table tbody tr").first.locator("td")
    before = [place.nth(i).bounding_box()["x"] for i in (0, 1, 5)]
    page.locator(".all-tokens .scroll").evaluate("it => it.scrollBy(150, 0)")
    after = [place.nth(i).bounding_box()["x"] for i in (0, 1, 5)]
    assert after[:2] == pytest.approx(before[:2], abs=1)
    assert after[2] == pytest.approx(before[2] - 150, abs=1)


def test_where_a_prompt_has_no_answer_it_is_said(page: Page, view: str, runs: Path) -> None:
    # Of the prompts of the evaluation one is not trained on, and no other run has it.
    rows = (runs / "ppo-a/evaluation/step-8.jsonl").read_text(encoding="utf-8").splitlines()
    (only,) = {prompt_id(json.loads(row)["prompt"]) for row in rows} - set(made.prompt_ids())
    look(page, view, "compare", run="ppo-a", prompt=only, source="training")
    expect(page.locator(".compare-main .empty")).to_contain_text("in training")
    look(page, view, "compare", run=["ppo-a", "rloo"], prompt=only)
    expect(page.locator("div[data-run=rloo]")).to_contain_text("never answered")
    expect(page.locator("ol[data-run=ppo-a] li")).to_have_count(4)
    heads = page.locator(".step-line").first.bounding_box()
    assert heads is not None
    assert heads["height"] < 80  # and no hole above the answers of the other
    look(page, view, "compare", run=["rloo", "ppo-a"], prompt=only)  # an address from elsewhere
    expect(page.locator("div[data-run=rloo]")).to_contain_text("never answered")


def test_what_has_not_changed_is_not_drawn_again(page: Page, tmp_path: Path, start) -> None:
    run = tmp_path / "runs" / "live"
    made.make_ppo(run, made.A, steps=3)
    made.make_sft(tmp_path / "runs" / "sft")
    held = lock(run)
    try:
        url = start("view", tmp_path / "runs", "--port", "0", "--no-open").url
        look(page, url, "runs")
        box = page.locator("tr[data-run=live] input").element_handle()
        made.add_iteration(run, made.A, 4)
        expect(page.locator("tr[data-run=live] [data-name=step]")).to_contain_text("4 / 12")
        box.check()
        expect(page.locator("tr[data-run=live] input")).to_be_checked()

        look(page, url, "overview", run="live")
        choice = page.locator("#run").element_handle()
        tab = page.locator("[data-tab=runs]").element_handle()
        made.add_iteration(run, made.A, 5)
        expect(page.locator("[data-name=step]")).to_contain_text("5 / 12")
        assert choice.evaluate("it => it.isConnected")
        assert tab.evaluate("it => it.isConnected")
    finally:
        unlock(held)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks the server at once
    expect(page.locator(".picker .dot")).to_have_attribute("title", "stopped")
