"""What the server of `clearppo view` says to requests that no page of its own sends, and to files that no run wrote: a
sentence, never a file from elsewhere, never a traceback. No browser is needed here."""

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.pages.strange import SECRET

ITERATION = "/api/runs/ppo-a/iterations/3"


def ask(base: str, path: str, method: str = "GET", **headers: str | None) -> tuple[int, bytes, dict[str, str]]:
    """A request as it stands here: no client tidies the path."""
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": place.netloc, **headers}.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


def refused(base: str, path: str, *statuses: int) -> str:
    """The sentence with which a request is refused."""
    status, body, _ = ask(base, path)
    assert status in statuses, (path, status, body[:300])
    sentence = json.loads(body)["error"]
    assert isinstance(sentence, str)
    assert "unexpected" not in sentence
    assert len(sentence) < 1000
    return sentence


@pytest.mark.parametrize(
    "path",
    [
        "/static/../view.py", "/static/..%2fview.py", "/static/%2e%2e/view.py", "/static/%2e%2e%2fview.py",
        "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/....//view.py", "/static/..%5cview.py",
        "/static/", "/static/views/", "/static/app.js%00", "/../../etc/passwd", "//etc/passwd", "/etc/passwd",
        "/api/runs/..", "/api/runs/%2e%2e", "/api/runs/..~..~etc", "/api/runs/~etc", "/api/runs/%2fetc%2fpasswd",
        "/api/runs/ppo-a%00", "/api/runs/ppo-a%0d%0aX:1", "/api/runs/" + "a" * 5000, "/api/runs/ppo-a~record",
        f"{ITERATION}/../4", f"{ITERATION}%2f..%2f4", "/api/runs/ppo-a/evaluation/..", "/api/runs/ppo-a/prompts/..%2f1",
        "/docs", "/openapi.json", "/redoc",
    ],
)  # fmt: skip
def test_no_path_leads_anywhere_else(view: str, path: str) -> None:
    status, body, headers = ask(view, path)
    if status == 307:  # a slash too many; what is there then is asked for like anything else
        assert headers["location"].startswith(view + "/api/")
        status, body, _ = ask(view, headers["location"].removeprefix(view))
    assert status == 404, (path, body[:200])
    assert "error" in json.loads(body)
    assert b"root:" not in body


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/api/runs/ppo-a/iterations/-1", (404,)),
        ("/api/runs/ppo-a/iterations/0", (404,)),
        ("/api/runs/ppo-a/iterations/1e3", (404,)),
        ("/api/runs/ppo-a/iterations/%D9%A3", (404,)),  # an Arabic 3
        ("/api/runs/ppo-a/iterations/%C2%B3", (404,)),  # a superscript 3
        ("/api/runs/ppo-a/iterations/" + "9" * 5000, (404,)),
        ("/api/runs/sft/iterations/1", (404,)),
        (f"{ITERATION}?limit=-1", (422,)),
        (f"{ITERATION}?limit=501", (422,)),
        (f"{ITERATION}?limit=1e2", (422,)),
        (f"{ITERATION}?offset={'9' * 30}", (422,)),
        (f"{ITERATION}?sort=tokens", (422,)),
        (f"{ITERATION}?sort=parts", (422,)),
        (f"{ITERATION}?sort=parts.nobody", (422,)),
        (f"{ITERATION}?order=up", (422,)),
        (f"{ITERATION}?min_score=nan", (422,)),
        (f"{ITERATION}?min_score=x", (422,)),
        (f"{ITERATION}?learned=maybe", (422,)),
        (f"{ITERATION}/answers/32", (404,)),
        (f"{ITERATION}/answers/-1", (404,)),
        (f"{ITERATION}/answers/0x1", (404,)),
        (f"{ITERATION}/answers/0/tokens/24", (404,)),
        (f"{ITERATION}/answers/0/tokens/-1", (404,)),
        ("/api/runs/ppo-a/prompts/zzz", (404,)),
        ("/api/runs/ppo-a/prompts?limit=9999", (422,)),
        ("/api/runs/ppo-a/evaluation/1", (404,)),
        ("/api/runs/ppo-a/reward_report", (404,)),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(view: str, path: str, statuses: tuple[int, ...]) -> None:
    assert refused(view, path, *statuses)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "offset=999999999", "q=%00", "q=%ff%fe", "q=.*", "q=" + "a" * 20_000, "min_score=inf", "max_kl=-inf",
     "min_length=1e30", "max_length=1.5", "min_reward=1&max_reward=0", "finish=nobody", "q=a&q=b", "unknown=1",
     "prompt_id=zzz"],
)  # fmt: skip
def test_odd_questions_have_an_answer(view: str, query: str) -> None:
    status, body, _ = ask(view, f"{ITERATION}?{query}")
    assert status == 200
    answer = json.loads(body)
    assert answer["total"] == 32
    assert len(answer["rows"]) <= answer["matching"] <= 32


@pytest.mark.parametrize("cursor", ["zzz", "-", "%00", "9" * 6000, "-1"])
def test_a_cursor_of_nobody_gives_everything(view: str, cursor: str) -> None:
    status, body, _ = ask(view, f"/api/runs/ppo-a/metrics?cursor={cursor}")
    answer = json.loads(body)
    assert (status, answer["reset"], answer["columns"]["step"]) == (200, True, list(range(13)))
    own = answer["cursor"].rpartition("-")[0]
    status, body, _ = ask(view, f"/api/runs/ppo-a/metrics?cursor={own}-{'9' * 5000}")
    assert (status, json.loads(body)["reset"]) == (200, True)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(view: str, method: str) -> None:
    assert ask(view, "/api/runs", method)[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "169.254.169.254", "[::2]", "", None]
)
def test_other_names_of_this_server_are_refused(view: str, host: str | None) -> None:
    status, body, _ = ask(view, "/api/runs", Host=host)
    assert status == 400
    assert b"ppo-a" not in body


def test_every_answer_has_its_headers(view: str) -> None:
    for path in ("/", "/api/runs", "/static/app.js", "/static/plotly.min.js", "/nothing"):
        _, _, headers = ask(view, path)
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert "unsafe-eval" not in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_spoilt_files_are_told_and_lead_nowhere(strange_view: str, strange: Path) -> None:
    answered: list[tuple[str, int]] = []

    def read(path: str) -> Any:
        status, body, _ = ask(strange_view, path)
        assert SECRET.encode() not in body, path
        assert b"NaN" not in body.replace(b'"NaN', b""), path
        answered.append((path, status))
        return json.loads(body)

    listed = {run["name"]: run for run in read("/api/runs")["runs"]}
    assert set(listed) == {path.name for path in strange.iterdir() if not path.is_symlink()}
    assert listed["links"]["recorded"] == 4
    for run in listed.values():
        base = f"/api/runs/{quote(run['id'], safe='')}"
        about = read(base)
        assert {"error"} != set(about), about
        for part in ("metrics", "reward_report", "prompts?limit=500"):
            read(f"{base}/{part}")
        for prompt in read(f"{base}/prompts?limit=500")["prompts"][:8]:
            read(f"{base}/prompts/{prompt['prompt_id']}")
        for step in about["evaluated_steps"]:
            read(f"{base}/evaluation/{step}")
        for step in about["recorded_steps"]:
            read(f"{base}/iterations/{step}?sort=score&q=a&min_length=1")
            for row in (0, 4, 31):
                read(f"{base}/iterations/{step}/answers/{row}")
                for token in (0, 5):
                    read(f"{base}/iterations/{step}/answers/{row}/tokens/{token}")
    wrong = [(path, status) for path, status in answered if status not in (200, 404, 422)]
    assert not wrong
    assert sum(status == 422 for _, status in answered) > 50
    metrics = read("/api/runs/rows/metrics")["columns"]
    assert metrics["step"][-1] == 5
    assert metrics["objective/scores"][-1] == 0.7
