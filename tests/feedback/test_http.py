"""A judge behind a URL: what it is sent, what it may answer, and what is said of a judge that does not."""

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from clearppo.batch import Rollout
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback import WeightedScorer
from clearppo.feedback.http import MAX_ANSWER, HTTPJudge, Patience, judge_address
from tests.judge_server import Reply, judge_server, words
from tests.tiny import tiny_rollout

PROMPTS, ANSWERS = ["The film", "A dog", "It is"], [" was good", " barks", " raining “here”"]
MESSAGES = [{"role": "user", "content": "Hello?"}]
ONCE = Patience(timeout=5, pauses=())


def rollout() -> Rollout:
    return tiny_rollout(PROMPTS, ANSWERS)


def refused(answer: Callable[[dict[str, Any]], Any], patience: Patience = ONCE) -> str:
    with judge_server(answer) as server, pytest.raises(RewardError) as caught:
        HTTPJudge(server.url, patience=patience, sleep=lambda _: None)(rollout())
    message = str(caught.value)
    assert message.startswith(f"the judge at {server.url} ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --------------------------------------------------------------------------------------------- what goes to and fro


def test_what_it_is_sent_in_batches() -> None:
    with judge_server() as server:
        scores = HTTPJudge(server.url, batch_size=2)(rollout())
    assert server.requests == [
        {"prompts": PROMPTS[:2], "completions": ANSWERS[:2]},
        {"prompts": PROMPTS[2:], "completions": ANSWERS[2:]},
    ]
    assert scores.total.tolist() == pytest.approx([words(answer) for answer in ANSWERS])
    assert torch.equal(scores.parts["judge"], scores.total)


def test_messages_are_answered_by_messages() -> None:
    with judge_server() as server:
        HTTPJudge(server.url)(tiny_rollout([MESSAGES], ["Hi!"]))
    assert server.requests == [
        {"prompts": [MESSAGES], "completions": [[{"role": "assistant", "content": "Hi!"}]]}
    ]  # fmt: skip


def test_openrlhf_says_rewards_and_scores_come_first() -> None:
    with judge_server(lambda request: {"rewards": [1, 2.5, -3]}) as server:
        assert HTTPJudge(server.url)(rollout()).total.tolist() == [1, 2.5, -3]
    with judge_server(lambda request: {"rewards": [0, 0, 0], "scores": [4, 5, 6], "extra_logs": {}}) as server:
        assert HTTPJudge(server.url)(rollout()).total.tolist() == [4, 5, 6]


def test_null_means_not_applicable() -> None:
    with judge_server(lambda request: {"scores": [1, None, 3]}) as server:
        scorer = HTTPJudge(server.url)
        assert scorer(rollout()).total.isnan().tolist() == [False, True, False]
        with pytest.raises(RewardError, match=r'`judge` gave no score \(None: not applicable\) for row 2 \("A dog"\)'):
            WeightedScorer([scorer])(rollout())


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
    assert said in refused(lambda request: asked.append(1) or answer, Patience(timeout=5, pauses=(1, 1)))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "reply", [Reply("busy", 503), Reply(hangs_up=True), Reply("x", headers={"Content-Length": "9"})]
)
def test_what_may_pass_is_asked_again(reply: Reply) -> None:
    replies = [reply, reply, Reply({"scores": [1, 2, 3]})]
    pauses: list[float] = []
    with judge_server(lambda request: replies.pop(0)) as server:
        patience = Patience(timeout=5, pauses=(0.5, 1, 2))
        assert HTTPJudge(server.url, patience=patience, sleep=pauses.append)(rollout()).total.tolist() == [1, 2, 3]
    assert len(server.requests) == 3
    assert pauses == [0.5, 1]


def test_but_not_for_ever() -> None:
    message = refused(lambda request: Reply(b"Traceback\nKeyError", 500), Patience(timeout=5, pauses=(0.1, 0.2)))
    assert "answered HTTP 500 (Traceback) (asked 3 times in a row)" in message
    assert "gave no answer: RemoteDisconnected" in refused(lambda request: Reply(hangs_up=True))
    assert "hung up 6 bytes before the end of its answer (asked once)" in refused(
        lambda request: Reply("x", headers={"Content-Length": "9"})
    )


def test_a_silent_judge() -> None:
    message = refused(lambda request: time.sleep(1), Patience(timeout=0.05, pauses=(0,)))
    assert "gave no answer: nothing came within 0.05 seconds (asked 2 times in a row)" in message


def test_an_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearppo.feedback.http.MAX_ANSWER", 2**20)
    assert "more than 1 MiB" in refused(lambda request: Reply(b" " * (2**20 + 1)))
    assert MAX_ANSWER > 2**20


def test_ctrl_c_passes_through() -> None:
    def interrupted(pause: float) -> None:
        raise KeyboardInterrupt

    with judge_server(lambda request: Reply(b"", 503)) as server, pytest.raises(KeyboardInterrupt):
        HTTPJudge(server.url, sleep=interrupted)(rollout())


# --------------------------------------------------------------------------------------------- where it is


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_dead_url_is_known_before_anything_is_sent() -> None:
    dead = HTTPJudge(f"http://127.0.0.1:{closed_port()}/", patience=ONCE)
    with pytest.raises(RewardError, match="cannot be reached: the connection was refused, nothing listens there"):
        dead.require_listener()
    with pytest.raises(RewardError, match="gave no answer: the connection was refused"):
        dead(rollout())
    with judge_server() as server:
        HTTPJudge(server.url).require_listener()
    assert server.requests == []


def test_a_proxy_is_asked_for_other_machines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with judge_server() as proxy, judge_server() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        own, other = HTTPJudge(server.url, patience=ONCE), HTTPJudge("http://judge.invalid/score", patience=ONCE)
        other.require_listener()  # nothing can be said: the proxy connects
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
        HTTPJudge(url)
    message = str(caught.value)
    assert message.startswith("judge_url ")
    assert said in message
    assert message.endswith("Use --judge_url http://localhost:8000/score.")
    assert "\n" not in message
    assert "secret" not in message


def test_what_is_an_address() -> None:
    for url in ("http://localhost:8000/score", "https://judge.example/a?b=c", "HTTP://[::1]:80"):
        assert judge_address(url).hostname
