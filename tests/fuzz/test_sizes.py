"""Sizes that surprise: one of a thing, very many, answers of one token or that end at once, texts of all kinds."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clearppo
from clearppo.batch import portions
from clearppo.data import encode_prompts, load_rows, prompt_batches, split_prompts
from tests.tiny import tiny_causal_lm, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ODD_TEXTS = (
    "The film was",
    "שלום עליכם, מה שלומך?",
    "مرحبا بالعالم",
    "你好，世界",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "e\u0301\u0301\u0301\u0301",
    "a\u0000b\u001b[2J\u202ec\ufeff",
    " \u00a0\u2028x",
    "x",
    "The dog is here and " * 8,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def options(tmp_path: Path, model: str) -> dict[str, Any]:
    return {
        "model_name_or_path": model,
        "dataset_name": str(written(tmp_path / "prompts.jsonl", [{"prompt": text} for text in ODD_TEXTS[:1]])),
        "reward_funcs": [lengths],
        "output_dir": str(tmp_path / "run"),
        "total_episodes": 16,
        "batch_size": 8,
        "response_length": 6,
        "bf16": False,
        "device": "cpu",
        "save_steps": 1,
    }


def lengths(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def written(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def finite(history: list[dict[str, float]]) -> bool:
    return all(value == value and abs(value) != float("inf") for row in history for value in row.values())


EVERY_TOKEN = list(range(len(TOKENIZER)))
ESTIMATORS: tuple[dict[str, Any], ...] = (
    {},
    {"critic": "separate"},
    {"num_ppo_epochs": 2, "num_mini_batches": 8},
    {"advantage_estimator": "rloo", "num_generations": 2},
    {"advantage_estimator": "grpo", "num_generations": 8},
    {"advantage_estimator": "reinforce++"},
    {"kl_estimator": "full", "missing_eos_penalty": 1.0},
)


@pytest.mark.parametrize("more", ESTIMATORS, ids=str)
@pytest.mark.parametrize(
    "short", [{"response_length": 1}, {"stop_token_ids": EVERY_TOKEN}], ids=["one", "ends at once"]
)
def test_answers_of_one_token_to_one_prompt(
    options: dict[str, Any], short: dict[str, Any], more: dict[str, Any]
) -> None:
    result = clearppo.ppo(**{**options, **short, **more})
    assert finite(result.history)
    assert {row["completions/mean_length"] for row in result.history} == {1.0}


def test_one_answer_in_all(options: dict[str, Any]) -> None:
    assert finite(clearppo.ppo(**{**options, "total_episodes": 1, "batch_size": 1}).history)


@pytest.mark.parametrize(
    "more", [{}, {"generation_batch_size": 3, "micro_batch_size": 1}, {"freeze_layers": 1}], ids=str
)
def test_prompts_of_all_kinds_and_lengths(options: dict[str, Any], tmp_path: Path, more: dict[str, Any]) -> None:
    written(tmp_path / "prompts.jsonl", [{"prompt": text} for text in ODD_TEXTS])
    held_out = written(tmp_path / "held_out.jsonl", [{"prompt": text} for text in ODD_TEXTS[1:7]])
    result = clearppo.ppo(**{
        **options, "sample_steps": 1, "batch_size": 12, "total_episodes": 24, "eval_steps": 1, "eval_num_prompts": 5,
        "eval_dataset_name": str(held_out), "eval_reward_funcs": [lengths], **more,
    })  # fmt: skip
    assert finite(result.history)
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    assert {row["prompt"] for row in samples} == set(ODD_TEXTS)
    assert len((tmp_path / "run" / "evaluation" / "step-2.jsonl").read_text().split("\n")) == 6


def test_one_held_out_prompt(options: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path / "prompts.jsonl", [{"prompt": text} for text in ODD_TEXTS[:2]])
    result = clearppo.ppo(**{**options, "eval_steps": 1, "eval_fraction": 0.1, "metric_for_best_model": "eval/score"})
    assert "eval/win_rate" in result.history[-1]


def test_one_demonstration_and_one_comparison(options: dict[str, Any], tmp_path: Path) -> None:
    alone = {"model_name_or_path": options["model_name_or_path"], "bf16": False, "device": "cpu", "eval_fraction": 0}
    demonstration = written(tmp_path / "d.jsonl", [{"prompt": "x", "completion": "👩‍👩‍👧"}])
    comparison = written(tmp_path / "c.jsonl", [{"prompt": "x", "chosen": "שלום", "rejected": "y"}])
    sft = clearppo.sft(dataset_name=str(demonstration), output_dir=str(tmp_path / "sft"), **alone)
    reward = clearppo.reward(dataset_name=str(comparison), output_dir=str(tmp_path / "rm"), **alone)
    assert finite(sft.history)
    assert finite(reward.history)


@pytest.mark.parametrize("n", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_prompts(tmp_path: Path, n: int) -> None:
    began = time.monotonic()
    with (tmp_path / "p.jsonl").open("w") as stream:
        stream.writelines(f'{{"prompt": "The film {number} was", "id": {number}}}\n' for number in range(n))
    rows = load_rows(str(tmp_path / "p.jsonl"))
    kept, held = split_prompts(rows, 0.05, 0)
    assert (len(rows), len(held), len(kept)) == (n, n // 20, n - n // 20)
    encoded = encode_prompts(kept, TOKENIZER, max_prompt_length=None, room=100, source="p.jsonl")
    batches = list(prompt_batches(encoded, 64, 50, 0, 0))
    seen = [number for batch in batches for number in batch.columns["id"]]
    assert len(set(seen)) == len(seen) == 3200
    assert time.monotonic() - began < 120  # linear: some seconds on an idle machine


@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.integers(0, 20), st.integers(0, 100_000)), max_size=60),
    st.one_of(st.none(), st.integers(1, 70)),
    st.one_of(st.none(), st.integers(1, 5000)),
)
def test_portions_hold_every_row_once(lengths: list[int], rows: int | None, tokens: int | None) -> None:
    groups = portions(lengths, max_rows=rows, max_tokens=tokens)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        assert rows is None or len(group) <= rows
        assert tokens is None or len(group) == 1 or len(group) * max(lengths[row] for row in group) <= tokens
