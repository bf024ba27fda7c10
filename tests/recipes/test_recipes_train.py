"""Every part of every recipe trains a tiny model through the command line, with all that it offers switched on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from clearppo.cli import main
from clearppo.config import list_recipes, recipe_text
from tests.tiny import SENTENCES, tiny_causal_lm, tiny_reward_model

pytestmark = pytest.mark.e2e

NAMES = [name for name in list_recipes() if name != "quickstart"]
STEPS = {name: list(yaml.safe_load(recipe_text(name))) for name in NAMES}

# What a test must shorten, and the parts that a recipe offers without switching them on.
PPO_FLAGS: dict[str, dict[str, str]] = {
    "article": {},
    "lm-human-preferences": {"truncate_after": "3"},
    "summarize-from-feedback": {},
    "instructgpt": {"warmup_steps": "1", "ptx_dataset_name": "texts.jsonl"},
    "deepspeed-chat": {
        "warmup_steps": "1", "ptx_coef": "27.8", "ptx_reduction": "mean", "ptx_dataset_name": "texts.jsonl",
        "ema_decay": "0.992",
    },
    "ppo-max": {
        "warmup_steps": "1", "critic_warmup_steps": "1", "ptx_coef": "1", "ptx_dataset_name": "texts.jsonl",
    },
    "trl": {"missing_eos_penalty": "1", "whiten_rewards": "true"},
    "default": {"warmup_steps": "1", "critic_warmup_steps": "1"},
}  # fmt: skip

LABELS = """
def mood(prompts, completions, **columns):
    return [text.count("e") + len(text) / 100 + hash(text) % 7 / 1000 for text in completions]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tiny_causal_lm(tmp_path_factory.mktemp("policy")), tiny_reward_model(tmp_path_factory.mktemp("scores"))


@pytest.fixture
def clearppo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str, dict[str, Any]], str]:
    """A command in a directory with every kind of data; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    rows = {
        "prompts": [{"prompt": text[:14]} for text in SENTENCES],
        "texts": [{"text": text} for text in SENTENCES],
        "demonstrations": [{"prompt": text[:9], "completion": text[9:]} for text in SENTENCES * 3],
        "comparisons": [
            {
                "prompt": f"{first[:9]} {n}",
                "completions": [f" {word}" for word in ("good", "happy food", "bad", "dull plot here")],
                "scores": [3.0, 2.0 + n % 3, 1.0, 0.5],
            }
            for n, first in enumerate(SENTENCES * 3)
        ],
    }
    rows["picks"] = [
        {"prompt": row["prompt"], "completions": row["completions"], "choice": n % 4}
        for n, row in enumerate(rows["comparisons"])
    ]
    for name, found in rows.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    Path("labels.py").write_text(LABELS)

    def run(command: str, options: dict[str, Any]) -> str:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([command, *words])
        out, err = capfd.readouterr()
        assert (caught.value.code or 0, err) == (0, "")
        return out

    return run


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert all(torch.tensor(value).isfinite() for value in row.values() if isinstance(value, int | float)), row
    return rows


def distance(one: str | Path, other: str | Path) -> float:
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (one, other)]
    pairs = zip(*(model.parameters() for model in models), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_every_recipe_is_trained_here() -> None:
    assert sorted(PPO_FLAGS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_ppo(name: str, models: tuple[str, str], clearppo: Callable[[str, dict[str, Any]], str]) -> None:
    policy, scores = models
    options = {
        "recipe": name, "model_name_or_path": policy, "reward_model_path": scores, "dataset_name": "prompts.jsonl",
        "output_dir": "run", "total_episodes": 48, "batch_size": 16, "micro_batch_size": 8, "response_length": 6,
        "max_prompt_length": 32, "learning_rate": 1e-3, "device": "cpu", "bf16": "false", **PPO_FLAGS[name],
    }  # fmt: skip
    separate = yaml.safe_load(recipe_text(name))["ppo"]["model"]["critic"] == "separate"
    if separate:
        options["value_model_path"] = scores
    out = clearppo("ppo", options)
    assert "iteration 3/3" in out

    run = Path("run")
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert distance(run, policy) > 1e-5
    assert AutoModelForSequenceClassification.from_pretrained(run / "value_model").config.num_labels == 1
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    averaged = resolved["run"].get("ema_decay") is not None
    assert (run / "ema_model").exists() == averaged
    if averaged:
        assert 0 < distance(run / "ema_model", policy) < distance(run, policy)
    assert ("loss/ptx_avg" in rows[-1]) == ("ptx_dataset_name" in PPO_FLAGS[name])


@pytest.mark.parametrize("name", [name for name in NAMES if "sft" in STEPS[name]])
def test_sft(name: str, models: tuple[str, str], clearppo: Callable[[str, dict[str, Any]], str]) -> None:
    policy, _ = models
    options = {
        "recipe": name, "model_name_or_path": policy, "dataset_name": "demonstrations.jsonl", "output_dir": "run",
        "batch_size": 4, "device": "cpu", "bf16": "false",
    }  # fmt: skip
    clearppo("sft", options)
    metrics(Path("run"))
    assert distance("run", policy) > 1e-7


@pytest.mark.parametrize("name", [name for name in NAMES if "reward" in STEPS[name]])
def test_reward(name: str, models: tuple[str, str], clearppo: Callable[[str, dict[str, Any]], str]) -> None:
    recipe = yaml.safe_load(recipe_text(name))["reward"]
    picked = recipe["rm"]["rm_loss"] == "best-of-n"
    options = {
        "recipe": name, "model_name_or_path": models[0], "output_dir": "run", "batch_size": 4, "micro_batch_size": 8,
        "dataset_name": "picks.jsonl" if picked else "comparisons.jsonl", "device": "cpu", "bf16": "false",
        "eval_fraction": 0.25,
    }  # fmt: skip
    if recipe["rm"]["score_normalisation"] == "mean":
        options["reference_dataset_name"] = "demonstrations.jsonl"
    if "max_steps" in recipe["run" if "run" in recipe else "rm"]:
        options["max_steps"] = 3
    clearppo("reward", options)
    run = Path("run")
    metrics(run)
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert model.config.num_labels == 1
    assert json.loads((run / "reward_report.json").read_text())
    assert (run / "judgement.json").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if "prefs" in STEPS[name]])
def test_prefs(name: str, models: tuple[str, str], clearppo: Callable[[str, dict[str, Any]], str]) -> None:
    options = {
        "recipe": name, "model_name_or_path": models[0], "dataset_name": "prompts.jsonl", "labeller": "labels.py:mood",
        "output_file": "made.jsonl", "response_length": 6, "device": "cpu",
    }  # fmt: skip
    clearppo("prefs", options)
    rows = [json.loads(line) for line in Path("made.jsonl").read_text().splitlines()]
    assert len(rows) == len(SENTENCES)
    sections = yaml.safe_load(recipe_text(name))["prefs"].values()
    (n,) = [section["num_completions"] for section in sections if "num_completions" in section]
    assert {len(row["completions"]) for row in rows} == {n}
