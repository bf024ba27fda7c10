"""Bad input to `clearppo sft` and `clearppo reward`: one clear sentence, exit code 2, nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_causal_lm, tiny_reward_model, tiny_tokenizer

Options = dict[str, Any]
Mistake = Callable[[Path, Options], Options]

DEMONSTRATIONS = [{"prompt": f"The film {i} was", "completion": " good."} for i in range(8)]
COMPARISONS = [{"prompt": f"The film {i} was", "chosen": " good.", "rejected": " bad."} for i in range(8)]


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def option(**changed: Any) -> Mistake:
    return lambda tmp_path, options: changed


def rows(*written: dict[str, Any], **more: Any) -> Mistake:
    """A mistake: the data file holds these rows, and these options are set."""
    return lambda tmp_path, options: {"dataset_name": lines(tmp_path / "bad.jsonl", list(written)), **more}


def used_directory(tmp_path: Path, options: Options) -> Options:
    run = Path(options["output_dir"])
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    return {}


def data_in_the_run(tmp_path: Path, options: Options) -> Options:
    run = Path(options["output_dir"])
    used_directory(tmp_path, options)
    (run / "data.jsonl").write_text(Path(options["dataset_name"]).read_text())
    return {"dataset_name": str(run / "data.jsonl"), "overwrite_output_dir": "true"}


def a_reward_model(tmp_path: Path, options: Options) -> Options:
    return {"model_name_or_path": tiny_reward_model(tmp_path / "rm")}


def two_labels(tmp_path: Path, options: Options) -> Options:
    return {"model_name_or_path": tiny_reward_model(tmp_path / "rm", num_labels=2)}


def no_template(tmp_path: Path, options: Options) -> Options:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return {
        "model_name_or_path": tiny_causal_lm(tmp_path / "m", tokenizer=tiny_tokenizer(chat=False)),
        "dataset_name": lines(tmp_path / "chat.jsonl", [{"messages": chat}] * 3),
        "eval_fraction": "0",
    }


def empty_held_out(tmp_path: Path, options: Options) -> Options:
    (tmp_path / "empty.jsonl").write_text("")
    return {"eval_dataset_name": str(tmp_path / "empty.jsonl")}


def one_prompt(tmp_path: Path, options: Options) -> Options:
    """The same row twice: what would be held out would have been seen."""
    row = json.loads(Path(options["dataset_name"]).read_text().splitlines()[0])
    return {"dataset_name": lines(tmp_path / "one.jsonl", [row, row])}


LONG = " good" * 300
BOTH: dict[str, tuple[Mistake, list[str]]] = {
    "no model": (option(model_name_or_path="no/such"), ["no/such"]),
    "no file": (option(dataset_name="no_such.jsonl"), ["no_such.jsonl", "--dataset_name"]),
    "no held-out file": (option(eval_dataset_name="no_such.jsonl"), ["no_such.jsonl", "--eval_dataset_name"]),
    "empty held-out file": (empty_held_out, ["empty.jsonl"]),
    "one prompt": (one_prompt, ["held out", "--eval_fraction"]),
    "occupied": (used_directory, ["already holds a run", "--overwrite_output_dir"]),
    "overwrites its data": (data_in_the_run, ["dataset_name", "--output_dir"]),
    "unknown option": (option(epochs="2"), ["--epochs"]),
    "length": (option(max_length="3"), ["max_length = 3"]),
    "test split of a file": (option(dataset_test_split="test"), ["dataset_test_split"]),
    "lora modules": (option(use_peft="true", lora_target_modules="nothing"), ["nothing", "q_proj"]),
    "not writable": (option(output_dir="/proc/clearppo"), ["/proc/clearppo"]),
}  # fmt: skip
SFT = BOTH | {
    "a reward model": (a_reward_model, ["is a reward model", "--model_name_or_path"]),
    "no completion": (rows({"prompt": "a"}), ["bad.jsonl", "line 1"]),
    "too long for the model": (
        rows({"prompt": "a", "completion": LONG}, *DEMONSTRATIONS, max_length="none"),
        ["line 1", "128", "--max_length"],
    ),
    "no chat template": (no_template, ["chat template"]),
}  # fmt: skip
REWARD = BOTH | {
    "two labels": (two_labels, ["num_labels = 2"]),
    "identical": (rows({"prompt": "a", "chosen": "b", "rejected": "b"}), ["line 1", "rejected"]),
    "empty": (rows({"prompt": "a", "chosen": "b", "rejected": ""}), ["line 1", "rejected"]),
    "one answer": (rows({"prompt": "a", "completions": ["b"], "scores": [1]}), ["line 1"]),
    "no pair": (rows({"prompt": "a", "completions": ["b", "c"], "scores": [1, 1]}), ["line 1"]),
    "no choice": (
        rows(*[{"prompt": f"{i}", "completions": ["b", "c", "d"], "scores": [1, 1, 0]} for i in range(4)],
             rm_loss="best-of-n"),
        ["best-of-n", "choice"],
    ),
    "template": (option(judgement_template="{prompt} only"), ["{conversation}", "--judgement_template"]),
    "placeholder": (option(judgement_template="{reply}"), ["{reply}"]),
    "no references": (option(reference_dataset_name="no_such.jsonl"), ["no_such.jsonl", "--reference_dataset_name"]),
    "inert": (option(score_normalisation="none", reference_dataset_name="x.jsonl"), ["--score_normalisation"]),
}  # fmt: skip
CASES = [("sft", name) for name in SFT] + [("reward", name) for name in REWARD]


@pytest.mark.parametrize(("command", "name"), CASES, ids=lambda value: value)
def test_one_sentence_and_nothing_left(command: str, name: str, model: str, clearppo, tmp_path: Path) -> None:
    make, needles = (SFT if command == "sft" else REWARD)[name]
    data = DEMONSTRATIONS if command == "sft" else COMPARISONS
    options = {
        "model_name_or_path": model, "dataset_name": lines(tmp_path / "data.jsonl", data),
        "output_dir": str(tmp_path / "run"), "device": "cpu", "bf16": "false",
    }  # fmt: skip
    options |= make(tmp_path, options)
    run = Path(options["output_dir"])
    before = sorted(run.iterdir()) if run.exists() else None
    code, _, err = clearppo(command, options)
    assert code == 2, err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1, err
    for needle in needles:
        assert needle in err, err
    assert (sorted(run.iterdir()) if run.exists() else None) == before
