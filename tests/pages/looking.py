"""How a test looks at a page: by address, until it is drawn."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page, expect


def address(base: str, view: str, **params: Any) -> str:
    """The address of a view; a list stands for a parameter that is given several times."""
    query = urlencode({name: value for name, value in params.items() if value is not None}, doseq=True)
    return f"{base}/#/{view}{'?' + query if query else ''}"


def look(page: Page, base: str, view: str, **params: Any) -> None:
    """Open a view as if by a link from elsewhere, and wait until it is drawn."""
    page.goto("about:blank")
    page.goto(address(base, view, **params))
    drawn(page, view)


def drawn(page: Page, view: str) -> None:
    """Wait until a view is there and nothing of it is on its way."""
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    expect(page.locator(f"section.view[data-view={view}]")).to_be_visible()
    expect(page.locator("[role=alert]")).to_have_text([])  # the failure then says what was told


def traces(page: Page, chart: str) -> list[dict[str, Any]]:
    """What a chart draws: name, x and y of each of its lines."""
    plot = page.locator(f"[data-chart='{chart}'] .plot")
    expect(plot.locator("svg").first).to_be_attached()
    return plot.evaluate("p => p.data.map(({name, x, y, type}) => ({name, x: [...x], y: [...y], type}))")


def numbers(page: Page, selector: str) -> list[float]:
    """The numbers behind what is shown, from data-value, to all their digits."""
    return page.locator(selector).evaluate_all("all => all.map((it) => Number(it.dataset.value))")


def until(page: Page, condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for something that no locator can say. (A page's own rules forbid it to evaluate text, so the test asks.)"""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        page.wait_for_timeout(50)


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.scrollingElement.scrollWidth - document.documentElement.clientWidth")
