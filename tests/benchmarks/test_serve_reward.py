"""The benchmark of the reward server counts what was answered."""

import json
from pathlib import Path

import pytest

from benchmarks import serve_reward
from tests.judge_server import judge_server
from tests.tiny import tiny_reward_model


def test_every_request_is_sent_once_whoever_sends_it() -> None:
    bodies = serve_reward.requests(7, rows=3, words=5)
    with judge_server() as server:
        cell = serve_reward.load(server.url, bodies, clients=3)
    assert sorted(json.dumps(request) for request in server.requests) == sorted(body.decode() for body in bodies)
    assert cell["answers_per_second"] == pytest.approx(3 * cell["requests_per_second"])
    assert 0 < cell["median_ms"] <= cell["p95_ms"]


def test_it_measures_a_real_server(tmp_path: Path) -> None:
    model = tiny_reward_model(tmp_path / "rm")
    words = ["--requests", "4", "--clients", "1,2", "--rows", "2", "--words", "3", "--device", "cpu"]
    result = serve_reward.measure(serve_reward.arguments().parse_args(words), model)
    assert set(result["results"]) == {"1", "2"}
    assert result["alone"] > 0
    shown = serve_reward.shown(result)
    assert "4 requests of 2 answers of 3 words" in shown
    assert "no server" in shown
