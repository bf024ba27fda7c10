"""A reward model behind HTTP: the same scores, many at once, and a sentence for whatever is no request."""

import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.build.serve import RewardServer, build_server
from clearppo.errors import ConfigError, ModelError, RewardError
from clearppo.feedback.batcher import Batcher, BusyError
from clearppo.feedback.http import HTTPScorer
from clearppo.feedback.http_client import HTTPClient
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.serve import Limits, make_app
from tests.tiny import tiny_reward_model, tiny_rollout

MESSAGES = [{"role": "user", "content": "Hello?"}]
TEXTS = [("The film", " was good"), ("A dog", " barks"), ("It is", "")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_reward_model(tmp_path_factory.mktemp("rm"))


@contextlib.contextmanager
def running(server: RewardServer) -> Iterator[str]:
    uvicorn = server.server()
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [server.socket]}, daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        uvicorn.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def url(model: str) -> Iterator[str]:
    with running(
        build_server(
            model, host="127.0.0.1", port=0, batch_size=4, max_rows=100, max_body_mib=1, device="cpu", bf16=False
        )
    ) as url:
        yield url


def sent(url: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    """Status, JSON and headers of the answer to a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers


# --------------------------------------------------------------------------------------------- scores


def test_its_scores_are_the_models(url: str, model: str) -> None:
    direct = RewardModelScorer.load(model, torch.device("cpu"), torch.float32, 16)
    strings = tiny_rollout(*map(list, zip(*TEXTS, strict=True)), columns={"topic": [1, 2, 3]})
    chats = tiny_rollout([MESSAGES] * 3, [text for _, text in TEXTS])
    for rollout in (strings, chats):
        ours = HTTPScorer(HTTPClient(url), batch_size=2, concurrency=2)(rollout)
        assert torch.allclose(ours.total, direct(rollout).total, atol=1e-5)
    theirs = HTTPScorer(HTTPClient(url.replace("/score", "/get_reward")), wire="openrlhf")(strings)
    assert torch.allclose(theirs.total, direct(strings).total, atol=1e-5)


def test_openrlhfs_queries_without_prompts_are_read_whole(url: str) -> None:
    at = url.replace("/score", "/get_reward")
    _, whole, _ = sent(at, {"query": ["The film was good"]})
    _, split, _ = sent(at, {"query": ["The film was good"], "prompts": ["The film"], "labels": [None]})
    _, other, _ = sent(at, {"query": ["The film was good"], "prompts": ["Elsewhere"]})
    assert whole == split == other
    assert list(whole) == ["rewards"]


def test_it_is_there(url: str) -> None:
    with urllib.request.urlopen(url.replace("/score", "/health"), timeout=20) as answer:
        assert json.load(answer)["status"] == "ok"


def test_many_clients_at_once_each_get_their_own(url: str, model: str) -> None:
    """The load test: 12 threads, 96 requests of 1 to 8 rows."""
    direct = RewardModelScorer.load(model, torch.device("cpu"), torch.float32, 16)
    texts = [f"The film number {i} was {'very ' * (i % 5)}good" for i in range(96)]
    expected = direct.marks(direct.encoded(texts, [""] * len(texts))).tolist()
    wrong: list[Any] = []

    def client(number: int) -> None:
        for step in range(8):
            rows = [(number * 8 + step + k) % 96 for k in range(step + 1)]
            _, answer, _ = sent(url, {"prompts": [texts[row] for row in rows], "completions": [""] * len(rows)})
            if answer.get("scores") != pytest.approx([expected[row] for row in rows], abs=1e-4):
                wrong.append((rows, answer))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --------------------------------------------------------------------------------------------- what is no request


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the body is no JSON"),
        (b"\xff", 400, "the body is no JSON"),
        (b"[" * 50_000, 400, "the body is no JSON"),
        ([1], 400, "the body is a list, [1]; it must be a JSON object"),
        ({}, 422, "there is no prompts"),
        ({"prompts": "a", "completions": ["b"]}, 422, "prompts is a str, 'a'"),
        ({"prompts": [], "completions": []}, 422, "prompts is a list, []"),
        ({"prompts": ["a"], "completions": ["b", "c"]}, 422, "there are 1 prompts and 2 completions"),
        ({"prompts": [1], "completions": ["b"]}, 422, "prompts, row 1: a int, 1 is neither"),
        ({"prompts": [[{"role": "user"}]], "completions": ["b"]}, 422, "prompts, row 1"),
        ({"prompts": ["a"], "completions": [None]}, 422, "completions, row 1: None is neither"),
        ({"prompts": ["a"], "completions": [MESSAGES * 2]}, 422, "completions, row 1"),
        ({"prompts": ["a", "b"], "completions": ["c", "d " * 500]}, 422, "reads at most 128 tokens, and row 2"),
        ({"prompts": ["a"] * 101, "completions": ["b"] * 101}, 413, "101 rows; send at most 100"),
        (b" " * (2**20 + 1), 413, "larger than 1 MiB"),
    ],
)
def test_one_sentence_for_what_is_no_request(body: Any, status: int, said: str, url: str) -> None:
    got, answer, _ = sent(url, body)
    assert got == status
    assert list(answer) == ["error"]
    assert said in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("body", [{}, {"query": [1]}, {"query": ["a"], "prompts": ["a", "b"]}])
def test_the_same_for_openrlhfs_form(body: Any, url: str) -> None:
    assert sent(url.replace("/score", "/get_reward"), body)[0] == 422


def test_a_web_page_cannot_ask(url: str) -> None:
    good = {"prompts": ["a"], "completions": ["b"]}
    assert sent(url, good, **{"Content-Type": "text/plain"})[0] == 415
    port = url.split(":")[2].split("/")[0]
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as raw:  # a name that leads here by DNS
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert b" 400 " in raw.makefile("rb").readline()


def test_a_token_if_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RM_TOKEN", "open-sesame")
    good = {"prompts": ["a"], "completions": ["b"]}
    with running(build_server(model, host="127.0.0.1", port=0, device="cpu", auth_env="RM_TOKEN")) as url:
        assert sent(url, good)[0] == 401
        assert sent(url, good, Authorization="Bearer open")[0] == 401
        assert sent(url, good, Authorization="Bearer open-sesame")[0] == 200
        rollout = tiny_rollout(["a"], ["b"])
        assert HTTPScorer(HTTPClient(url, token="open-sesame"))(rollout).total.isfinite().all()
        with pytest.raises(RewardError, match="HTTP 401"):
            HTTPScorer(HTTPClient(url))(rollout)


# --------------------------------------------------------------------------------------------- starting


def test_what_cannot_be_served_is_said_before_anything_is_loaded(model: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on host = 127\.0\.0\.1, port = "):
            build_server("nowhere/at/all", host="127.0.0.1", port=taken.getsockname()[1], device="cpu")
    with pytest.raises(ConfigError, match=r"host = no\.such\.host\.invalid is no address"):
        build_server("nowhere/at/all", host="no.such.host.invalid", port=0, device="cpu")
    with pytest.raises(ModelError):
        build_server(str(tmp_path / "absent"), host="127.0.0.1", port=0, device="cpu")


def test_without_fastapi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    with pytest.raises(ConfigError, match=r"pip install 'clearppo\[serve\]'"):
        make_app(Slow(), name="x", limits=Limits(batch_rows=1, max_rows=1, max_bytes=1))


# --------------------------------------------------------------------------------------------- the batcher


class Slow:
    """A model that marks when it is told to, and remembers how many rows came together."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[int] = []

    def encoded(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[int]]:
        if "bad" in completions:
            raise RewardError("cannot read this.")
        return [[int(text)] for text in completions]

    def marks(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        self.seen.append(len(ids))
        self.go.wait(20)
        if [666] in ids:
            raise ZeroDivisionError
        return torch.tensor([float(row[0]) for row in ids])


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Batcher]]:
    model = Slow()
    batcher = Batcher(model, max_rows=4, max_waiting=12)
    yield model, batcher
    model.go.set()
    batcher.close()


def ask(batcher: Batcher, *texts: str) -> Any:
    return batcher.submit([""] * len(texts), texts)


def test_who_waits_shares_the_next_pass(slow: tuple[Slow, Batcher]) -> None:
    model, batcher = slow
    first = ask(batcher, "1")
    while not model.seen:
        pass
    waiting = [ask(batcher, "2"), ask(batcher, "3", "4"), ask(batcher, "5", "6"), ask(batcher, *map(str, range(6)))]
    model.go.set()
    assert first.result(20) == [1]
    assert [future.result(20) for future in waiting] == [[2], [3, 4], [5, 6], [0, 1, 2, 3, 4, 5]]
    assert model.seen == [1, 3, 2, 6]


def test_without_gathering_each_request_has_its_own_pass() -> None:
    model = Slow()
    batcher = Batcher(model, max_rows=1, max_waiting=12)
    asked = [ask(batcher, "1"), ask(batcher, "2"), ask(batcher, "3", "4")]
    model.go.set()
    assert [future.result(20) for future in asked] == [[1], [2], [3, 4]]
    assert model.seen == [1, 1, 2]
    batcher.close()


def test_a_bad_request_spoils_no_other(slow: tuple[Slow, Batcher]) -> None:
    model, batcher = slow
    ask(batcher, "1")
    while not model.seen:
        pass
    bad, good = ask(batcher, "bad"), ask(batcher, "2")
    gone = ask(batcher, "3")
    gone.cancel()
    model.go.set()
    with pytest.raises(RewardError, match="cannot read this"):
        bad.result(20)
    assert good.result(20) == [2]
    with pytest.raises(ZeroDivisionError):
        ask(batcher, "666").result(20)
    assert ask(batcher, "7").result(20) == [7]


def test_too_many_are_told_to_come_again(slow: tuple[Slow, Batcher]) -> None:
    model, batcher = slow
    ask(batcher, *["1"] * 10)
    with pytest.raises(BusyError):
        ask(batcher, *["1"] * 3)
    ask(batcher, "1", "1").cancel()
    model.go.set()
    while True:
        with contextlib.suppress(BusyError):
            assert ask(batcher, *["1"] * 3).result(20) == [1, 1, 1]
            return
