"""`clearppo doctor` through the command line, on tiny models; and what a run says of itself at its start."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearppo.train.doctor.finding import CHECKS

pytestmark = pytest.mark.e2e


@pytest.fixture
def doctor(clearppo: Any, tmp_path: Path) -> Any:
    """Exit code, the findings by name, why others were not made, all that was printed."""

    def run(options: dict[str, Any], *more: str) -> tuple[int, dict[str, Any], dict[str, str], str]:
        file = tmp_path / "doctor.json"
        code, out, err = clearppo("doctor", {**options, "json": file}, *more)
        assert file.exists(), err
        found = json.loads(file.read_text())
        return code, {one["name"]: one for one in found["findings"]}, found["not_checked"], out + err

    return run


def rewarded(tmp_path: Path, body: str) -> str:
    (tmp_path / "own.py").write_text(
        f"import math, random\ncalls = []\n\ndef score(completions, **columns):\n    {body}\n"
    )
    return f"{tmp_path / 'own.py'}:score"


def test_a_whole_diagnosis(doctor: Any, files: dict[str, Any], reward_model: str, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "The film was", "chosen": " good", "rejected": " bad"}
    pairs.write_text(json.dumps(row) + "\n")
    code, found, left_out, said = doctor({**files, "reward_model_path": reward_model, "pairs": pairs})
    assert sorted(found) == sorted(CHECKS)
    assert left_out == {}
    assert [name for name, one in found.items() if one["verdict"] == "stop"] == []
    assert code == 0
    assert "This run can start" in said
    assert not Path(files["output_dir"]).exists()
    assert "score = score + RM(" in found["objective"]["measured"]
    assert all(name in said for name in CHECKS)


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ("return [1.0 for c in completions]", "reward_spread", "constant"),
        ("return [float(len(c)) for c in completions]", "reward_length", "length"),
        ("return [random.random() for c in completions]", "reward_functions", "noise"),
        ("return [c.count('e') / len(c.strip()) for c in completions]", "reward_edge_cases", "ZeroDivisionError"),
        ("raise KeyError('no')", "reward_functions", "KeyError"),
        ("return [math.inf for c in completions]", "reward_finite", "inf"),
        ("calls.append(1); return [1.0] * (len(completions) - (len(calls) > 1))", "reward_functions", "second time"),
    ],
)
def test_rewards_that_nobody_should_train_on(
    doctor: Any, files: dict[str, Any], tmp_path: Path, body: str, name: str, words: str
) -> None:
    code, found, _, said = doctor({**files, "reward_funcs": rewarded(tmp_path, body), "response_length": 12})
    assert code == 1
    assert found[name]["verdict"] == "stop"
    assert words in found[name]["reason"]
    assert name in said.partition("Do not start this run yet: ")[2]


def test_scores_of_the_answers_that_have_one_are_looked_at_all_the_same(
    doctor: Any, files: dict[str, Any], tmp_path: Path
) -> None:
    body = "return [math.nan if tag == 0 else c.count('e') - 0.1 for c, tag in zip(completions, columns['tag'])]"
    code, found, _, _ = doctor({**files, "reward_funcs": rewarded(tmp_path, body)})
    assert code == 1
    assert [name for name, one in found.items() if one["verdict"] == "stop"] == ["reward_finite"]
    assert "rows 1" in found["reward_finite"]["reason"]
    assert {"reward_spread", "reward_edge_cases", "critic_start", "kl_against_reward"} <= set(found)


def test_without_a_critic_and_with_lora(doctor: Any, files: dict[str, Any]) -> None:
    options = {**files, "advantage_estimator": "rloo", "num_generations": 4, "use_peft": True}
    code, found, left_out, _ = doctor(options)
    assert code == 0
    assert left_out["critic_start"] == "there is no critic"
    assert found["ratio_and_kl"]["verdict"] == "ok"


def test_frozen_layers_are_read_anew(doctor: Any, files: dict[str, Any]) -> None:
    code, found, _, _ = doctor({**files, "freeze_layers": 1, "critic": "separate"})
    assert code == 0
    assert found["padding_invariance"]["verdict"] == "ok"
    assert found["critic_start"]["measured"].startswith("values 0 ")


def test_a_cut_distribution_and_half_precision(doctor: Any, files: dict[str, Any]) -> None:
    _, found, _, _ = doctor({**files, "top_k": 5})
    assert found["sampler_log_probs"]["verdict"] == "look"
    assert "--top_k 5" in found["sampler_log_probs"]["reason"]
    _, found, _, _ = doctor({**files, "bf16": "true"})
    assert found["sampler_log_probs"]["verdict"] == "ok"
    assert "rounds in other places" in found["sampler_log_probs"]["reason"]


def test_the_same_twice_and_nothing_touched(doctor: Any, files: dict[str, Any], reward_model: str) -> None:
    output = Path(files["output_dir"])
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    options = {**files, "reward_model_path": reward_model}
    (_, first, *_), (_, second, *_) = doctor(options), doctor(options)
    clocked = {"memory", "time", "disk", "reward_functions"}
    assert {name: first[name] for name in first.keys() - clocked} == {
        name: second[name] for name in second.keys() - clocked
    }
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def test_a_directory_that_holds_a_run(doctor: Any, clearppo: Any, files: dict[str, Any]) -> None:
    assert clearppo("ppo", files)[0] == 0
    code, found, _, _ = doctor(files)
    assert (code, found["disk"]["verdict"]) == (0, "look")
    assert "--overwrite_output_dir" in found["disk"]["mend"]
    _, found, _, _ = doctor({**files, "overwrite_output_dir": True})
    assert found["disk"]["verdict"] == "ok"
    assert (Path(files["output_dir"]) / "metrics.jsonl").exists()


def test_a_config_file_and_flags_above_it(doctor: Any, clearppo: Any, files: dict[str, Any], tmp_path: Path) -> None:
    clearppo("ppo", files)
    written = Path(files["output_dir"]) / "config.yaml"
    _, found, _, _ = doctor({"kl_coef": 1e-6}, str(written))
    assert found["kl_against_reward"]["verdict"] == "look"
    _, found, _, _ = doctor({"config": written})
    assert found["kl_against_reward"]["verdict"] == "ok"


def test_a_pipeline_and_the_steps_of_it(doctor: Any, clearppo: Any, files: dict[str, Any], tmp_path: Path) -> None:
    demonstrations, comparisons = tmp_path / "d.jsonl", tmp_path / "c.jsonl"
    texts = [f"The film {i} was" for i in range(30)]
    demonstrations.write_text("".join(json.dumps({"prompt": t, "completion": " good."}) + "\n" for t in texts))
    rows = [{"prompt": t, "chosen": " good and happy", "rejected": " bad"} for t in texts]
    comparisons.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    place = {
        "model_name_or_path": files["model_name_or_path"], "demonstrations": str(demonstrations),
        "comparisons": str(comparisons), "prompts": files["dataset_name"], "output_dir": files["output_dir"],
        "device": "cpu",
    }  # fmt: skip
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump({"pipeline": place, "ppo": {"sampling": {"response_length": 6}}}))
    code, found, _, said = doctor({"step": "sft", "bf16": "false"}, str(pipeline))
    assert code == 0, said
    assert found["eos"]["measured"].endswith("29 of 29 texts end with it")
    assert "tokens (" in found["objective"]["measured"]
    code, found, _, said = doctor({"step": "reward", "model_name_or_path": place["model_name_or_path"], **{
        "dataset_name": comparisons, "output_dir": files["output_dir"], "bf16": "false", "device": "cpu"}})  # fmt: skip
    assert code == 1
    assert found["reward_length"]["verdict"] == "stop"
    assert "the longer answer wins 100%" in found["reward_length"]["measured"]
    assert found["duplicate_prompts"]["verdict"] == "look"  # every comparison comes twice
    code, _, err = clearppo("doctor", {}, str(pipeline))
    assert code == 2
    assert "which step sft has not made yet" in err
    assert "--step sft" in err


def test_comparisons_that_contradict_each_other(doctor: Any, files: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    answers = [" good", " bad"]
    rows = [
        {"prompt": f"It is {i}", "chosen": answers[j], "rejected": answers[1 - j]} for i in range(9) for j in (0, 1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {name: files[name] for name in ("model_name_or_path", "output_dir", "device", "bf16")}
    code, found, _, _ = doctor({"step": "reward", "dataset_name": file, "eval_fraction": 0, **options})
    assert code == 1
    assert found["reward_pairs"]["measured"] == "18 pairs in 18 comparisons, 9 judged both ways"
    assert found["reward_length"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--kl_coeff", "1"], "Did you mean --kl_coef?"),
        (["--step", "sfx"], "'sfx' is not one of"),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--pairs", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--kl_coef", "-1"], "kl_coef"),
        (["--step", "sft", "--pairs", "x", "--dataset_name", "y"], "reward_funcs"),
    ],
)
def test_bad_input(clearppo: Any, files: dict[str, Any], words: list[str], sentence: str) -> None:
    code, out, err = clearppo("doctor", files, *words)
    assert code == 2
    assert sentence in err
    assert err.startswith("error: ") or "\nerror: " in err
    assert out == ""


def test_a_file_that_cannot_be_written(clearppo: Any, files: dict[str, Any], tmp_path: Path) -> None:
    code, _, err = clearppo("doctor", {**files, "json": tmp_path / "no" / "where.json"})
    assert code == 2
    assert "where.json" in err
    code, _, err = clearppo("doctor", {**files, "config": "a.yaml"}, "b.yaml")
    assert code == 2
    assert "Give only one" in err


# ------------------------------------------------------------------------------------------------ at the start of runs


def test_a_run_says_in_brief_what_can_be_seen(clearppo: Any, files: dict[str, Any], tmp_path: Path) -> None:
    counted = rewarded(
        tmp_path, f"open({str(tmp_path / 'calls')!r}, 'a').write('x'); return [c.count('e') for c in completions]"
    )
    code, out, _ = clearppo("ppo", {**files, "reward_funcs": counted})
    assert code == 0
    said = " ".join(out.split())
    assert "doctor, in brief: chat_template, pad, prompts_length, duplicate_prompts, eos, disk ok" in said
    assert (tmp_path / "calls").read_text() == "xxx"  # once an iteration
    prompts = tmp_path / "same.jsonl"
    prompts.write_text('{"prompt": "It is", "tag": 1}\n' * 9)
    code, out, _ = clearppo("ppo", {**files, "dataset_name": prompts, "overwrite_output_dir": True})
    assert code == 0
    assert "doctor says STOP: duplicate_prompts" in out


def test_other_steps_say_it_too(clearppo: Any, files: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"It is {i}", "completion": " good."} for i in range(30)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {name: files[name] for name in ("model_name_or_path", "output_dir", "device", "bf16")}
    code, out, _ = clearppo("sft", {**options, "dataset_name": tmp_path / "d.jsonl"})
    assert code == 0
    assert "doctor, in brief: " in out
