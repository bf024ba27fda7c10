"""The question marks of the pages, and the captions: the words of the catalogue, in the language of the page."""

import pytest
from playwright.sync_api import Page, expect

from clearppo.catalogue.equations import COLUMNS, QUANTITIES
from clearppo.catalogue.metrics import METRICS
from tests.pages.looking import look

CAPTIONS = {
    "kl": "objective/kl",
    "entropy": "policy/entropy_avg",
    "clipfrac": "policy/clipfrac_avg",
    "explained": "critic/vf_explained_var",
    "held_out": "eval/rewards/*",
    "time": "time/*",
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_are_those_of_the_catalogue(page: Page, view: str, language: str) -> None:
    look(page, view, "overview", run="ppo-a", lang=language)
    for chart, metric in CAPTIONS.items():
        caption = page.locator(f"[data-chart={chart}] .caption")
        expect(caption).to_have_text(METRICS[metric].brief[language == "zh"])
    captions = page.locator("[data-chart] .caption").all_inner_texts()
    assert len(captions) > 15
    assert all(captions)


def test_every_chart_has_a_question_mark(page: Page, view: str) -> None:
    for run in ("ppo-a", "rloo", "sft", "reward"):
        look(page, view, "overview", run=run)
        charts = page.locator("[data-chart]").count()
        assert charts >= 4
        expect(page.locator("[data-chart] .question")).to_have_count(charts)
        expect(page.locator(".tile .question")).to_have_count(page.locator(".tile").count())


def test_a_question_mark_is_answered_by_keyboard_alone(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-a")
    question = page.locator("[data-chart=kl] .question")
    expect(question).to_have_attribute("aria-label", "What it means: KL from the reference")
    question.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog.explanation")
    expect(dialog).to_be_visible()
    words = METRICS["objective/kl"]
    for said in ("objective/kl", "eval/kl", words.healthy[0], words.causes[0][0], "mean_i sum_t KL_it", "(1)"):
        expect(dialog).to_contain_text(said)
    assert dialog.evaluate("node => node.contains(document.activeElement)")
    page.keyboard.press("l")  # keys of the page wait until it is closed
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(question).to_be_focused()


def test_it_speaks_the_language_of_the_page(page: Page, view: str) -> None:
    look(page, view, "overview", run="ppo-a", lang="zh")
    page.locator('.tile[data-name="policy/entropy_avg"] .question').click()
    dialog = page.locator("dialog.explanation")
    expect(dialog).to_contain_text(METRICS["policy/entropy_avg"].low[1])  # type: ignore[index]
    dialog.get_by_role("button", name="关闭").click()
    expect(dialog).to_have_count(0)


def test_numbers_of_answers_and_tokens(page: Page, view: str) -> None:
    look(page, view, "iteration", run="ppo-a", step=12)
    expect(page.locator("th[data-column=kl] button.sort")).to_have_attribute("title", COLUMNS["answer.kl"].brief[0])
    page.locator('.spread[data-name="advantage"] .question').click()
    expect(page.locator("dialog.explanation")).to_contain_text(COLUMNS["answer.advantage"].brief[0])
    page.keyboard.press("Escape")

    look(page, view, "answer", run="ppo-a", step=12, row=1, table=1)
    meaning = page.locator("[data-name=meaning]")
    expect(meaning).to_contain_text(QUANTITIES["advantages"].brief[0])
    page.locator("#colour-kls").click()
    expect(meaning).to_contain_text(QUANTITIES["kls"].brief[0])
    page.locator(".token-table .question").click()
    dialog = page.locator("dialog.explanation")
    for name in ("ref_log_probs", "deltas", "ratios"):
        expect(dialog).to_contain_text(QUANTITIES[name].brief[0])


def test_the_server_tells_the_words_once(page: Page, view: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/explain" in request.url else None)
    look(page, view, "overview", run="ppo-a")
    look(page, view, "iteration", run="ppo-a", step=12)
    page.keyboard.press("l")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.locator("[data-tab=runs]").click()
    expect(page.locator("h1")).to_be_visible()
    assert len(asked) <= 2  # one for each time that the page itself is loaded
