"""The page's requests: what it is told, what it may not know, and what nobody else may ask for."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from clearppo.data.candidates import Candidate
from clearppo.data.labels import item_id
from clearppo.ui.label_app import MAX_BYTES, STATIC, make_label_app
from clearppo.ui.label_desk import Desk
from clearppo.ui.label_store import LabelStore
from tests.label.conftest import candidates, rows_of

HERE = "http://127.0.0.1:8401"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def client(store: LabelStore) -> TestClient:
    """A page of ten items, one of which holds HTML."""
    answers = (SCRIPT, "b")
    items = [*candidates(9, 3), Candidate(item=item_id(SCRIPT, answers), prompt=SCRIPT, completions=answers)]
    app = make_label_app(
        Desk(items, store, overlap=0.2), source="answers.jsonl", output="labels.jsonl", following="next"
    )
    return TestClient(app, base_url=HERE)


@pytest.fixture
def post(client: TestClient) -> Callable[..., Any]:
    """`post("decide", labeller="ann", ...)`: the answer of a request that must succeed."""
    nonces = iter(range(10_000_000, 20_000_000))

    def post(what: str, **said: Any) -> Any:
        if what != "skip":
            said.setdefault("nonce", str(next(nonces)))
        answer = client.post(f"/api/label/{what}", json=said)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return post


def state(client: TestClient, labeller: str = "ann") -> Any:
    return client.get("/api/label/state", params={"labeller": labeller}).json()


def test_an_item_says_nothing_that_gives_an_answer_away(client: TestClient) -> None:
    told = state(client)
    assert set(told) == {"labeller", "item", "progress", "agreement", "results"}
    assert set(told["item"]) == {"item", "prompt", "answers", "cut"}
    assert told["results"] is None
    assert told["progress"]["items"] == 10
    assert told["agreement"] is None
    assert state(client) == told  # the page is loaded again


def test_a_whole_course(client: TestClient, post: Callable[..., Any], store: LabelStore) -> None:
    for number in range(10):
        before = state(client)
        after = post(
            "decide", labeller=" ann ", item=before["item"]["item"], verdict="better", place=number % 2, seconds=2,
            note="ok" if number == 3 else "",
        )  # fmt: skip
        assert after["written"]
        assert after["progress"]["mine"] == number + 1
        row = rows_of(store.path)[-1]
        assert row["completions"][row["choice"]] == before["item"]["answers"][number % 2]
        assert row["prompt"] == before["item"]["prompt"]
    assert after["item"] is None
    assert rows_of(store.path)[3]["note"] == "ok"
    back = post("undo", labeller="ann")
    assert back["item"] == before["item"]
    assert post("decide", labeller="ann", item=back["item"]["item"], verdict="all bad")["item"] is None
    assert client.get("/api/label").json() == {
        "source": "answers.jsonl", "output": "labels.jsonl", "following": "next", "labellers": ["ann"],
    }  # fmt: skip


def test_a_request_sent_twice_counts_once(client: TestClient, post: Callable[..., Any], store: LabelStore) -> None:
    item = state(client)["item"]["item"]
    said = {"labeller": "ann", "item": item, "verdict": "tie", "nonce": "the same one"}
    first, second = post("decide", **said), post("decide", **said)
    assert (first.pop("written"), second.pop("written")) == (True, False)
    assert first == second
    assert len(rows_of(store.path)) == 1


def test_agreement_is_told_when_two_share_items(client: TestClient, post: Callable[..., Any]) -> None:
    for labeller in ("ann", "bob"):
        for _ in range(2):
            post("decide", labeller=labeller, item=state(client, labeller)["item"]["item"], verdict="tie")
    told = state(client)["agreement"]
    assert told == {"labellers": 2, "items": 2, "equal": 1.0, "alpha": None, "kappa": None}


def test_a_state_of_nobody(client: TestClient) -> None:
    answer = client.get("/api/label/state")
    assert (answer.status_code, answer.json()) == (422, {"error": "`labeller` is missing"})


def test_a_file_that_another_program_changes_is_said(client: TestClient, store: LabelStore) -> None:
    item = state(client)["item"]["item"]
    store.path.write_text('{"half')
    said = {"labeller": "ann", "item": item, "verdict": "tie", "nonce": "123456789"}
    answer = client.post("/api/label/decide", json=said)
    assert answer.status_code == 422
    assert "was changed by another program while it is open" in answer.json()["error"]
    assert store.path.read_text() == '{"half'


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"labeller": ""}, 422, "name is empty"),
        ({"labeller": None}, 422, "`labeller` is nothing"),
        ({"labeller": "x" * 61}, 422, "at most 60"),
        ({"item": "0" * 16}, 422, "there is no item"),
        ({"item": 3}, 422, "`item` is a number"),
        ({"verdict": "undone"}, 422, "is none of better, tie, all bad"),
        ({"place": True}, 422, "`place` is a boolean"),
        ({"place": 3, "verdict": "better"}, 422, "there are 3 answers"),
        ({"note": 1}, 422, "`note` is a number"),
        ({"seconds": "1"}, 422, "`seconds` is a string"),
        ({"nonce": "short"}, 422, "8 to 64 characters"),
        ({"nonce": "x" * 65}, 422, "8 to 64 characters"),
        ({"note": "x" * MAX_BYTES}, 413, "the body is larger"),
    ],
)
def test_bad_requests_get_a_sentence(
    wrong: dict[str, Any], status: int, words: str, client: TestClient, store: LabelStore
) -> None:
    item = next(it for it in candidates(9, 3)).item
    said = {"labeller": "ann", "item": item, "verdict": "tie", "nonce": "x" * 12, **wrong}
    answer = client.post("/api/label/decide", json=said)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert rows_of(store.path) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "http://127.0.0.1:9999"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 400),
    ],
)
@pytest.mark.parametrize("what", ["decide", "undo", "skip"])
def test_no_other_page_may_write(
    what: str, headers: dict[str, str], status: int, client: TestClient, store: LabelStore
) -> None:
    item = state(client)["item"]["item"]
    body = f'{{"labeller": "ann", "item": "{item}", "verdict": "tie", "nonce": "123456789"}}'
    answer = client.post(f"/api/label/{what}", content=body, headers=headers)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert rows_of(store.path) == []
    ours = {"Content-Type": "application/json; charset=utf-8", "Origin": HERE}
    assert client.post("/api/label/decide", content=body, headers=ours).status_code == 200


def test_no_request_but_a_post_writes(client: TestClient, store: LabelStore) -> None:
    for what in ("decide", "undo", "skip"):
        assert client.get(f"/api/label/{what}").status_code == 405
    state(client)
    assert rows_of(store.path) == []


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for name in ("label.js", "label.css", "style.css", "dom.js", "i18n.js", "theme.js"):
        assert client.get(f"/static/{name}").status_code == 200
    assert client.get("/static/../label_app.py").status_code == 404
    assert client.get("/static/%2e%2e/label_app.py").status_code == 404
    assert "innerHTML" not in (STATIC / "label.js").read_text()


def test_the_page_knows_both_languages() -> None:
    """Every key is there in English and in Chinese."""
    import re

    text = (STATIC / "label.js").read_text(encoding="utf-8")
    english, chinese = (
        text[text.index("  en: {") : text.index("  zh: {")],
        text[text.index("  zh: {") : text.index("};")],
    )
    keys = [set(re.findall(r'(?:^|[\s,{])"?([\w.]+)"?: "', part)) for part in (english, chinese)]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 40
    used = set(re.findall(r'\bt\("([\w.]+)"', text))
    assert used <= keys[0]


def test_halves_of_characters_do_no_harm(client: TestClient, post: Callable[..., Any], store: LabelStore) -> None:
    item = state(client)["item"]["item"]
    body = f'{{"labeller": "ann", "item": "{item}", "verdict": "tie", "nonce": "123456789", "note": "\\ud800!"}}'
    answer = client.post("/api/label/decide", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert rows_of(store.path)[0]["note"] == "?!"
