"""Whole pipelines on a tiny model through the command line, and comparisons made from its answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import clearppo as library
from clearppo.errors import RewardError, RunDirError
from tests.judge_server import judge_server
from tests.tiny import SENTENCES

Options = dict[str, Any]
SUBJECTS = ("film", "plot", "food", "music", "dog", "ending")
STEPS = ("sft", "reward", "ppo")
LABELLER = """
def marks(prompts, completions, **columns):
    return [text.count("e") + len(text) / 100 for text in completions]
"""


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(directory: Path, kind: Any = AutoModelForCausalLM) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in kind.from_pretrained(directory).state_dict().items()}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def times(out: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


@pytest.fixture
def three(tmp_path: Path, model: str) -> Options:
    """A model and three files, and as little work as there can be."""
    files = {
        "demonstrations": [{"prompt": f"The {word} was", "completion": " good."} for word in SUBJECTS],
        "comparisons": [
            {"prompt": f"The {SUBJECTS[i % 6]} {i} was", "chosen": " good", "rejected": " dull"} for i in range(12)
        ],
        "prompts": [{"prompt": text[:12], "tag": number} for number, text in enumerate(SENTENCES)],
    }
    (tmp_path / "label.py").write_text(LABELLER)
    return {
        "model_name_or_path": model, "device": "cpu", "output_dir": str(tmp_path / "out"),
        **{name: lines(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()},
        "sft.batch_size": 4, "sft.learning_rate": 1e-2, "sft.eval_fraction": 0.25, "reward.batch_size": 4,
        "reward.learning_rate": 1e-2, "reward.eval_fraction": 0.25, "ppo.batch_size": 4, "ppo.total_episodes": 8,
        "ppo.response_length": 6, "ppo.learning_rate": 1e-3, "sft.bf16": "false", "reward.bf16": "false",
        "ppo.bf16": "false",
    }  # fmt: skip


def without(options: Options, *starts: str) -> Options:
    return {name: value for name, value in options.items() if not name.startswith(starts)}


def test_from_three_files_and_a_model_to_a_model(three, clearppo, tmp_path: Path) -> None:
    code, said, err = clearppo("rlhf", three)
    assert (code, err) == (0, "")
    out = tmp_path / "out"
    assert f"The model is in {out / 'ppo'}" in said
    assert [line.split()[0] for line in said.splitlines()[-3:]] == list(STEPS)
    start = weights(Path(three["model_name_or_path"]))
    assert distance(weights(out / "sft"), start) > 1e-4
    assert 1e-5 < distance(weights(out / "ppo"), weights(out / "sft")) < distance(weights(out / "ppo"), start)
    judge = AutoModelForSequenceClassification.from_pretrained(out / "reward")
    assert judge.config.num_labels == 1
    assert (out / "reward" / "judgement.json").exists()
    report = json.loads((out / "reward" / "reward_report.json").read_text())
    accuracy = report["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert report["verdict"]["level"] in ("good", "usable", "not good enough", "cannot tell")
    for step in STEPS:
        assert AutoTokenizer.from_pretrained(out / step).eos_token == "<eos>"
        assert all(torch.tensor(list(row.values())).isfinite().all() for row in read(out / step / "metrics.jsonl"))
    assert not list(out.rglob(".*"))


def test_the_second_call_makes_nothing_and_another_setting_is_refused(three, clearppo, tmp_path: Path) -> None:
    assert clearppo("rlhf", three)[0] == 0
    before = times(tmp_path / "out")
    code, said, err = clearppo("rlhf", three)
    assert (code, err) == (0, "")
    assert [line for line in said.splitlines() if ": kept" in line] == [
        f"step {step}: kept, the same settings made {tmp_path / 'out' / step}" for step in STEPS
    ]
    code, _, err = clearppo("rlhf", {**three, "reward.learning_rate": 2e-2})
    assert code == 2
    assert f"{tmp_path / 'out' / 'reward'} was made with learning_rate = 0.01, and now it is 0.02" in err
    lines(tmp_path / "prompts.jsonl", [{"prompt": "Another"}])
    code, _, err = clearppo("rlhf", three)
    assert code == 2
    assert "step ppo" in err
    assert "content of dataset_name" in err
    assert times(tmp_path / "out") == before
    code, said, _ = clearppo("rlhf", {**three, "overwrite_output_dir": "true"})
    assert code == 0
    assert said.count(": kept") == 2
    after = times(tmp_path / "out")
    assert {name for name in before if before[name] == after.get(name)} >= {
        name for name in before if "/sft/" in name or "/reward/" in name
    }


@pytest.mark.parametrize("step", STEPS)
def test_a_step_alone_makes_what_the_pipeline_made(step: str, three, clearppo, tmp_path: Path) -> None:
    assert clearppo("rlhf", three)[0] == 0
    made = tmp_path / "out" / step
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["run"] |= {"output_dir": str(tmp_path / "alone"), "overwrite_output_dir": False}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(config))
    code, _, err = clearppo(step, {"config": tmp_path / "alone.yaml"})
    assert (code, err) == (0, "")
    kind = AutoModelForSequenceClassification if step == "reward" else AutoModelForCausalLM
    assert distance(weights(tmp_path / "alone", kind), weights(made, kind)) == 0


def test_comparisons_made_on_the_way(three, clearppo, tmp_path: Path) -> None:
    options = {
        **without(three, "comparisons"), "labeller": f"{tmp_path / 'label.py'}:marks", "prefs.response_length": 6,
        "prefs.num_completions": 3, "ppo.critic": "separate",
    }  # fmt: skip
    code, said, err = clearppo("rlhf", options)
    assert (code, err) == (0, "")
    out = tmp_path / "out"
    rows = read(out / "comparisons.jsonl")
    assert 1 <= len(rows) <= len(SENTENCES)
    assert all(2 <= len(row["completions"]) <= 3 and row["tag"] in range(4) for row in rows)
    config = yaml.safe_load((out / "ppo" / "config.yaml").read_text())
    assert config["model"]["value_model_path"] == config["reward"]["reward_model_path"] == str(out / "reward")
    assert AutoModelForSequenceClassification.from_pretrained(out / "ppo" / "value_model").config.num_labels == 1
    assert clearppo("rlhf", options)[1].count(": kept") == 4
    assert said.count(": kept") == 0


@pytest.mark.parametrize("source", ["reward_model_path", "ppo.reward_funcs"])
def test_steps_whose_result_is_given_are_left_out(
    source: str, three, clearppo, tmp_path: Path, reward_model: str
) -> None:
    given = {"reward_model_path": reward_model, "ppo.reward_funcs": f"{tmp_path / 'label.py'}:marks"}[source]
    options = {**without(three, "comparisons", "demonstrations", "sft.", "reward."), source: given}
    code, _, err = clearppo("rlhf", options)
    assert (code, err) == (0, "")
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["pipeline.json", "ppo"]


@pytest.mark.parametrize("recipe", ["default", "deepspeed-chat", "instructgpt"])
def test_a_recipe_and_three_files(recipe: str, three, clearppo, tmp_path: Path) -> None:
    options = {**three, "recipe": recipe, "ppo.batch_size": 8, "ppo.warmup_steps": 1, "ppo.max_prompt_length": 32}
    if recipe == "instructgpt":
        options["ppo.ptx_dataset_name"] = lines(tmp_path / "texts.jsonl", [{"text": text} for text in SENTENCES])
    code, _, err = clearppo("rlhf", options)
    assert (code, err) == (0, "")
    out = tmp_path / "out"
    config = yaml.safe_load((out / "ppo" / "config.yaml").read_text())
    assert config["reward"]["reward_model_path"] == str(out / "reward")
    assert AutoModelForCausalLM.from_pretrained(out / "ppo")
    assert (out / "ppo" / "ema_model").exists() == (config["run"].get("ema_decay") is not None)


def test_a_step_that_fails_is_made_again_and_those_before_are_kept(three, tmp_path: Path) -> None:
    calls = []

    def marks(completions, **_):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("the labeller went home")
        return [text.count("e") + len(text) / 100 for text in completions]

    steps: dict[str, Options] = {"prefs": {"response_length": 6, "generation_batch_size": 4, "num_completions": 4}}
    for name, value in three.items():
        step, _, option = name.rpartition(".")
        if step:
            steps.setdefault(step, {})[option] = value
    options = {name: value for name, value in without(three, "comparisons").items() if "." not in name}
    with pytest.raises(RewardError, match=r"step prefs: labeller `marks` raised ValueError: the labeller went home"):
        library.rlhf(**options, labeller=marks, steps=steps)
    out = tmp_path / "out"
    assert (out / "comparisons.interrupted.jsonl").exists()
    assert not (out / "comparisons.jsonl").exists()
    results = library.rlhf(**options, labeller=marks, steps=steps)
    assert [(r.step, r.kept) for r in results] == [("sft", True), ("prefs", False), ("reward", False), ("ppo", False)]
    assert not (out / "comparisons.interrupted.jsonl").exists()


def test_a_failed_start_forgets_nothing_that_was_made(three, tmp_path: Path) -> None:
    options = {name: value for name, value in three.items() if "." not in name}
    steps = {step: {n.partition(".")[2]: v for n, v in three.items() if n.startswith(f"{step}.")} for step in STEPS}
    library.rlhf(**options, steps=steps)
    before = times(tmp_path / "out")
    wrong = {**steps, "reward": {**steps["reward"], "max_length": 3}}
    with pytest.raises(Exception, match=r"step reward: all .* Use a larger --reward\.max_length"):
        library.rlhf(**options, steps=wrong, overwrite_output_dir=True)
    after = times(tmp_path / "out")
    assert {n: t for n, t in after.items() if "pipeline" not in n} == {
        n: t for n, t in before.items() if "pipeline" not in n
    }
    assert [result.kept for result in library.rlhf(**options, steps=steps)] == [True, True, True]
    shutil.rmtree(tmp_path / "out" / "sft")
    with pytest.raises(RunDirError, match="was made with learning_rate"):
        library.rlhf(**options, steps={**steps, "ppo": {**steps["ppo"], "learning_rate": 1e-5}})


@pytest.fixture
def prefs(three, tmp_path: Path) -> Options:
    return {
        "model_name_or_path": three["model_name_or_path"], "dataset_name": three["prompts"], "device": "cpu",
        "bf16": "false", "response_length": 6, "num_completions": 3, "generation_batch_size": 6,
        "output_file": str(tmp_path / "made" / "pairs.jsonl"),
    }  # fmt: skip


@pytest.mark.parametrize("source", ["labeller", "reward_model_path", "judge_url"])
def test_comparisons_that_a_reward_model_can_learn_from(
    source: str, prefs, three, clearppo, tmp_path: Path, reward_model: str
) -> None:
    with judge_server() as judge:
        given = {
            "labeller": f"{tmp_path / 'label.py'}:marks",
            "reward_model_path": reward_model,
            "judge_url": judge.url,
        }
        code, said, err = clearppo("prefs", {**prefs, source: given[source]})
    assert (code, err) == (0, "")
    assert f"the comparisons are in {prefs['output_file']}" in " ".join(said.split())
    file = Path(prefs["output_file"])
    rows = read(file)
    assert 1 <= len(rows) <= len(SENTENCES)
    for row in rows:
        assert row["prompt"] == SENTENCES[row["tag"]][:12]
        assert len(row["completions"]) == len(row["scores"]) == len(set(row["completions"]))
        assert row["pairs"]
        assert all(row["scores"][better] > row["scores"][worse] for better, worse in row["pairs"])
        if source == "labeller":
            assert row["scores"] == pytest.approx([t.count("e") + len(t) / 100 for t in row["completions"]])
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    options = {**prefs, "dataset_name": file, "output_dir": tmp_path / "rm", "eval_fraction": 0.25, "batch_size": 4}
    options = without(options, "response", "num", "generation", "output_file")
    code, _, err = clearppo("reward", options)
    assert (code, err) == (0, "")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").config.num_labels == 1


def test_the_same_seed_makes_the_same_comparisons(prefs, clearppo, tmp_path: Path) -> None:
    options = {**prefs, "labeller": f"{tmp_path / 'label.py'}:marks", "max_prompts": 3}
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        file = tmp_path / f"{name}.jsonl"
        assert clearppo("prefs", {**options, "output_file": file, "seed": seed})[0] == 0
        texts.append(file.read_text())
    assert texts[0] == texts[1] != texts[2]
    code, _, err = clearppo("prefs", {**options, "output_file": tmp_path / "a.jsonl"})
    assert code == 2
    assert "--overwrite_output_file" in err
    assert (tmp_path / "a.jsonl").read_text() == texts[0]
