"""The pages on spoilt runs: what can be told is told, in sentences, and no page breaks."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from clearppo.record.read import steps
from tests.pages.looking import address

RUNS = {"links": (), "rows": (1,), "records": (5,), "kinds": (8, 17), "values": (1, 6), "settings": (1,)}
"""The runs, and the iterations of each that are looked at."""
EXPECTED = ("HTTP 4(04|22)", "Failed to load resource")


def opened(page: Page, base: str, view: str, **params: object) -> None:
    """Open a view that may say what is wrong."""
    page.goto("about:blank")
    page.goto(address(base, view, **params))
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    assert page.locator("#main").inner_text().strip()
    assert page.locator("#main").locator("b b, img, [onerror]").count() == 0


@pytest.mark.parametrize("run", RUNS)
def test_no_page_breaks(page: Page, strange_view: str, watch, run: str) -> None:
    watch.expect(*EXPECTED)
    opened(page, strange_view, "runs")
    opened(page, strange_view, "overview", run=run)
    expect(page.locator("[role=alert]")).to_have_count(0)
    opened(page, strange_view, "compare", run=run)
    opened(page, strange_view, "reward", run=run)
    for step in RUNS[run]:
        opened(page, strange_view, "iteration", run=run, step=step)
        opened(page, strange_view, "answer", run=run, step=step, row=1)


def test_every_hole_is_a_dash(page: Page, strange_view: str, strange: Path) -> None:
    for step in steps(strange / "holes")[::2]:
        opened(page, strange_view, "answer", run="holes", step=step, row=1, colour="ratios", table=1)
        expect(page.locator("[role=alert]")).to_have_count(0)
        told = page.locator("#main").inner_text()
        assert "NaN" not in told
        assert "undefined" not in told
    opened(page, strange_view, "iteration", run="holes", step=step)
    expect(page.locator("tbody tr[data-row]")).to_have_count(32)
    assert "NaN" not in page.locator("#main").inner_text()


def test_a_name_with_every_sign_in_it(page: Page, strange_view: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script in a name ran: {dialog.message}"))
    page.goto(strange_view + "/#/runs")
    row = page.locator("tr[data-run]", has_text="<b>a&amp;")
    row.locator("a.run-name").click()
    expect(page.locator("section.view[data-view=overview] h1")).to_contain_text("<b>a&amp;")
    page.locator("[data-tab=iteration]").click()
    expect(page.locator("tbody tr[data-row]")).to_have_count(32)
    page.locator("tbody tr[data-row='3'] a").first.click()
    expect(page.locator("section.view[data-view=answer] h1")).to_contain_text("Answer 3")
    page.locator("#to-compare").click()
    expect(page.locator(".one-answer")).not_to_have_count(0)
    assert page.locator("#main b b, h1 b").count() == 0
