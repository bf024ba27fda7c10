"""`clearppo label` in a browser: decisions by key and by click, each in the file once, whatever the hands do."""

import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from clearppo.data.comparisons import load_comparisons
from clearppo.data.labels import BETTER
from tests.pages.conftest import Served
from tests.pages.looking import overflow
from tests.pages.words import CHINESE, HTML, PROMPTS, RIGHT_TO_LEFT

ODD = ["".join(pieces[:-1]) for pieces in (HTML, CHINESE, RIGHT_TO_LEFT)]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Five items of two to four answers."""
    answers = [
        ["It was good.", "It was bad."],
        [*ODD, "A line\n\nand another"],
        ["One", "Two", "Three"],
        ["word " * 300, "short"],
        ["first", "second"],
    ]
    file = tmp_path / "items.jsonl"
    rows = [{"prompt": PROMPTS[i], "completions": texts} for i, texts in enumerate(answers)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


@pytest.fixture
def served(items: Path, labels: Path, start: Callable[..., Served]) -> Served:
    return start("label", items, "--output", labels, "--port", "0", "--no-open")


def decisions(labels: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]


def sit_down(page: Page, url: str, name: str = "ann") -> None:
    page.goto(url)
    page.locator("#name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=label]")).to_be_visible()


def item(page: Page) -> str:
    return page.locator("[data-view=label]").get_attribute("data-item") or ""


def press(page: Page, key: str) -> None:
    """A key that decides; until the next item is there. The same key twice within a moment is a bounce and counts once,
    so tests take turns."""
    before = item(page)
    page.keyboard.press(key)
    expect(page.locator("[data-view=label]")).not_to_have_attribute("data-item", before)


def shown(page: Page) -> list[str]:
    return page.locator("[data-place] .text").all_inner_texts()


def test_decisions_by_key_are_in_the_file(page: Page, served: Served, labels: Path) -> None:
    sit_down(page, served.url)
    texts = shown(page)
    first = item(page)
    press(page, "2")
    (written,) = decisions(labels)
    assert (written["item"], written["verdict"], written["labeller"]) == (first, BETTER, "ann")
    assert written["completions"][written["choice"]].split() == texts[1].split()
    assert [written["completions"][i].split() for i in written["order"]] == [text.split() for text in texts]
    press(page, "t")
    press(page, "b")
    assert [row["verdict"] for row in decisions(labels)] == [BETTER, "tie", "all bad"]
    assert [row["choice"] for row in decisions(labels)][1:] == [None, None]

    third = decisions(labels)[2]["item"]
    page.keyboard.press("u")
    expect(page.locator("[data-view=label]")).to_have_attribute("data-item", third)
    page.keyboard.press("n")
    page.locator("#note").fill("t, b and 1 are letters here\n“and this”")
    page.keyboard.press("Escape")
    press(page, "1")
    last = decisions(labels)[-1]
    assert (last["item"], last["verdict"], last["note"]) == (third, BETTER, "t, b and 1 are letters here\n“and this”")
    assert len(decisions(labels)) == 5  # three, the one taken back, and the new one

    before = item(page)
    press(page, "s")
    press(page, "1")
    expect(page.locator("[data-view=label]")).to_have_attribute("data-item", before)  # skipped is shown again at last
    press(page, "2")
    expect(page.locator("[data-view=label]")).to_contain_text("clearppo reward --dataset_name")
    assert len({row["item"] for row in decisions(labels)}) == 5
    notes: list[str] = []
    compared = load_comparisons(str(labels), note=notes.append)
    assert len(compared) == 4  # all but the tie
    assert "tie" in " ".join(notes)

    assert page.locator("[data-name=results]").count() == 0  # one file: nobody to prefer
    page.reload()  # the name is remembered, and so are the decisions
    expect(page.locator("[data-view=label]")).to_contain_text("clearppo reward --dataset_name")


def test_two_models_are_blind_until_the_end(page: Page, tmp_path: Path, start: Callable[..., Served], watch) -> None:
    """Nothing on the page names a model before every item has a decision; then it says who won, how often, how sure."""
    file, labels = tmp_path / "answers.jsonl", tmp_path / "labels.jsonl"
    rows = [
        {"prompt": f"Q{n}", "completions": [f"good {n}", f"poor {n}"], "sources": ["runs/mine", "runs/sft"],
         "finish_reasons": ["stop", "length"]}
        for n in range(12)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    served = start("label", file, "--output", labels, "--port", "0", "--no-open")
    sit_down(page, served.url)
    for _ in rows:
        assert "runs/" not in page.content()
        answers = shown(page)
        expect(page.locator(".cut")).to_have_count(1)
        assert page.locator(".answer", has=page.locator(".cut")).locator(".text").inner_text().startswith("poor")
        before = item(page)
        good = next(place for place, text in enumerate(answers) if text.startswith("good"))
        page.locator(f"[data-place='{good}'] .pick").click()
        expect(page.locator("[data-view=label]")).not_to_have_attribute("data-item", before)
    results = page.locator("[data-name=results]")
    expect(results).to_contain_text("runs/mine is preferred to runs/sft: it wins 100%")
    expect(results.locator("tbody tr")).to_contain_text("76%–100%")
    expect(page.locator(".command code")).to_have_text(
        f"clearppo reward --dataset_name {labels} --model_name_or_path runs/mine --output_dir runs/reward"
    )
    assert overflow(page) <= 0
    page.locator(".command button").click()
    assert decisions(labels)[0]["sources"] == [["runs/mine"], ["runs/sft"]]


def test_texts_are_texts(page: Page, served: Served) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script of an answer ran: {dialog.message}"))
    sit_down(page, served.url)
    seen: list[str] = []
    for key in "tbtbt":
        seen += shown(page)
        assert page.locator("#main script, #main img, #main [onerror]").count() == 0
        assert overflow(page) <= 0
        press(page, key)
    assert {" ".join(text.split()) for text in seen} >= {" ".join(text.split()) for text in ODD}


def test_a_double_click_decides_once(page: Page, served: Served, labels: Path) -> None:
    sit_down(page, served.url)
    before = item(page)
    page.locator("[data-place='0'] .pick").dblclick()
    expect(page.locator("[data-view=label]")).not_to_have_attribute("data-item", before)
    second = item(page)
    assert len(decisions(labels)) == 1
    page.evaluate(
        "() => { for (let i = 0; i < 5; i++) dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: i > 0})); }"
    )
    expect(page.locator("[data-view=label]")).not_to_have_attribute("data-item", second)
    assert len(decisions(labels)) == 2
    page.locator("[data-action=undo]").dblclick()
    expect(page.locator("[data-view=label]")).to_have_attribute("data-item", second)
    assert [row["verdict"] for row in decisions(labels)][2:] == ["undone"]


def test_two_labellers_share_some_and_divide_the_rest(
    context: BrowserContext, browser, served: Served, labels: Path
) -> None:
    ann = context.new_page()
    other = browser.new_context()
    bob = other.new_page()
    sit_down(ann, served.url, "ann")
    sit_down(bob, served.url, "  Bob\u00a0B. ")
    assert item(ann) == item(bob)  # the first is everybody's
    press(ann, "1")
    press(bob, "1")
    assert item(ann) != item(bob)
    press(ann, "t")
    press(bob, "t")
    rows = decisions(labels)
    assert [row["labeller"] for row in rows] == ["ann", "Bob B.", "ann", "Bob B."]
    assert rows[0]["item"] == rows[1]["item"]
    assert len({row["item"] for row in rows}) == 3
    press(bob, "b")
    expect(bob.locator("[data-name=agreement]")).to_contain_text("2")
    other.close()


def test_chinese_and_dark(page: Page, served: Served) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(served.url + "/#lang=zh")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.locator("#name").fill("小明")
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=label]")).to_be_visible()
    expect(page.locator("#labeller")).to_have_text("小明")
    assert "{" not in page.locator("#foot").inner_text()
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_a_server_that_comes_back_gets_the_decision(
    page: Page, items: Path, labels: Path, served: Served, start, watch
) -> None:
    watch.expect("ERR_CONNECTION_REFUSED", "Failed to load resource")
    sit_down(page, served.url)
    before = item(page)
    served.stop()
    page.keyboard.press("1")
    expect(page.locator("#banner")).to_be_visible()
    assert not labels.exists() or not labels.read_text()
    port = str(urlsplit(served.url).port)
    start("label", items, "--output", labels, "--port", port, "--no-open")
    expect(page.locator("[data-view=label]")).not_to_have_attribute("data-item", before)
    expect(page.locator("#banner")).to_have_count(0)
    assert [row["item"] for row in decisions(labels)] == [before]


# ---------------------------------------------------------------- requests of nobody's page


@pytest.fixture
def post(served: Served) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    place = urlsplit(served.url)

    def send(path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = HTTPConnection(place.hostname or "", place.port, timeout=30)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        return answer.status, said

    yield send
    assert "Traceback" not in "".join(served.lines), "".join(served.lines)


def test_requests_of_others_are_refused(post, served: Served, labels: Path) -> None:
    good = {"labeller": "ann", "item": "?", "verdict": "tie", "place": None, "seconds": 1.0, "nonce": "12345678"}
    known = state(served)["item"]["item"]
    good["item"] = known
    decide = "/api/label/decide"
    assert post(decide, good, Origin="http://evil.example")[0] == 403
    assert post(decide, good, Origin="null")[0] == 403
    assert post(decide, good, Host="evil.example")[0] == 400
    assert post(decide, good, **{"Content-Type": "text/plain"})[0] == 415
    assert post(decide, good, **{"Content-Type": "application/x-www-form-urlencoded"})[0] == 415
    assert post(decide, b"{", **{})[0] == 400
    assert post(decide, b"[" * 10_000)[0] == 400
    assert post(decide, [1])[0] == 400
    assert post(decide, good | {"note": "x" * 70_000})[0] == 413
    wrong: list[dict[str, Any]] = [
        {"labeller": ""}, {"labeller": "a" * 61}, {"labeller": "\u202e"}, {"labeller": 3}, {"labeller": None},
        {"item": "../../etc/passwd"}, {"item": 3}, {"verdict": "better"}, {"verdict": "better", "place": 4},
        {"verdict": "better", "place": -1}, {"verdict": "better", "place": "0"}, {"verdict": "better", "place": True},
        {"verdict": "tie", "place": 0}, {"verdict": "undone"}, {"verdict": "x" * 1000}, {"verdict": None},
        {"note": 3}, {"note": "x" * 4001}, {"seconds": "x"}, {"nonce": ""}, {"nonce": "x" * 65}, {"nonce": "\n" * 9},
    ]  # fmt: skip
    for change in wrong:
        status, said = post(decide, good | change)
        assert (status, list(said)) == (422, ["error"]), change
    missing = {name: value for name, value in good.items() if name != "labeller"}
    assert post(decide, missing)[0] == 422
    assert post("/api/label/skip", {"labeller": "ann", "item": "nobody"})[0] == 422
    assert post("/api/label/nothing", good)[0] == 404
    assert not labels.exists() or not labels.read_text()

    odd = {"note": "\ud83d half", "seconds": -5, "labeller": " ann "}
    for seconds in (-5, 1e308, 10**30):
        status, said = post(decide, good | odd | {"seconds": seconds, "nonce": f"nonce-{seconds:g}"})
        assert status == 200, said
    assert all(0 <= row["seconds"] <= 86_400 for row in decisions(labels))


def test_what_is_said_twice_is_done_once(post, served: Served, labels: Path) -> None:
    known = state(served)["item"]["item"]
    said = {"labeller": "ann", "item": known, "verdict": "tie", "place": None, "seconds": 1, "nonce": "12345678"}
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(post("/api/label/decide", said)[0])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
    assert len(decisions(labels)) == 1
    back = {"labeller": "ann", "nonce": "87654321"}
    for _ in range(3):
        assert post("/api/label/undo", back)[0] == 200
    assert [row["verdict"] for row in decisions(labels)] == ["tie", "undone"]
    assert post("/api/label/decide", said)[1]["written"] is False  # an old request that arrives late


def state(served: Served, labeller: str = "ann") -> dict[str, Any]:
    place = urlsplit(served.url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.request("GET", f"/api/label/state?labeller={labeller}")
    return json.loads(connection.getresponse().read())
