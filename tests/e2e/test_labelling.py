"""An afternoon's path: answers for people, labels, a reward model, PPO; each takes the file of the one before."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clearppo.cli import main
from tests.docs.readme_commands import blocks
from tests.tiny import tiny_causal_lm

Options = dict[str, Any]
SAMPLING = {"response_length": "8", "temperature": "3", "device": "cpu"}


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def folder(files: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(*arguments: str, typed: str) -> Result:
    done = CliRunner().invoke(main, ["label", *arguments, "--terminal", "--labeller", "Ann"], input=typed)
    assert done.exit_code == 0, done.output
    return done


def test_prefs_label_reward_ppo(folder: Path, files: Options, clearppo: Callable[..., tuple[int, str, str]]) -> None:
    shared = {"model_name_or_path": files["model_name_or_path"], "device": "cpu"}
    answers = {"dataset_name": files["dataset_name"], "output_file": "answers.jsonl", "num_completions": "2"}
    code, out, err = clearppo("prefs", {**shared, **answers, "response_length": "8", "temperature": "3"}, "--for_human")
    assert code == 0, err
    assert "compare them with clearppo label answers.jsonl" in out + err
    assert all(
        set(row) == {"prompt", "completions", "tag", "sources", "finish_reasons"}
        for row in rows_of(folder / "answers.jsonl")
    )

    label("answers.jsonl", typed="1\n2\n1\nt\n2\n")
    labels = rows_of(folder / "labels.jsonl")
    assert [row["verdict"] for row in labels].count("better") == 4

    reward = {**shared, "dataset_name": "labels.jsonl", "output_dir": "reward", "batch_size": "2", "eval_fraction": "0"}
    code, out, err = clearppo("reward", reward)
    assert code == 0, err
    said = '5 decisions of 1 labeller; 4 for an answer; 1 tie and 0 "all bad", which make no pair'
    assert said in " ".join((out + err).split())

    policy = {name: value for name, value in files.items() if name != "reward_funcs"}
    code, _, err = clearppo("ppo", {**policy, "reward_model_path": "reward", "total_episodes": "8"})
    assert code == 0, err
    assert (Path(files["output_dir"]) / "finished.json").exists()


def test_models_answer_first_and_once(folder: Path, files: Options) -> None:
    """Prompts alone: each model answers; a second start shows the same and samples nothing; other options, others."""
    other = tiny_causal_lm(folder / "other", seed=7)
    options = [word for name, value in SAMPLING.items() for word in (f"--{name}", value)]
    models = ["--model_name_or_path", files["model_name_or_path"], "--model_name_or_path", other]
    first = label("prompts.jsonl", *models, *options, typed="1\nq\n")
    kept = sorted(folder.glob("labels.answers-*.jsonl"))
    assert len(kept) == 2
    assert all(len(row["completions"]) == 1 for path in kept for row in rows_of(path))
    by_prompt = [{row["prompt"]: row["completions"][0] for row in rows_of(path)} for path in kept]
    (row,) = rows_of(folder / "labels.jsonl")
    assert sorted(row["completions"]) == sorted(answers[row["prompt"]] for answers in by_prompt)
    wrote = {
        row["prompt"]: row["completions"][0] for path in kept for row in rows_of(path) if row["sources"] == [other]
    }
    assert row["sources"][row["completions"].index(wrote[row["prompt"]])] == [other]
    assert "it cannot be told yet which is preferred" in " ".join(first.output.split())
    assert (
        f"clearppo reward --dataset_name labels.jsonl --model_name_or_path {files['model_name_or_path']} "
        in first.output
    )

    before = [path.stat().st_mtime_ns for path in kept]
    second = label("prompts.jsonl", *models, *options, typed="q\n")
    assert "1 of 5 labelled, 1 by you" in second.output
    assert "answers of" not in first.stderr
    assert second.stderr.count("the answers of") == 2
    assert [path.stat().st_mtime_ns for path in kept] == before

    label("prompts.jsonl", *models[:2], *options, "--max_prompts", "3", typed="q\n")
    (new,) = set(folder.glob("labels.answers-*.jsonl")) - set(kept)
    assert len(rows_of(new)) <= 3
    assert all(len(row["completions"]) == 2 for row in rows_of(new))


def test_the_afternoon_of_the_page(
    folder: Path, repo: Path, model: str, clearppo: Callable[..., tuple[int, str, str]]
) -> None:
    """The commands of docs/label.md, one after the other, with a tiny model and a labeller at the keyboard."""
    more = {
        "prefs": ["--device", "cpu", "--temperature", "3"],
        "reward": ["--device", "cpu", "--max_steps", "1"],
        "ppo": ["--device", "cpu", "--bf16", "false", "--total_episodes", "8", "--batch_size", "4"],
    }
    typed: list[str] = []
    for block in blocks((repo / "docs" / "label.md").read_text(encoding="utf-8")):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                name, *words = shlex.split(line.replace("smollm2-135m-instruct", model))[1:]
                typed.append(name)
                if name == "label":
                    label(*words, typed="1\n" * 6)
                else:
                    code, _, err = clearppo(name, None, *words, *more[name])
                    assert code == 0, err
    assert typed == ["prefs", "label", "reward", "ppo"]
    assert len(rows_of(folder / "labels.jsonl")) == 6
    assert (folder / "runs" / "mine" / "finished.json").exists()
