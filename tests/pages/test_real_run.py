"""A run that a model really learned in, followed in the browser while it goes on, and looked through afterwards."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import clearppo
from clearppo.record.read import Iteration, iteration_path
from tests.pages import made
from tests.pages.conftest import Served
from tests.pages.looking import drawn, look, numbers, traces
from tests.tiny import tiny_causal_lm

N_STEPS = 3


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A run that waits for `turn` before it judges its last answers."""
    prompts = ["The film was", "I think that", "The food and the people are", "What do you say", "<b>It</b> is a"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    return {
        "model_name_or_path": tiny_causal_lm(tmp_path / "model"),
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "total_episodes": 8 * N_STEPS,
        "batch_size": 8,
        "response_length": 6,
        "learning_rate": 1e-2,
        "num_ppo_epochs": 2,
        "whiten_advantages": True,
        "eval_steps": 1,
        "eval_fraction": 0.4,
        "bf16": False,
        "device": "cpu",
    }


def test_a_run_is_followed_to_its_end(
    page: Page, tmp_path: Path, options: dict[str, Any], start: Callable[..., Served]
) -> None:
    runs, turn, calls = tmp_path / "runs", threading.Event(), list[int]()

    def letters(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        calls.append(len(prompts))
        if len([n for n in calls if n == 8]) == N_STEPS:
            turn.wait(60)
        return [completion.count("e") - 0.1 * len(completion) for completion in completions]

    made.make_sft(runs / "sft")
    url = start("view", runs, "--port", "0", "--no-open").url
    going_on = threading.Thread(
        target=clearppo.ppo, kwargs={**options, "reward_funcs": [letters], "output_dir": str(runs / "ppo")}
    )
    look(page, url, "runs")
    expect(page.locator("tr[data-run]")).to_have_count(1)
    going_on.start()
    try:
        expect(page.locator("tr[data-run=ppo] [data-name=state]")).to_have_text("running", timeout=40_000)
        expect(page.locator("tr[data-run=ppo] [data-name=step]")).to_contain_text(f"2 / {N_STEPS}", timeout=40_000)
        look(page, url, "overview", run="ppo")
        expect(page.locator("[data-name=step]")).to_contain_text("2 / 3")
    finally:
        turn.set()
        going_on.join(60)
    expect(page.locator("[data-name=step]")).to_contain_text("3 / 3")
    expect(page.locator(".dot.finished").first).to_be_visible()
    assert max(traces(page, "kl")[0]["x"]) == N_STEPS

    found = Iteration(iteration_path(runs / "ppo", N_STEPS))
    page.keyboard.press("3")
    drawn(page, "iteration")
    expect(page.locator("tbody tr[data-row]")).to_have_count(8)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    drawn(page, "answer")
    for row in range(2):
        answer = found.answer(row)
        expect(page.locator("h1")).to_contain_text(f"Answer {row}")
        assert numbers(page, "[data-token]") == pytest.approx(answer["advantages"], rel=1e-6)
        for token in range(answer["length"]):
            page.locator(f"[data-token='{token}']").click()
            panel = page.locator("#token-panel")
            expect(panel).to_have_attribute("data-panel-token", str(token))
            expect(panel.locator("[data-equation] .good").first).to_be_visible()
            assert panel.locator(".equation.differs, [data-name='made.rest']").count() == 0
        page.keyboard.press("j")
    page.keyboard.press("5")
    drawn(page, "compare")
    expect(page.locator("a[data-prompt]")).to_have_count(5)  # three to learn from, two held out
    expect(page.locator("li[data-source=training]")).not_to_have_count(0)
