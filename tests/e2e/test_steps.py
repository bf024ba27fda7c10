"""Whole runs of `clearppo sft` and `clearppo reward` on tiny models: what they leave, and that they learn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from clearppo.build.steps import build_reward, build_sft
from clearppo.config import RewardModelConfig, SFTConfig, load_config
from clearppo.data.judgement import JudgementTemplate
from clearppo.errors import TrainingError
from clearppo.train.listener import Silence

Options = dict[str, Any]
SUBJECTS = ("film", "plot", "food", "music", "dog", "ending")


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def strings(n: int = 12) -> list[dict[str, Any]]:
    return [
        {"prompt": f"The {SUBJECTS[i % 6]} {i} was", "completion": f" {'good' if i % 2 else 'bad'}."} for i in range(n)
    ]


def messages(n: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"The {SUBJECTS[i % 6]} {i}?"},
                {"role": "assistant", "content": "It was good." if i % 2 else "It was bad."},
            ]
        }
        for i in range(n)
    ]


def pairs(n: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"The {SUBJECTS[i % 6]} {i} was",
            "chosen": f" good and {SUBJECTS[-i % 5]}",
            "rejected": " bad and dull",
        }
        for i in range(n)
    ]


def conversations(n: int = 24) -> list[dict[str, Any]]:
    def turn(i: int, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"The film {i}?"}, {"role": "assistant", "content": answer}]

    return [{"chosen": turn(i, "It was good."), "rejected": turn(i, "It was bad.")} for i in range(n)]


def ranked(n: int = 24) -> list[dict[str, Any]]:
    return [
        {"prompt": f"The film {i} was", "completions": [" bad", " good", " good good"], "scores": [0.0, 0.5, 1.0]}
        for i in range(n)
    ]


def dialogues(n: int = 24) -> list[dict[str, Any]]:
    """HH-RLHF's strings."""

    def said(i: int, answer: str) -> str:
        return f"\n\nHuman: The film {i}?\n\nAssistant: Which?\n\nHuman: That.\n\nAssistant: It was {answer}."

    return [{"chosen": said(i, "good"), "rejected": said(i, "bad")} for i in range(n)]


def picked(n: int = 24) -> list[dict[str, Any]]:
    """A best of several, as somebody chose it."""
    answers = [" good", " bad", " dull"]
    return [{"prompt": f"The film {i} was", "completions": answers, "choice": 0} for i in range(n)]


def wide(n: int = 24) -> list[dict[str, Any]]:
    return [{**row, "margin": 0.5 + i % 3} for i, row in enumerate(pairs(n))]


@pytest.fixture
def common(tmp_path: Path, model: str) -> Options:
    return {
        "model_name_or_path": model, "output_dir": str(tmp_path / "run"), "device": "cpu", "bf16": "false",
        "batch_size": "4", "micro_batch_size": "4", "eval_fraction": "0.25",
    }  # fmt: skip


@pytest.fixture
def sft(tmp_path: Path, common: Options) -> Options:
    return {**common, "dataset_name": lines(tmp_path / "d.jsonl", strings()), "learning_rate": "1e-2"}


@pytest.fixture
def reward(tmp_path: Path, common: Options) -> Options:
    return {**common, "dataset_name": lines(tmp_path / "c.jsonl", pairs()), "learning_rate": "1e-2"}


def records(options: Options) -> list[dict[str, float]]:
    file = Path(options["output_dir"]) / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("rows", [strings, messages])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"use_peft": "true", "lora_r": "4"},
        {"completion_only_loss": "false", "adam_style": "tf", "warmup_ratio": "0.3", "lr_scheduler_type": "cosine"},
        {"bf16": "true", "gradient_checkpointing": "true", "eval_fraction": "0", "eval_steps": "2"},
    ],
    ids=lambda layout: ",".join(layout) or "plain",
)
def test_sft_leaves_what_others_can_load(sft, clearppo, tmp_path: Path, layout: Options, rows: Callable) -> None:
    options = {**sft, **layout, "dataset_name": lines(tmp_path / "rows.jsonl", rows()), "num_train_epochs": "2"}
    code, out, err = clearppo("sft", options)
    assert (code, err) == (0, "")
    assert "objective  minimise E[-log p(token" in out
    run = Path(options["output_dir"])
    started = json.loads((run / "started.json").read_text(encoding="utf-8"))
    assert started["rounds"] == 6
    assert f"objective  {started['objective']}" in out
    found = records(options)
    held_out = layout.get("eval_fraction") != "0"
    assert len(found) == 6
    assert found[-1]["epoch"] == 2.0
    assert ("eval/loss" in found[-1]) == held_out
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in found)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    start = AutoModelForCausalLM.from_pretrained(options["model_name_or_path"])
    moved = max(
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )
    assert moved > 1e-3
    assert model.generate(**tokenizer("The film", return_tensors="pt"), max_new_tokens=2).shape[1] > 2
    assert (run / "adapter").exists() == ("use_peft" in layout)
    assert "fine-tuned on demonstrations" in (run / "README.md").read_text()
    assert not list(run.glob(".*"))


def test_sft_learns_a_memorisable_set_by_heart(sft) -> None:
    options = {**sft, "eval_fraction": "0", "num_train_epochs": "50", "batch_size": "6"}
    history = build_sft(load_config(SFTConfig, flags=options)).train()
    assert len(history) == 100
    assert history[0]["loss"] > 2
    assert history[-1]["loss"] < 0.05
    model = AutoModelForCausalLM.from_pretrained(options["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(options["output_dir"])
    for row in strings():
        asked = tokenizer(row["prompt"], return_tensors="pt")
        written = model.generate(**asked, max_new_tokens=10, do_sample=False)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == row["completion"]
        assert written[-1] == tokenizer.eos_token_id


def test_the_same_seed_gives_the_same_run_and_its_config_runs_again(sft, clearppo, tmp_path: Path) -> None:
    assert clearppo("sft", sft)[0] == 0
    config = yaml.safe_load((Path(sft["output_dir"]) / "config.yaml").read_text())
    config["run"]["output_dir"] = str(tmp_path / "again")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    assert clearppo("sft", {"config": tmp_path / "again.yaml"})[0] == 0
    first, second = (
        [{k: v for k, v in row.items() if "time" not in k and k != "tokens_per_second"} for row in records(options)]
        for options in (sft, {"output_dir": tmp_path / "again"})
    )
    assert first == second


def test_max_steps_eval_steps_and_a_file_of_held_out_rows(sft, tmp_path: Path) -> None:
    options = {key: value for key, value in sft.items() if key != "eval_fraction"}
    options |= {"eval_dataset_name": lines(tmp_path / "e.jsonl", strings(5)), "max_steps": "5", "eval_steps": "2"}
    run = build_sft(load_config(SFTConfig, flags=options))
    assert run.held_out is not None
    assert (len(run.learned), len(run.held_out)) == (12, 5)
    history = run.train()
    assert [step for step, row in enumerate(history, start=1) if "eval/loss" in row] == [2, 4, 5]


def test_rows_that_are_too_long_are_counted_and_said(sft, clearppo, tmp_path: Path) -> None:
    rows = [*strings(), {"prompt": "The film was", "completion": " good" * 200}]
    code, out, _ = clearppo("sft", {**sft, "eval_fraction": "0", "dataset_name": lines(tmp_path / "l.jsonl", rows)})
    assert code == 0
    assert "1 demonstrations longer than max_length" in out
    assert "12 from" in out


class Breaks(Silence):
    """Ends the run after two steps, as a user or an error would."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.notes: list[str] = []

    def iteration(self, step: int, metrics) -> None:
        if step == 2:
            raise self.error

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrainingError("it broke")])
def test_what_was_learned_before_an_early_end_is_kept(sft, reward, tmp_path: Path, error: BaseException) -> None:
    for schema, build, options, kind in (
        (SFTConfig, build_sft, sft, AutoModelForCausalLM),
        (RewardModelConfig, build_reward, {**reward, "output_dir": str(tmp_path / "rm")},
         AutoModelForSequenceClassification),
    ):  # fmt: skip
        listener = Breaks(error)
        with pytest.raises(type(error)):
            build(load_config(schema, flags=options), listener=listener).train()
        place = Path(options["output_dir"]) / "interrupted"
        assert listener.notes[-1] == f"the model after 2 steps is in {place}"
        assert "Ended early after 2 of" in (place / "README.md").read_text()
        kind.from_pretrained(place)
        assert not (Path(options["output_dir"]) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("rows", "layout"),
    [
        (pairs, {}),
        (pairs, {"use_peft": "true", "lora_r": "4", "learning_rate": "2e-2"}),
        (conversations, {"rm_loss": "pairwise", "center_coef": "0.01", "score_normalisation": "mean"}),
        (dialogues, {"rm_loss": "pairwise"}),
        (wide, {"rm_loss": "pairwise"}),
        (ranked, {"rm_loss": "k-wise"}),
        (picked, {"rm_loss": "best-of-n", "score_normalisation": "mean"}),
        (ranked, {"rm_loss": "best-of-n", "bf16": "true"}),
        (pairs, {"rm_loss": "all-token", "score_normalisation": "none", "gradient_checkpointing": "true"}),
        (pairs, {"judgement_template": "Q: {prompt}\nA: {answer}\nMark:"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else ",".join(value) or "plain",
)
def test_reward_learns_and_leaves_what_others_can_load(
    reward, clearppo, tmp_path: Path, rows: Callable, layout: Options
) -> None:
    options = {**reward, "num_train_epochs": "8", **layout, "dataset_name": lines(tmp_path / "rows.jsonl", rows())}
    code, out, err = clearppo("reward", options)
    assert (code, err) == (0, "")
    assert "objective  minimise E_" in out
    run, found = Path(options["output_dir"]), records(options)
    least = 0.6 if options.get("rm_loss") == "best-of-n" else 1.0  # it does not rank what was not chosen
    assert found[-1]["accuracy"] >= least
    assert found[-1]["eval/accuracy"] >= least
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in found)
    report = json.loads((run / "reward_report.json").read_text())
    assert report["version"] == 1
    assert "accuracy" in out.lower()
    template = JudgementTemplate.load(run)
    assert template is not None
    assert template.text == layout.get("judgement_template", template.text)
    model = AutoModelForSequenceClassification.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert model.config.num_labels == 1
    right = 0
    loaded = build_reward(load_config(RewardModelConfig, flags={**options, "output_dir": str(tmp_path / "other")}))
    for comparison in loaded.learned.comparisons:
        better, worse = next(pair for pair in comparison.pairs if pair[0] == comparison.choice)
        texts = [template.ids(tokenizer, comparison.prompt, comparison.answers[k]) for k in (better, worse)]
        with torch.no_grad():
            scores = [float(model(input_ids=torch.tensor([ids])).logits) for ids in texts]
        right += scores[0] > scores[1]
    assert right == len(loaded.learned)
    assert "a reward model from comparisons" in (run / "README.md").read_text()
    assert not list(run.glob(".*"))


def test_scores_are_normalised_on_the_references(reward, tmp_path: Path) -> None:
    references = [
        {"prompt": f"The {word} was", "completion": f" {end}"} for word in SUBJECTS for end in ("good", "bad", "dull")
    ]
    for name in (None, lines(tmp_path / "r.jsonl", references)):
        options = {**reward, "output_dir": str(tmp_path / f"run-{name is None}"), "overwrite_output_dir": "true"}
        if name is not None:
            options["reference_dataset_name"] = name
        run = build_reward(load_config(RewardModelConfig, flags=options))
        run.train()
        assert len(run.references) == (2 * len(run.learned) if name is None else len(references))
        assert run.normalisation is not None
        model = AutoModelForSequenceClassification.from_pretrained(options["output_dir"])
        with torch.no_grad():
            scores = torch.tensor([float(model(input_ids=torch.tensor([list(ids)])).logits) for ids in run.references])
        assert float(scores.mean()) == pytest.approx(0.0, abs=1e-3)
        assert float(scores.std(correction=0)) == pytest.approx(1.0, abs=1e-3)


def test_a_reward_model_trained_further_keeps_its_template(reward, tmp_path: Path) -> None:
    build_reward(load_config(RewardModelConfig, flags={**reward, "judgement_template": "{answer} Mark:"})).train()
    again = {**reward, "model_name_or_path": reward["output_dir"], "output_dir": str(tmp_path / "again")}
    run = build_reward(load_config(RewardModelConfig, flags=again))
    assert run.template.text == "{answer} Mark:"
    assert run.train()[0]["loss"] < 0.5


def test_without_held_out_rows_there_is_no_report(reward, clearppo) -> None:
    code, out, _ = clearppo("reward", {**reward, "eval_fraction": "0"})
    assert code == 0
    assert "nothing is held out" in out
    assert not (Path(reward["output_dir"]) / "reward_report.json").exists()


def test_overwriting_deletes_the_earlier_runs_files(reward, sft, clearppo) -> None:
    assert clearppo("reward", reward)[0] == 0
    code, _, err = clearppo("sft", {**sft, "output_dir": reward["output_dir"]})
    assert code == 2
    assert "already holds a run" in err
    assert clearppo("sft", {**sft, "output_dir": reward["output_dir"], "overwrite_output_dir": "true"})[0] == 0
    left = {entry.name for entry in Path(reward["output_dir"]).iterdir()}
    assert not left & {"judgement.json", "reward_report.json"}
