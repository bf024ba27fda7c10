"""Whole runs through the command line and through Python, on a tiny model."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import clearppo as library
from clearppo.errors import RewardError

LAYOUTS = [
    {"critic": "shared"},
    {"critic": "separate"},
    {"critic": "shared", "use_peft": "true", "lora_r": "4"},
    {"critic": "separate", "use_peft": "true"},
    {"recipe": "article", "dtype": "float64"},
    {"dtype": "bfloat16"},
    {"bf16": "true", "critic": "separate"},
    {"kl_estimator": "full", "top_k": "20", "top_p": "0.9", "generation_batch_size": "3",
     "gradient_checkpointing": "true"},
    {"kl_controller": "adaptive", "kl_target": "1", "missing_eos_penalty": "1", "whiten_rewards": "true"},
    {"num_mini_batches": "2", "early_stop_kl": "0.05", "entropy_coef": "0.01", "cliprange_high": "0.3",
     "dual_clip": "3"},
    {"freeze_layers": "1"},
    {"freeze_layers": "1", "critic": "separate", "use_peft": "true", "gradient_checkpointing": "true"},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: ",".join(f"{k}={v}" for k, v in layout.items()))
def test_a_run_leaves_what_others_can_load(files, clearppo, layout) -> None:
    options = {**files, **layout}
    if "dtype" in layout:
        options.pop("bf16")
    code, out, err = clearppo("ppo", options)
    assert (code, err) == (0, "")
    run = Path(files["output_dir"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert "objective  maximise" in out
    assert "self-check passed" in out
    assert "iteration 3/3" in out
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    start = AutoModelForCausalLM.from_pretrained(files["model_name_or_path"], dtype=model.dtype)
    moved = max(
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )
    assert moved > 1e-4
    text = model.generate(**tokenizer("The film", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert text.shape[1] > 2
    critic = AutoModelForSequenceClassification.from_pretrained(run / "value_model")
    assert critic.config.num_labels == 1
    assert float(critic.score.weight.detach().abs().max()) > 0
    assert (run / "adapter").exists() == ("use_peft" in layout)
    assert "objective" in (run / "samples.jsonl").read_text() or json.loads((run / "samples.jsonl").open().readline())
    card = (run / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert not list(run.glob(".*"))


def test_a_runs_own_config_makes_the_same_run_again(files, clearppo, tmp_path: Path) -> None:
    assert clearppo("ppo", files)[0] == 0
    config = yaml.safe_load((Path(files["output_dir"]) / "config.yaml").read_text())
    config["run"]["output_dir"] = str(tmp_path / "again")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    assert clearppo("ppo", {"config": tmp_path / "again.yaml"})[0] == 0
    rows = [
        [{k: v for k, v in json.loads(line).items() if "time" not in k and k not in ("eps", "tokens_per_second")}
         for line in (Path(where) / "metrics.jsonl").read_text().splitlines()]
        for where in (files["output_dir"], tmp_path / "again")
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_several_rewards_and_a_reward_model_with_its_critic(files, clearppo, reward_model: str) -> None:
    options = {
        **files, "reward_model_path": reward_model, "reward_weights": "0.5,2", "critic": "separate",
        "value_model_path": reward_model,
    }  # fmt: skip
    code, _, err = clearppo("ppo", options)
    assert (code, err) == (0, "")
    row = json.loads((Path(files["output_dir"]) / "metrics.jsonl").read_text().splitlines()[0])
    parts = [name for name in row if name.startswith("rewards/") and name.endswith("/mean")]
    assert len(parts) == 2
    weights = [0.5 if "score" in name else 2.0 for name in parts]
    assert row["objective/scores"] == pytest.approx(
        sum(w * row[n] for w, n in zip(weights, parts, strict=True)), rel=1e-4
    )


def test_in_python_with_a_function_of_ones_own(files) -> None:
    seen = []

    async def reward(prompts, completions, completion_ids, tag):
        seen.append((len(prompts), len(completion_ids), sorted(set(tag))))
        return [float(len(text)) for text in completions]

    result = library.ppo(**{**files, "reward_funcs": [reward], "total_episodes": 16})
    assert len(result.history) == 2
    assert seen[0][:2] == (8, 8)
    assert (result.output_dir / "model.safetensors").exists()
    assert result.policy.device.type == "cpu"


def test_conversations_reach_the_reward_function_as_messages(files, tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "The film was"}]}
    (tmp_path / "chat.jsonl").write_text((json.dumps(row) + "\n") * 3)
    seen = []

    def reward(prompts, completions):
        seen.extend(completions)
        return [1.0] * len(prompts)

    library.ppo(
        **{**files, "dataset_name": str(tmp_path / "chat.jsonl"), "reward_funcs": [reward], "total_episodes": 8}
    )
    assert all(message["role"] == "assistant" for completion in seen for message in completion)


def test_it_learns(files) -> None:
    """Thirty iterations on a reward that a tiny model can earn: more of one token."""

    def reward(completions, **_):
        return [text.count("e") / max(len(text), 1) for text in completions]

    result = library.ppo(
        **{**files, "reward_funcs": [reward], "total_episodes": 32 * 30, "batch_size": 32, "micro_batch_size": 32,
           "learning_rate": 3e-3, "kl_coef": 0.0}
    )  # fmt: skip
    scores = [row["objective/scores"] for row in result.history]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.1


def test_a_run_that_ends_early_leaves_its_policy(files) -> None:
    calls = []

    def reward(completions, **_):
        calls.append(1)
        if len(calls) > 2:
            raise ValueError("the labeller went home")
        return [1.0 * len(text) for text in completions]

    with pytest.raises(RewardError, match="the labeller went home"):
        library.ppo(**{**files, "reward_funcs": [reward]})
    run = Path(files["output_dir"])
    assert AutoModelForCausalLM.from_pretrained(run / "checkpoint-2")
    assert not (run / "model.safetensors").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_chat_answers_what_is_piped_in(files, clearppo, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("The film\n/new\nWhat do you say\n"))
    code, out, err = clearppo("chat", {"max_new_tokens": 5, "device": "cpu"}, files["model_name_or_path"])
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 2
