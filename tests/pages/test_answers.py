"""The answers of an iteration, one answer token by token, and a prompt through time, in a browser.

What is shown is what the Parquet file holds, and everything can be reached by keyboard and by address.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, Route, expect

from clearppo.record.read import Iteration, iteration_path
from tests.pages import made
from tests.pages.looking import address, drawn, look, numbers, until
from tests.pages.words import CHINESE, EMOJI, HTML, NEWLINES, PROMPTS, RIGHT_TO_LEFT

COLOURS = {
    "advantages": "advantages", "rewards": "rewards", "kls": "kls", "values": "values", "returns": "returns",
    "log_probs": "log_probs",
}  # fmt: skip


def record(runs: Path, run: str, step: int) -> Iteration:
    return Iteration(iteration_path(runs / run, step))


def close(found: list[float], expected: list[Any]) -> None:
    assert found == pytest.approx([float(x) for x in expected], rel=1e-6, abs=1e-9)


# ---------------------------------------------------------------- an iteration


def shown_rows(page: Page) -> list[int]:
    return [int(row.get_attribute("data-row") or -1) for row in page.locator("tbody tr[data-row]").all()]


def test_the_table_has_the_numbers_of_the_file(page: Page, view: str, runs: Path) -> None:
    look(page, view, "iteration", run="ppo-b", step=6)
    rows = record(runs, "ppo-b", 6).page(limit=100).rows
    expect(page.locator("tbody tr[data-row]")).to_have_count(32)
    for row in rows:
        line = page.locator(f"tr[data-row='{row['row']}']")
        for name in ("kl", "length", "reward"):
            close([float(line.locator(f"[data-name={name}]").get_attribute("data-value") or "nan")], [row[name]])
        score = line.locator("[data-name=score]").get_attribute("data-value")
        assert (score is None) == (row["score"] is None)
        expect(line.locator("[data-name=finish_reason]")).not_to_be_empty()
    dropped = page.locator("tr[data-row='5']")
    expect(dropped.locator("[data-name=score]")).to_have_text("–")
    expect(dropped.locator("[data-name=finish_reason] .bad")).to_be_visible()  # it was not learned from


def test_sorting_filtering_and_searching_ask_the_server(page: Page, view: str, runs: Path) -> None:
    rows = pq.read_table(iteration_path(runs / "ppo-b", 6)).to_pylist()
    look(page, view, "iteration", run="ppo-b", step=6)
    head = page.locator("th[data-column=kl]")
    for order, sign in (("descending", -1), ("ascending", 1)):
        head.locator("button").click()
        expect(head).to_have_attribute("aria-sort", order)
        rows.sort(key=lambda row: sign * row["kl"])
        expect(page.locator("tbody tr[data-row]").first).to_have_attribute("data-row", str(rows[0]["row"]))
        assert shown_rows(page) == [row["row"] for row in rows]

    page.locator("#min_score").fill("0.5")
    rows = [row for row in rows if row["score"] is not None and row["score"] >= 0.5]
    expect(page.locator("[data-name=matching]")).to_have_attribute("data-value", str(len(rows)))
    assert shown_rows(page) == [row["row"] for row in rows]
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("SCENE")
    rows = [row for row in rows if "scene" in (row["prompt"] + row["completion"]).lower()]
    assert 0 < len(rows) < 16
    expect(page.locator("[data-name=matching]")).to_have_attribute("data-value", str(len(rows)))
    expect(page.locator("mark").first).to_have_text("scene")

    again = page.context.new_page()
    again.goto(page.url)
    drawn(again, "iteration")
    expect(again.locator("[data-name=matching]")).to_have_attribute("data-value", str(len(rows)))
    assert shown_rows(again) == [row["row"] for row in rows]
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    expect(page.locator("[data-name=matching]")).to_have_attribute("data-value", "32")


def test_iterations_are_stepped_through(page: Page, view: str) -> None:
    look(page, view, "iteration", run="ppo-b", step=6)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#iteration-title")).to_contain_text("8")  # 7 could not be learned from, and has no record
    assert "step=8" in page.url
    page.locator("#previous-step").click()
    expect(page.locator("#iteration-title")).to_contain_text("6")
    page.go_back()
    expect(page.locator("#iteration-title")).to_contain_text("8")
    look(page, view, "iteration", run="ppo-b")
    expect(page.locator("#iteration-title")).to_contain_text("11")  # the newest, where the address names none


def test_ten_thousand_answers_come_in_pages(page: Page, tmp_path: Path, start) -> None:
    run = "large"
    made.make_ppo(tmp_path / run, replace(made.LARGE, response_length=12, likely_end=0.5))
    url = start("view", tmp_path, "--port", "0", "--no-open").url
    look(page, url, "iteration", run=run, step=1, sort="score", order="desc")
    expect(page.locator("[data-name=matching]")).to_have_attribute("data-value", "10000")
    assert page.locator("tbody tr[data-row]").count() <= 100
    scores = pq.read_table(iteration_path(tmp_path / run, 1), columns=["row", "score", "length"]).to_pylist()
    best = sorted(scores, key=lambda row: -row["score"])[:2]
    assert shown_rows(page)[:2] == [row["row"] for row in best]
    page.locator("tbody tr[data-row]").first.locator("a").first.click()
    drawn(page, "answer")
    expect(page.locator("[data-token]")).to_have_count(best[0]["length"])
    page.locator("#next-answer").click()
    expect(page.locator("h1")).to_contain_text(f"Answer {best[1]['row']}")


# ---------------------------------------------------------------- an answer


def test_colours_and_numbers_are_those_of_the_file(page: Page, view: str, runs: Path) -> None:
    look(page, view, "answer", run="ppo-a", step=9, row=7)
    answer = record(runs, "ppo-a", 9).answer(7)
    expect(page.locator("[data-token]")).to_have_count(answer["length"])
    for name in ("score", "kl", "reward", "advantage", "length"):
        close(numbers(page, f".tile [data-name={name}]"), [answer[name]])
    for button, name in COLOURS.items():
        page.locator(f"button[data-colour={button}]").click()
        expect(page.locator("#tokens")).to_have_attribute("data-colour", button)
        close(numbers(page, "[data-token]"), answer[name])
    page.locator("button[data-colour=ratios]").click()
    for epoch in (1, 2):
        page.locator("#epoch").select_option(str(epoch))
        expect(page).to_have_url(page.url.replace("epoch=1", f"epoch={epoch}"))
        close(numbers(page, "[data-token]"), answer["ratios"][epoch - 1])
        clipped = [int(it.get_attribute("data-token") or -1) for it in page.locator("[data-token].clipped").all()]
        assert clipped == [
            j
            for j, (ratio, advantage) in enumerate(zip(answer["ratios"][epoch - 1], answer["advantages"], strict=True))
            if (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
        ]

    fills = page.locator("button[data-colour=advantages]")
    fills.click()
    expect(page.locator("#tokens")).to_have_attribute("data-colour", "advantages")
    paints = page.locator("[data-token]").evaluate_all("all => all.map((it) => it.style.getPropertyValue('--fill'))")
    for paint, advantage in zip(paints, answer["advantages"], strict=True):
        red, _, blue = (int(part) for part in paint.removeprefix("rgb(").rstrip(")").split(","))
        assert blue >= red if advantage > 0 else red >= blue  # blue is above 0, orange below


def test_the_panel_tells_all_of_a_token(page: Page, view: str, runs: Path) -> None:
    answer = record(runs, "ppo-a", 9).answer(7)
    meta = record(runs, "ppo-a", 9).meta
    last = answer["length"] - 1
    for token in (3, last):
        look(page, view, "answer", run="ppo-a", step=9, row=7, token=token)
        panel = page.locator("#token-panel")
        expect(panel).to_have_attribute("data-panel-token", str(token))
        for name in ("log_probs", "ref_log_probs", "kls", "rewards", "values", "returns", "advantages"):
            close(numbers(page, f"#token-panel .token-numbers [data-name={name}]"), [answer[name][token]])
        expect(panel.locator("[data-equation]").first).to_be_visible()
        by_hand = equations(meta, answer, token)
        for number, value in by_hand.items():
            found = numbers(page, f"#token-panel [data-equation='{number}'] [data-name=value]")
            assert any(math.isclose(x, value, rel_tol=1e-5, abs_tol=1e-6) for x in found), (number, value, found)
        expect(panel.locator(".equation.differs")).to_have_count(0)
        expect(panel.locator(".equation .good").first).to_be_visible()
        expect(panel.locator("[data-name=story]")).to_contain_text(
            "rewarded" if answer["advantages"][token] > 0 else "punished"
        )
        epochs = panel.locator("tr[data-epoch]")
        close(numbers(page, "#token-panel tr[data-epoch] [data-name=ratio]"), [it[token] for it in answer["ratios"]])
        expect(epochs).to_have_count(2)


def equations(meta: dict[str, Any], answer: dict[str, Any], j: int) -> dict[str, float]:
    """(1) to (4) and (7) of a token of a run with k1, GAE and whitened advantages, from the article."""
    kl = answer["log_probs"][j] - answer["ref_log_probs"][j]
    process = -meta["kl_coef"] * kl
    last = answer["length"] - 1
    reward = process + (answer["score"] if j == last else 0.0)
    values = [*answer["values"], 0.0]
    advantage = 0.0
    for k in range(last, j - 1, -1):
        delta = answer["rewards"][k] + meta["gamma"] * values[k + 1] - values[k]
        advantage = delta + meta["gamma"] * meta["lam"] * advantage
    whitened = (advantage + meta["whiten_advantages"]["shift"]) * meta["whiten_advantages"]["scale"]
    ratio = answer["ratios"][0][j]
    actor = max(-whitened * ratio, -whitened * min(max(ratio, 0.8), 1.2))
    return {"1": process, "2": reward, "4": advantage, "3": advantage + values[j], "7": actor}


def test_a_number_that_does_not_follow_is_marked(page: Page, runs: Path, tmp_path: Path, start) -> None:
    made.make_ppo(tmp_path / "bent", made.A, steps=2)
    file = iteration_path(tmp_path / "bent", 2)
    table = pq.read_table(file)
    rewards = table["rewards"].to_pylist()
    rewards[3][1] += 0.25
    column = table.schema.get_field_index("rewards")
    field = table.schema.field(column)
    pq.write_table(table.set_column(column, field, pa.array(rewards, field.type)), file)
    url = start("view", tmp_path / "bent", "--port", "0", "--no-open").url
    look(page, url, "answer", run="bent", step=2, row=3, token=1)
    panel = page.locator("#token-panel")
    expect(panel.locator("[data-equation='1'].differs, [data-equation='2'].differs").first).to_contain_text("differs")


@pytest.mark.parametrize(
    ("row", "pieces"), [(0, HTML), (2, EMOJI), (4, CHINESE), (6, RIGHT_TO_LEFT), (8, NEWLINES)],
    ids=["html", "emoji", "chinese", "right-to-left", "newlines"],
)  # fmt: skip
def test_text_is_text(page: Page, view: str, row: int, pieces: list[str]) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script of an answer ran: {dialog.message}"))
    look(page, view, "answer", run="ppo-a", step=3, row=row)
    expect(page.locator("[data-token]")).to_have_count(len(pieces))
    assert page.locator("#main script, #main img, #main [onerror]").count() == 0
    signs = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}
    for j, piece in enumerate(pieces):
        visible = "".join(signs.get(letter, letter) for letter in piece)
        if "\u200d" not in piece:  # what joins a family of emoji is shown by its number
            expect(page.locator(f"[data-token='{j}'] .piece")).to_have_text(visible)
    prompt = PROMPTS[row // 2]
    assert isinstance(prompt, str)
    expect(page.locator("[data-name=prompt]").first).to_contain_text(prompt.split("\n")[0])


def test_a_script_is_text_in_lists_too(page: Page, view: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script of an answer ran: {dialog.message}"))
    look(page, view, "iteration", run="ppo-a", step=3, q="onerror")
    expect(page.locator("tbody tr[data-row]")).to_have_count(1)
    expect(page.locator("tr[data-row='0'] [data-name=completion]")).to_contain_text("<script>alert('x')</script>")
    look(page, view, "compare", run="ppo-a", prompt=made.prompt_ids()[0])
    first = page.locator(".one-answer[data-source=training][data-row='0']").first
    expect(first).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator("[data-name=prompt]").first).to_contain_text("<i>my</i> parents & found")
    assert page.locator("#main script, #main img, #main [onerror], #main i:not(.swatch):has-text('my')").count() == 0


def test_parts_of_an_advantage_add_up(page: Page, view: str, runs: Path) -> None:
    for run in ("ppo-b", "rloo"):
        look(page, view, "answer", run=run, step=4, row=1)
        for token in range(record(runs, run, 4).answer(1)["length"]):
            page.locator(f"[data-token='{token}']").click()
            expect(page.locator("#token-panel")).to_have_attribute("data-panel-token", str(token))
            assert page.locator("[data-name='made.rest']").count() == 0
            *parts, total = numbers(page, ".cascade [data-name^='made.']")
            assert sum(parts) == pytest.approx(total, abs=1e-4)


def test_a_conversation_is_shown_as_one(page: Page, view: str) -> None:
    look(page, view, "answer", run="ppo-a", step=3, row=22)
    prompt = page.locator("[data-name=prompt]").first
    expect(prompt.locator(".role")).to_have_text(["system", "user"])
    expect(prompt).to_contain_text("What do you think of <the> film?")


def test_an_answer_that_nobody_scored(page: Page, view: str) -> None:
    look(page, view, "answer", run="ppo-b", step=6, row=5)
    expect(page.locator("#main")).to_contain_text("nobody scored it")
    expect(page.locator("[data-verdict]")).to_have_attribute("data-verdict", "unlearned")
    assert page.locator("button[data-colour=kls]").count() == 1
    assert page.locator("button[data-colour=advantages]").count() == 0


def test_an_answer_of_a_run_without_a_critic(page: Page, view: str, runs: Path) -> None:
    look(page, view, "answer", run="rloo", step=3, row=1)
    assert page.locator("button[data-colour=values]").count() == 0
    answer = record(runs, "rloo", 3).answer(1)
    close(numbers(page, "[data-token]"), answer["advantages"])
    expect(page.locator("#token-panel .equation.differs")).to_have_count(0)
    expect(page.locator("#token-panel .equation .good").first).to_be_visible()


# ---------------------------------------------------------------- addresses and keys


def test_an_address_says_all(page: Page, view: str, runs: Path) -> None:
    answer = record(runs, "ppo-a", 9).answer(7)
    look(page, view, "answer", run="ppo-a", step=9, row=7)
    page.locator("button[data-colour=kls]").click()
    page.locator("#epoch").select_option("1")
    page.locator("[data-token='4']").click()
    page.locator("#all-tokens").click()
    expect(page.locator("tr[data-token-row]")).to_have_count(answer["length"])
    here = page.url
    again = page.context.new_page()
    again.goto(here)
    drawn(again, "answer")
    expect(again.locator("#tokens")).to_have_attribute("data-colour", "kls")
    expect(again.locator("#token-panel")).to_have_attribute("data-panel-token", "4")
    expect(again.locator("tr[data-token-row]")).to_have_count(answer["length"])
    expect(again.locator("#epoch")).to_have_value("1")


@pytest.mark.parametrize(
    ("view_name", "params"),
    [
        ("answer", {"run": "ppo-a", "step": 99, "row": 0}),
        ("answer", {"run": "ppo-a", "step": 3, "row": 99}),
        ("answer", {"run": "ppo-a", "step": "x", "row": "<b>"}),
        ("answer", {"run": "../../etc", "step": 3, "row": 0}),
        ("iteration", {"run": "ppo-a", "step": -1}),
        ("iteration", {"run": "ppo-a", "step": 3, "sort": "nobody"}),
        ("iteration", {"run": "ppo-a", "step": 3, "order": "up"}),
        ("iteration", {"run": "ppo-a", "step": 3, "min_score": "nan"}),
        ("overview", {"run": "<img src=x onerror=alert(1)>"}),
        ("nowhere", {}),
    ],
)
def test_an_address_that_leads_nowhere_says_so(page: Page, view: str, watch, view_name: str, params: dict) -> None:
    watch.expect("HTTP 4", "Failed to load resource")
    page.goto(address(view, view_name, **params))
    expect(page.locator("[role=alert]")).to_be_visible()
    assert page.locator("[role=alert] p").first.inner_text().strip()
    assert page.locator("#main img").count() == 0
    page.locator("[role=alert] a").first.click()
    drawn(page, "runs")


def test_who_goes_on_before_an_answer_is_there_is_not_called_back(page: Page, view: str) -> None:
    held: list[Route] = []
    look(page, view, "answer", run="ppo-a", step=3, row=1)
    expect(page.locator("#next-answer")).to_have_attribute("href", re.compile("row=2"))
    page.route("**/answers/2", lambda route: held.append(route))
    page.keyboard.press("j")
    until(page, lambda: bool(held))
    page.keyboard.press("5")
    drawn(page, "compare")
    page.unroute("**/answers/2")
    until(page, lambda: page.locator("#main").get_attribute("aria-busy") == "false")
    expect(page.locator(".one-answer").first).to_be_visible()
    assert page.locator("section.view[data-view=answer]").count() == 0


def test_the_way_back_from_nowhere(page: Page, view: str, runs: Path) -> None:
    look(page, view, "answer", run="ppo-a", step=3, row=1)
    page.evaluate("location.hash = '#/nowhere'")
    expect(page.locator("[role=alert]")).to_contain_text("nowhere")
    page.go_back()
    drawn(page, "answer")
    close(numbers(page, "[data-token]"), record(runs, "ppo-a", 3).answer(1)["advantages"])


def test_odd_choices_in_an_address_do_no_harm(page: Page, view: str) -> None:
    look(page, view, "answer", run="ppo-a", step=3, row=1, token=999, colour="nobody", epoch=77, limit="x", table="7")
    expect(page.locator("#tokens")).to_have_attribute("data-colour", "advantages")
    look(page, view, "iteration", run="ppo-a", step=3, offset="x", limit=9999999, q="\u0000", colour="nobody")
    look(page, view, "overview", run="ppo-a", smooth="NaN", **{"from": "x", "to": "-1"})


def test_keys_do_nothing_where_nothing_is_recorded(page: Page, view: str) -> None:
    for name, keys in {"answer": "cCentxjku", "iteration": "jknp0x", "compare": "jksw"}.items():
        look(page, view, name, run="sft")
        for key in [*keys, "Home", "End", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Enter"]:
            page.keyboard.press(key)
        expect(page.locator(f"section.view[data-view={name}]")).to_be_visible()


def test_all_is_within_reach_of_the_keyboard(page: Page, view: str, runs: Path) -> None:
    page.goto(view)
    drawn(page, "runs")
    expect(page.locator("tr.here")).to_have_count(1)
    while page.locator("tr.here").get_attribute("data-run") != "ppo-a":
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    drawn(page, "overview")
    page.keyboard.press("3")
    drawn(page, "iteration")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    drawn(page, "answer")
    first = page.locator("h1").inner_text()
    token = int(page.locator("#token-panel").get_attribute("data-panel-token") or -1)
    page.keyboard.press("Home")
    expect(page.locator("#token-panel")).to_have_attribute("data-panel-token", "0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#token-panel")).to_have_attribute("data-panel-token", "1")
    assert token >= 0
    page.keyboard.press("c")
    expect(page.locator("#tokens")).to_have_attribute("data-colour", "rewards")
    page.keyboard.press("j")
    expect(page.locator("h1")).not_to_have_text(first)
    expect(page.locator("#previous-answer")).to_have_attribute("href", re.compile("row="))
    page.keyboard.press("k")
    expect(page.locator("h1")).to_have_text(first)
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    expect(page.locator("dialog kbd")).not_to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("5")
    drawn(page, "compare")
    page.go_back()
    drawn(page, "answer")
    page.keyboard.press("Tab")
    focus = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert focus != "none"


# ---------------------------------------------------------------- a prompt through time


def test_a_prompt_through_time(page: Page, view: str, runs: Path) -> None:
    prompt = made.prompt_ids()[0]
    look(page, view, "compare", run=["ppo-a", "ppo-b"], prompt=prompt)
    for run, n_steps in {"ppo-a": 12, "ppo-b": 10}.items():
        answers = page.locator(f"ol[data-run={run}] li[data-source=training]")
        expect(answers).to_have_count(2 * n_steps)
    expect(page.locator("ol[data-run=ppo-a] li[data-source=evaluation]")).to_have_count(4)
    one = page.locator("ol[data-run=ppo-a] li[data-source=training][data-step='9'][data-row='1']")
    row = record(runs, "ppo-a", 9).answer(1)
    close([float(one.locator("[data-name=score]").get_attribute("data-value") or "nan")], [row["score"]])
    page.locator("[data-choice=source-evaluation]").click()
    expect(page.locator("li[data-source=training]")).to_have_count(0)
    page.locator("[data-choice=source-all]").click()
    expect(page.locator("ins").first).to_be_visible()
    page.locator("[data-choice=diff-none]").click()
    expect(page.locator(".one-answer ins")).to_have_count(0)
    expect(one.locator("[data-name=completion]")).to_contain_text(row["completion"].split()[0])
    one.locator("a").first.click()
    drawn(page, "answer")
    expect(page.locator("h1")).to_contain_text("Answer 1")


def test_prompts_are_searched(page: Page, view: str) -> None:
    look(page, view, "compare", run="ppo-a")
    expect(page.locator("a[data-prompt]")).to_have_count(len(PROMPTS) + 1)  # and one of the evaluation
    page.locator("#search").fill("侦探")
    expect(page.locator("a[data-prompt]")).to_have_count(1)
    page.locator("a[data-prompt]").click()
    expect(page.locator("[data-name=prompt]").first).to_contain_text("这部电影讲的是一个侦探")
