"""A server that gives scores: what it is sent, what it may answer, and what is said of one that does not."""

import datetime
import email.utils
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from clearppo.batch import Rollout
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback import FakeScorer, WeightedScorer
from clearppo.feedback.http import HTTPScorer
from clearppo.feedback.http_client import MAX_ANSWER, HTTPClient, Patience, http_address, token_from
from tests.judge_server import Reply, judge_server, words
from tests.tiny import tiny_rollout

PROMPTS, ANSWERS = ["The film", "A dog", "It is"], [" was good", " barks", " raining “here”"]
MESSAGES = [{"role": "user", "content": "Hello?"}]
ONCE = Patience(timeout=5, total=0)


class Clock:
    """Time that passes in pauses only."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float, _stopped: threading.Event) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


def scorer(url: str, *, patience: Patience = ONCE, clock: Clock | None = None, **more: Any) -> HTTPScorer:
    clock = clock or Clock()
    token = more.pop("token", None)
    return HTTPScorer(HTTPClient(url, patience=patience, sleep=clock.sleep, now=clock.now, token=token), **more)


def rollout() -> Rollout:
    return tiny_rollout(PROMPTS, ANSWERS)


def refused(answer: Callable[[dict[str, Any]], Any], patience: Patience = ONCE) -> str:
    with judge_server(answer) as server, pytest.raises(RewardError) as caught:
        scorer(server.url, patience=patience)(rollout())
    message = str(caught.value)
    assert message.startswith(f"the judge at {server.url} ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --------------------------------------------------------------------------------------------- what goes to and fro


def test_what_it_is_sent_in_batches() -> None:
    with judge_server() as server:
        scores = scorer(server.url, batch_size=2)(rollout())
    assert server.requests == [
        {"prompts": PROMPTS[:2], "completions": ANSWERS[:2]},
        {"prompts": PROMPTS[2:], "completions": ANSWERS[2:]},
    ]
    assert scores.total.tolist() == pytest.approx([words(answer) for answer in ANSWERS])
    assert torch.equal(scores.parts["judge"], scores.total)


def test_messages_are_answered_by_messages() -> None:
    with judge_server() as server:
        scorer(server.url)(tiny_rollout([MESSAGES], ["Hi!"]))
    assert server.requests == [
        {"prompts": [MESSAGES], "completions": [[{"role": "assistant", "content": "Hi!"}]]}
    ]  # fmt: skip


def test_openrlhf_says_rewards_and_scores_come_first() -> None:
    with judge_server(lambda request: {"rewards": [1, 2.5, -3]}) as server:
        assert scorer(server.url)(rollout()).total.tolist() == [1, 2.5, -3]
    with judge_server(lambda request: {"rewards": [0, 0, 0], "scores": [4, 5, 6], "extra_logs": {}}) as server:
        assert scorer(server.url)(rollout()).total.tolist() == [4, 5, 6]


def test_null_means_not_applicable() -> None:
    with judge_server(lambda request: {"scores": [1, None, 3]}) as server:
        skipping = scorer(server.url)
        assert skipping(rollout()).total.isnan().tolist() == [False, True, False]
        assert skipping(rollout()).missing == frozenset()
        with pytest.raises(RewardError, match=r'`judge` gave no score \(None: not applicable\) for row 2 \("A dog"\)'):
            WeightedScorer([skipping])(rollout())


# --------------------------------------------------------------------------------------------- what is no answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"scores": [1, 2]}, "returned 2 scores for 3 completions"),
        ({"scores": []}, "returned 0 scores for 3 completions"),
        ({"scores": 7}, "holds no list `scores`"),
        ({"score": [1, 2, 3]}, "answered a dict, {'score': [1, 2, 3]}, which holds no list `scores`"),
        ([1, 2, 3], "answered a list, [1, 2, 3]. It must answer"),
        ({"scores": [1, "2", 3]}, "returned a str, '2' instead of a number for row 2 (\"A dog\") of 3"),
        ({"scores": [1, [2], 3]}, "returned a list, [2] instead of a number for row 2"),
        (Reply(b'{"scores": [1, NaN, 3]}'), 'returned nan for row 2 ("A dog") of 3'),
        (Reply(b'{"scores": [1, 2, 1e999]}'), 'returned inf for row 3 ("It is") of 3'),
        (Reply(b"<html>\nWelcome</html>"), "answered no JSON but: <html>."),
        (Reply(b""), "answered no JSON but: nothing."),
        (Reply(b"\xff\xfe"), "answered no JSON but: "),
        (Reply(b"[" * 100_000), "answered no JSON but: "),
        (Reply("no such page", 404), 'answered HTTP 404 ("no such page"). Check --judge_url'),
        (Reply(b"", 401), "answered HTTP 401 (Unauthorized)"),
        (
            Reply(b"", 302, {"Location": "file:///etc/passwd"}),
            "a redirect to file:///etc/passwd, which is not followed",
        ),
        (Reply(b"", 308, {"Location": "http://127.0.0.1/other"}), "a redirect to http://127.0.0.1/other"),
        (Reply(b"", 301), "a redirect to nowhere"),
    ],
)
def test_what_is_no_answer_is_said_at_once(answer: Any, said: str) -> None:
    asked = []
    assert said in refused(lambda request: asked.append(1) or answer, Patience(timeout=5, total=9))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "reply", [Reply("busy", 503), Reply(hangs_up=True), Reply("x", headers={"Content-Length": "9"})]
)
def test_what_may_pass_is_asked_again(reply: Reply) -> None:
    replies = [reply, reply, Reply({"scores": [1, 2, 3]})]
    clock = Clock()
    with judge_server(lambda request: replies.pop(0)) as server:
        asking = scorer(server.url, patience=Patience(timeout=5, first_pause=0.5), clock=clock)
        assert asking(rollout()).total.tolist() == [1, 2, 3]
    assert len(server.requests) == 3
    assert len(clock.pauses) == 2
    assert 0 <= clock.pauses[0] <= 0.5
    assert 0 <= clock.pauses[1] <= 1.0


def test_pauses_double_up_to_the_longest_and_a_random_part_is_waited() -> None:
    patience = Patience(first_pause=0.5, longest_pause=15)
    assert [patience.pause(n) for n in (1, 2, 3, 6, 7, 10_000)] == [0.5, 1, 2, 15, 15, 15]
    clock = Clock()
    with judge_server(lambda request: Reply(b"", 503)) as server, pytest.raises(RewardError):
        scorer(server.url, patience=Patience(timeout=5, total=300), clock=clock)(rollout())
    late = clock.pauses[5:-1]
    assert len(set(late)) == len(late) > 10  # all at the cap of 15, and yet no two alike: that is the jitter
    assert max(late) <= 15
    assert clock.seconds == pytest.approx(300)


def test_but_not_for_ever() -> None:
    message = refused(lambda request: Reply(b"Traceback\nKeyError", 500), Patience(timeout=5, total=60))
    assert "answered HTTP 500 (Traceback) (asked " in message
    assert "times, patience 60 seconds)" in message
    assert "gave no answer: RemoteDisconnected" in refused(lambda request: Reply(hangs_up=True))
    assert "hung up 6 bytes before the end of its answer (asked once" in refused(
        lambda request: Reply("x", headers={"Content-Length": "9"})
    )


def test_a_server_that_is_away_for_a_minute_is_waited_for_by_default() -> None:
    clock = Clock()
    gone = 60.0
    with judge_server(lambda request: Reply(b"", 503) if clock.seconds < gone else {"scores": [1, 2, 3]}) as server:
        assert scorer(server.url, patience=Patience(), clock=clock)(rollout()).total.tolist() == [1, 2, 3]
    assert 60 <= clock.seconds < 90
    assert Patience().total >= 120


@pytest.mark.parametrize("header", ["7", "date"])
def test_a_server_says_when_to_come_again(header: str) -> None:
    if header == "date":
        header = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=7))
    replies = [Reply(b"", 429, {"Retry-After": header}), Reply({"scores": [1, 2, 3]})]
    clock = Clock()
    with judge_server(lambda request: replies.pop(0)) as server:
        scorer(server.url, patience=Patience(timeout=5), clock=clock)(rollout())
    assert clock.pauses == [pytest.approx(7, abs=1.5)]


@pytest.mark.parametrize("header", ["soon", "", "-3", "1e9", "²", "Mon, 99 Foo 2026 00:00:00 GMT", "9" * 300])
def test_a_senseless_retry_after_is_no_reason_to_fail(header: str) -> None:
    replies = [Reply(b"", 503, {"Retry-After": header.encode().decode("latin-1")}), Reply({"scores": [1, 2, 3]})]
    with judge_server(lambda request: replies.pop(0)) as server:
        asking = scorer(server.url, patience=Patience(timeout=5, total=300))
        if header.startswith("999"):
            with pytest.raises(RewardError, match=r"wants to be asked again after 1e\+12 seconds \(asked once"):
                asking(rollout())
        else:
            assert asking(rollout()).total.tolist() == [1, 2, 3]


def test_a_silent_judge() -> None:
    message = refused(lambda request: time.sleep(1), Patience(timeout=0.05, total=0.001))
    assert "gave no answer: nothing came within 0.05 seconds (asked 2 times" in message


def test_an_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearppo.feedback.http_client.MAX_ANSWER", 2**20)
    assert "more than 1 MiB" in refused(lambda request: Reply(b" " * (2**20 + 1)))
    assert MAX_ANSWER > 2**20


def test_ctrl_c_passes_through() -> None:
    class Interrupted(Clock):
        def sleep(self, seconds: float, _stopped: threading.Event) -> None:
            raise KeyboardInterrupt

    with judge_server(lambda request: Reply(b"", 503)) as server, pytest.raises(KeyboardInterrupt):
        scorer(server.url, patience=Patience(), clock=Interrupted())(rollout())


# --------------------------------------------------------------------------------------------- rows without a score


def test_null_stops_or_drops_the_row_whatever_others_say() -> None:
    with judge_server(lambda request: {"scores": [1, None, 3]}) as server:
        stopping, dropping = scorer(server.url, null="stop"), scorer(server.url, null="drop")
        with pytest.raises(
            RewardError, match=r"gave no score \(null\) for row 2 \(\"A dog\"\) of 3.*--reward_missing drop"
        ):
            stopping(rollout())
        assert dropping(rollout()).missing == {1}
        both = WeightedScorer([FakeScorer(), dropping], drop_missing=True)(rollout())
    assert both.missing == {1}
    assert both.total.isnan().tolist() == [False, True, False]
    assert both.total[[0, 2]].tolist() == [2, 6]  # 1 and 3 tokens, and 1 and 3


def test_a_row_that_no_source_scores_is_dropped_if_that_was_asked_for() -> None:
    with judge_server(lambda request: {"scores": [None, None, 3]}) as server:
        skipping = scorer(server.url)
        assert WeightedScorer([skipping], drop_missing=True)(rollout()).missing == {0, 1}
        assert WeightedScorer([FakeScorer(), skipping], drop_missing=True)(rollout()).missing == frozenset()


# --------------------------------------------------------------------------------------------- several at once


def test_concurrent_requests_keep_their_places() -> None:
    texts, under_way, most = [f"text {i}" for i in range(24)], [0], [0]
    lock = threading.Lock()

    def slow(request: dict[str, Any]) -> Any:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.005 * (len(request["completions"][0]) % 3 + 1))
        with lock:
            under_way[0] -= 1
        return {"scores": [int(text.split()[1]) for text in request["completions"]]}

    with judge_server(slow) as server:
        asking = scorer(server.url, batch_size=2, concurrency=4)
        assert asking(tiny_rollout(texts, texts)).total.tolist() == list(range(24))
    assert 2 <= most[0] <= 4
    assert len(server.requests) == 12


def test_the_first_error_ends_all_at_once() -> None:
    """The others are not waited for: one request hangs, one is refused."""
    hanging = threading.Event()

    def answer(request: dict[str, Any]) -> Any:
        if request["prompts"] == PROMPTS[:1]:
            hanging.wait(20)
        return Reply(b"no", 400)

    with judge_server(answer) as server:
        began = time.monotonic()
        with pytest.raises(RewardError, match="HTTP 400"):
            scorer(server.url, batch_size=1, concurrency=2)(rollout())
        assert time.monotonic() - began < 5
        hanging.set()


def test_trouble_is_told_once_and_its_end_too() -> None:
    replies = [Reply(b"", 503), Reply(b"", 503), Reply(b"", 503)]
    told: list[str] = []
    with judge_server(
        lambda request: replies.pop() if replies else {"scores": [0] * len(request["prompts"])}
    ) as server:
        asking = scorer(server.url, batch_size=1, concurrency=3, patience=Patience())
        asking.note = told.append
        asking(rollout())
    assert len(told) == 2
    assert told[0].startswith(f"the judge at {server.url} answered HTTP 503")
    assert "asking again for up to 300 seconds" in told[0]
    assert "answers again" in told[1]


# --------------------------------------------------------------------------------------------- other forms, columns


def test_columns_go_along_and_nan_is_null() -> None:
    asked = tiny_rollout(
        PROMPTS, ANSWERS, columns={"answer": [1.5, math.nan, None], "meta": [{"a": [math.inf]}, {}, {}]}
    )
    with judge_server() as server:
        scorer(server.url, batch_size=2)(asked)
    assert server.requests[0]["answer"] == [1.5, None]
    assert server.requests[0]["meta"] == [{"a": [None]}, {}]
    assert server.requests[1]["answer"] == [None]
    with pytest.raises(RewardError, match=r"column `completions`.*Rename the column"):
        scorer(server.url)(tiny_rollout(PROMPTS, ANSWERS, columns={"completions": ["", "", ""]}))
    with pytest.raises(RewardError, match=r"column `day` holds a date.*JSON cannot carry"):
        scorer(server.url)(tiny_rollout(PROMPTS, ANSWERS, columns={"day": [datetime.date(2026, 1, 1)] * 3}))


def test_openrlhfs_form() -> None:
    with judge_server(lambda request: {"rewards": [1, 2, 3], "scores": [9, 9, 9]}) as server:
        asking = scorer(server.url, wire="openrlhf")
        assert asking(tiny_rollout(PROMPTS, ANSWERS, columns={"label": [7, 8, 9]})).total.tolist() == [1, 2, 3]
        asking.render = lambda prompt: f"<user>{prompt[0]['content']}<assistant>"
        asking(tiny_rollout([MESSAGES] * 3, ANSWERS))
    assert server.requests[0] == {
        "query": [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)],
        "prompts": PROMPTS,
        "labels": [7, 8, 9],
    }
    assert server.requests[1]["query"][0] == "<user>Hello?<assistant> was good"
    assert server.requests[1]["labels"] == [None] * 3
    says_scores = judge_server(lambda request: {"scores": [1, 2, 3]})
    with says_scores as server, pytest.raises(RewardError, match="holds no list `rewards`"):
        scorer(server.url, wire="openrlhf")(rollout())


# --------------------------------------------------------------------------------------------- the token


def test_the_token_goes_along_and_into_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", " s3cret-token ")
    token = token_from("MY_TOKEN", "reward_auth_env")
    refusing = judge_server(lambda request: Reply({"error": "s3cret-token is no good"}, 401))
    with refusing as server, pytest.raises(RewardError) as caught:
        scorer(server.url, token=token)(rollout())
    assert server.headers[0]["Authorization"] == "Bearer s3cret-token"
    assert "s3cret" not in str(caught.value)
    assert "HTTP 401 (*** is no good)" in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\nend", "ü"])
def test_a_token_that_is_not_there_or_cannot_be_sent(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_TOKEN", value)
    with pytest.raises(ConfigError, match="reward_auth_env = MY_TOKEN") as caught:
        token_from("MY_TOKEN", "reward_auth_env")
    assert not (value or "").strip() or value not in str(caught.value)
    assert token_from(None, "reward_auth_env") is None


# --------------------------------------------------------------------------------------------- where it is


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_dead_url_is_known_before_anything_is_sent() -> None:
    dead = scorer(f"http://127.0.0.1:{closed_port()}/")
    with pytest.raises(RewardError, match="cannot be reached: the connection was refused, nothing listens there"):
        dead.client.require_listener()
    with pytest.raises(RewardError, match="gave no answer: the connection was refused"):
        dead(rollout())
    with judge_server() as server:
        scorer(server.url).client.require_listener()
    assert server.requests == []


def test_a_proxy_is_asked_for_other_machines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with judge_server() as proxy, judge_server() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        own, other = scorer(server.url), scorer("http://judge.invalid/score")
        other.client.require_listener()  # nothing can be said: the proxy connects
        own(rollout())
        other(rollout())
    assert (len(server.requests), len(proxy.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000/score", "has no scheme"),
        ("judge", "has no scheme"),
        ("file:///etc/passwd", "has the scheme file"),
        ("ftp://host/x", "has the scheme ftp"),
        ("http://", "names no host"),
        ("http:///score", "names no host"),
        ("http://host:port/", "is no URL: "),
        ("http://host:99999/", "is no URL: "),
        ("http://host:0/", "names no host and port"),
        ("http://[::1/", "is no URL: "),
        ("http://host/a b", "holds a space"),
        ("http://host/\n", "holds a space"),
        ("http://höst/", "no URL has"),
        ("http://me:secret@host/", "holds a user name"),
    ],
)
def test_what_is_no_address(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HTTPClient(url)
    message = str(caught.value)
    assert message.startswith("judge_url ")
    assert said in message
    assert message.endswith("Use --judge_url http://localhost:8000/score.")
    assert "\n" not in message
    assert "secret" not in message


def test_what_is_an_address() -> None:
    for url in ("http://localhost:8000/score", "https://judge.example/a?b=c", "HTTP://[::1]:80"):
        assert http_address(url).hostname
