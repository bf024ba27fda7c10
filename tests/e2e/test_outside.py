"""Scores from outside in whole runs: a server, its faults, rows without a score, a function in another process."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, load_config
from clearppo.train.listener import Silence
from tests.judge_server import Judge, Reply, judge_server
from tests.judge_server import fair as judge_answer

CLOCK = ("time/", "eps", "tokens_per_second")


def results(run: str | Path) -> dict[str, Any]:
    """Everything a run computed: weights byte by byte, metrics but for those of the clock, answers."""
    run = Path(run)
    found: dict[str, Any] = {
        str(file.relative_to(run)): file.read_bytes()
        for file in run.rglob("*.safetensors")
        if "checkpoint-" not in str(file)
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in rows]
    found["samples"] = (run / "samples.jsonl").read_text()
    return found


@pytest.fixture
def served(files: dict[str, Any]) -> dict[str, Any]:
    """Options of the small run, without its reward function; in two requests a batch."""
    return {
        **{name: value for name, value in files.items() if name != "reward_funcs"},
        "reward_batch_size": "4", "reward_concurrency": "2",
    }  # fmt: skip


def test_a_server_and_a_function_that_agree_make_the_same_run(files, served, clearppo, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(
        "def server(completions, **_):\n    return [len(text.split()) + len(text) / 7 for text in completions]\n"
    )
    own = {**files, "reward_funcs": f"{tmp_path / 'words.py'}:server", "output_dir": str(tmp_path / "own")}
    code, out, err = clearppo("ppo", own)
    assert (code, err) == (0, "")
    with judge_server() as server:
        code, out, err = clearppo("ppo", {**served, "reward_urls": server.url})
    assert (code, err) == (0, "")
    assert f"score = server({urlsplit(server.url).netloc})" in out
    assert [len(request["prompts"]) for request in server.requests] == [4] * 6
    assert set(server.requests[0]) == {"prompts", "completions", "tag"}
    assert results(served["output_dir"]) == results(tmp_path / "own")
    worker = {**own, "reward_worker": "true", "reward_timeout": "60", "output_dir": str(tmp_path / "worker")}
    code, out, err = clearppo("ppo", worker)
    assert (code, err) == (0, "")
    assert results(tmp_path / "worker") == results(tmp_path / "own")


class Repairer(Silence):
    """Whoever starts the server again when the run says that it has gone."""

    def __init__(self, up_again: Any) -> None:
        self.up_again = up_again
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
        if "asking again" in text:
            self.up_again()


def test_a_server_that_is_gone_for_a_while_changes_nothing(served, tmp_path: Path) -> None:
    """It dies in the middle of the second iteration, with one of two requests answered; it comes back on its port."""

    def train(name: str, url: str, listener: Silence) -> None:
        flags = {**served, "reward_urls": url, "reward_concurrency": "1", "output_dir": str(tmp_path / name)}
        build_ppo(load_config(PPOConfig, flags=flags), listener=listener).train()

    with judge_server() as steady:
        train("steady", steady.url, Silence())
    port = urlsplit(steady.url).port

    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        again: list[Judge] = []

        def failing(request: dict[str, Any]) -> Any:
            return Reply(hangs_up=True) if len(server.requests) > 3 else judge_answer(request)

        def up_again() -> None:
            first.close()
            again.append(second.enter_context(judge_server(port=port)))

        server = first.enter_context(judge_server(failing, port=port))
        repairer = Repairer(up_again)
        train("faulty", server.url, repairer)
    assert len(server.requests) == 4
    assert len(again) == 1
    assert sum(len(request["prompts"]) for request in again[0].requests) == 12
    assert [note for note in repairer.notes if "answers again" in note]
    assert results(tmp_path / "faulty") == results(tmp_path / "steady")


def test_when_patience_ends_the_run_says_why_and_can_go_on(served, clearppo, tmp_path: Path) -> None:
    """It ends in the second iteration, and what goes on from there is the run that never ended."""
    whole, broken = ({**served, "output_dir": str(tmp_path / name), "save_steps": "1"} for name in ("whole", "broken"))
    with judge_server() as server:
        assert clearppo("ppo", {**whole, "reward_urls": server.url})[0] == 0
    broken |= {"reward_urls": server.url, "resume_from_checkpoint": "auto", "reward_patience": "0"}
    port = urlsplit(server.url).port or 0
    with judge_server(lambda _: Reply(b"", 503) if len(server.requests) > 2 else judge_answer(_), port) as server:
        code, _, err = clearppo("ppo", broken)
    assert code == 2
    assert f"the reward server at {server.url} answered HTTP 503 (Service Unavailable) (asked once" in err
    with judge_server(port=port):
        code, _, err = clearppo("ppo", {**broken, "reward_patience": "60"})
    assert (code, err) == (0, "")
    assert results(tmp_path / "broken") == results(tmp_path / "whole")


def test_a_reward_model_is_served_to_a_run(served, clearppo, reward_model: str, tmp_path: Path) -> None:
    """As people do it: a server in a process of its own, and a run that asks it."""
    options = ("--port", "0", "--bf16", "false", "--gather", "false")  # of two requests at a time either may be first
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "clearppo.cli", "serve-reward", reward_model, *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split(" at ")[1].split()[0]
        code, _, err = clearppo("ppo", {**served, "reward_urls": url})
        assert (code, err) == (0, "")
        theirs = {**served, "reward_urls": url.replace("/score", "/get_reward"), "reward_url_format": "openrlhf"}
        code, _, err = clearppo("ppo", {**theirs, "output_dir": str(tmp_path / "theirs")})
        assert (code, err) == (0, "")
        assert results(tmp_path / "theirs") == results(served["output_dir"])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    direct = {**served, "reward_model_path": reward_model, "output_dir": str(tmp_path / "direct")}
    direct = {name: value for name, value in direct.items() if not name.startswith("reward_") or "path" in name}
    assert clearppo("ppo", direct)[0] == 0
    ours, there = (
        results(run)["metrics"][0]["objective/scores"] for run in (tmp_path / "direct", served["output_dir"])
    )
    assert there == pytest.approx(ours, abs=1e-4)


def nothing_for_some(request: dict[str, Any]) -> Any:
    return {"scores": [None if row["tag"] == 2 else len(row["text"]) for row in rows_of(request)]}


def rows_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"tag": tag, "text": text} for tag, text in zip(request["tag"], request["completions"], strict=True)]


def test_an_answer_without_a_score_stops_the_run_or_is_left_out(served, clearppo) -> None:
    with judge_server(nothing_for_some) as server:
        options = {**served, "reward_urls": server.url}
        code, _, err = clearppo("ppo", options)
        assert code == 2
        assert "gave no score (null) for row" in err
        assert "--reward_missing drop" in err
        more = {
            "reward_missing": "drop",
            "num_mini_batches": "4",
            "score_scaling": "running",
            "missing_eos_score": "-1",
            "whiten_rewards": "true",
            "kl_controller": "adaptive",
            "sample_steps": "1",
            "overwrite_output_dir": "true",
        }
        code, _, err = clearppo("ppo", {**options, **more})
        assert (code, err) == (0, "")
    run = Path(served["output_dir"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    without = [sum(s["score"] is None for s in samples if s["step"] == row["step"]) for row in rows]
    assert sum(without) > 0
    assert [row.get("rewards/dropped", 0) for row in rows] == without
    assert "NaN" not in (run / "samples.jsonl").read_text() + (run / "metrics.jsonl").read_text()


def test_groups_go_as_a_whole(served, clearppo) -> None:
    with judge_server(nothing_for_some) as server:
        more = {
            "reward_urls": server.url,
            "reward_missing": "drop",
            "advantage_estimator": "rloo",
            "num_generations": "2",
        }
        code, _, err = clearppo("ppo", {**served, **more})
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (Path(served["output_dir"]) / "metrics.jsonl").read_text().splitlines()]
    assert {row.get("rewards/dropped", 0) % 2 for row in rows} == {0}
    assert any("rewards/dropped" in row for row in rows)


def test_nothing_scored_at_all_is_an_error_even_then(served, clearppo) -> None:
    with judge_server(lambda request: {"scores": [None] * len(request["prompts"])}) as server:
        code, _, err = clearppo("ppo", {**served, "reward_urls": server.url, "reward_missing": "drop"})
    assert code == 2
    assert "not one of the 8 answers has a score" in err
