"""Bad input gives one clear sentence, exit code 2, no traceback, and leaves nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_causal_lm, tiny_tokenizer

Mistake = Callable[[Path, dict[str, Any]], dict[str, Any]]


def write(name: str, text: str, option: str, suffix: str = "") -> Mistake:
    """A mistake: the option points to a file with this text."""

    def make(tmp_path: Path, options: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / name).write_text(text)
        return {option: f"{tmp_path / name}{suffix}"}

    return make


def reward(body: str) -> Mistake:
    return write("bad.py", f"def score(prompts, completions, **columns):\n    {body}\n", "reward_funcs", ":score")


def option(**changed: Any) -> Mistake:
    return lambda tmp_path, options: changed


def used_directory(tmp_path: Path, options: dict[str, Any]) -> dict[str, Any]:
    run = Path(options["output_dir"])
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    return {}


def no_eos(tmp_path: Path, options: dict[str, Any]) -> dict[str, Any]:
    return {"model_name_or_path": tiny_causal_lm(tmp_path / "m", tokenizer=tiny_tokenizer(eos=None, pad="<pad>"))}


MISTAKES: dict[str, tuple[Mistake, list[str]]] = {
    "model missing": (option(model_name_or_path="no/such"), ["no/such", "Tried"]),
    "prompts missing": (option(dataset_name="no_such.jsonl"), ["no_such.jsonl"]),
    "config missing": (option(config="no_such.yaml"), ["no_such.yaml"]),
    "malformed prompts": (write("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "dataset_name"), ["p.jsonl", "line 2"]),
    "no prompt column": (write("p.jsonl", '{"text": "a"}\n', "dataset_name"), ["prompt", "text"]),
    "no prompts": (write("p.jsonl", "", "dataset_name"), ["p.jsonl"]),
    "unknown option": (option(lerning_rate="1"), ["--lerning_rate", "Did you mean --learning_rate"]),
    "unknown in the file": (write("c.yaml", "ppo:\n  gama: 1\n", "config"), ["gama", "gamma", "c.yaml"]),
    "sizes": (option(num_mini_batches="5"), ["num_mini_batches = 5 does not divide batch_size = 8"]),
    "inert": (option(lora_r="4"), ["lora_r = 4 has no effect", "--use_peft true"]),
    "no reward file": (option(reward_funcs="no_such.py:score"), ["no_such.py"]),
    "no reward function": (write("r.py", "def scores(): pass\n", "reward_funcs", ":score"), ["score", "scores"]),
    "reward raises": (reward("raise KeyError('oops')"), ["score", "KeyError", "row"]),
    "reward count": (reward("return [1.0]"), ["1", "8"]),
    "reward NaN": (reward("return [float('nan')] * len(prompts)"), ["nan", "row"]),
    "reward None": (reward("return [None] * len(prompts)"), ["None", "row"]),
    "no EOS": (no_eos, ["no end-of-sequence token"]),
    "prompt too long": (
        write("p.jsonl", json.dumps({"prompt": "I think " * 200}) + "\n", "dataset_name"), ["--max_prompt_length"],
    ),
    "no room": (option(response_length="4000"), ["response_length = 4000", "context"]),
    "directory used": (used_directory, ["already holds a run", "--overwrite_output_dir"]),
    "directory not writable": (option(output_dir="/proc/clearppo"), ["/proc/clearppo"]),
    "no such recipe": (option(recipe="artikle"), ["artikle", "article"]),
    "stop token": (option(stop_token_ids="99999"), ["99999", "vocabulary"]),
    "lora modules": (option(use_peft="true", lora_target_modules="nothing"), ["nothing", "q_proj"]),
    "reward server is dead": (option(reward_urls="http://127.0.0.1:9/"), ["127.0.0.1:9", "refused", "--reward_urls"]),
    "reward server is no URL": (option(reward_urls="localhost:8000"), ["reward_urls = localhost:8000", "http"]),
    "reward token missing": (
        option(reward_urls="http://127.0.0.1:9/", reward_auth_env="NO_SUCH_TOKEN"),
        ["NO_SUCH_TOKEN", "--reward_auth_env"],
    ),
    "reward hangs": (
        lambda tmp_path, options: {
            **reward("__import__('time').sleep(100)")(tmp_path, options),
            "reward_worker": "true", "reward_timeout": "0.1",
        },
        ["`score` was not done after 0.1", "row", "--reward_timeout"],
    ),
    "reward worker": (
        lambda tmp_path, options: {**reward("return [1.0]")(tmp_path, options), "reward_worker": "true"}, ["1", "8"],
    ),
    "reward model missing": (option(reward_model_path="no/such"), ["no/such"]),
    "a directory that is no model": (lambda tmp_path, _: {"model_name_or_path": tmp_path}, ["config.json"]),
}  # fmt: skip
AFTER_THE_START = {
    "reward raises",
    "reward count",
    "reward NaN",
    "reward None",
    "reward hangs",
    "reward worker",
}  # config.yaml stands by then
if not torch.cuda.is_available():
    MISTAKES["no GPU"] = (option(device="cuda"), ["device = cuda", "--device auto"])


@pytest.mark.parametrize("name", MISTAKES)
def test_one_sentence_and_nothing_left(name: str, files, clearppo, tmp_path: Path) -> None:
    make, needles = MISTAKES[name]
    options = {**files, **make(tmp_path, files)}
    run = Path(options["output_dir"])
    before = sorted(run.iterdir()) if run.exists() else []
    code, out, err = clearppo("ppo", options)
    assert code == 2, err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in out + err
    for needle in needles:
        assert needle in err, err
    after = {entry.name for entry in run.iterdir()} if run.exists() else set()
    assert after - {entry.name for entry in before} <= (
        {"config.yaml", "plan.json", "started.json"} if name in AFTER_THE_START else set()
    )
    assert run.exists() == (name == "directory used" or name in AFTER_THE_START)


def test_after_a_failed_start_the_same_directory_can_be_used(files, clearppo, tmp_path: Path) -> None:
    bad = {**files, **reward("return [None] * len(prompts)")(tmp_path, files)}
    assert clearppo("ppo", bad)[0] == 2
    assert clearppo("ppo", files)[0] == 0


def test_a_failed_start_loses_no_earlier_run_and_overwriting_no_input(files, clearppo, tmp_path: Path) -> None:
    assert clearppo("ppo", files)[0] == 0
    run = Path(files["output_dir"])
    before = {entry.name: entry.stat().st_size for entry in run.iterdir()}
    again = {**files, "overwrite_output_dir": "true"}
    assert clearppo("ppo", {**again, "model_name_or_path": "no/such"})[0] == 2
    code, _, err = clearppo("ppo", {**again, "model_name_or_path": run})
    assert code == 2
    assert "would delete" in err
    assert {entry.name: entry.stat().st_size for entry in run.iterdir()} == before
    assert clearppo("ppo", again)[0] == 0


def test_a_full_disk_is_said_before_the_work(files, clearppo, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, _, err = clearppo("ppo", files)
    assert code == 2
    assert "no space for the result" in err


def test_what_nobody_foresaw_keeps_its_traceback(files, monkeypatch: pytest.MonkeyPatch) -> None:
    from clearppo.cli import main

    monkeypatch.setattr("clearppo.build.ppo.build_ppo", lambda *a, **k: 1 / 0)
    words = [word for name, value in files.items() for word in (f"--{name}", str(value))]
    with pytest.raises(ZeroDivisionError):
        main(["ppo", *words])


@pytest.mark.parametrize(
    ("command", "needle"),
    [
        (["chat", "no/such"], "no/such"),
        (["chat"], "MODEL"),
        (["ppp"], "Did you mean ppo"),
        (["recipes", "show", "x"], "x"),
    ],
)
def test_other_commands(command: list[str], needle: str, clearppo) -> None:
    code, _, err = clearppo(command[0], None, *command[1:])
    assert code == 2
    assert needle in err
    assert "Traceback" not in err
