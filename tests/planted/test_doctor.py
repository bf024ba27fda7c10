"""Faults that are there before the first step: `clearppo doctor` finds each, and names it in the right sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.planted import models
from tests.planted.models import never_ends, spoilt_head, with_tokenizer
from tests.planted.setups import Doctor, Findings, Options, rewarded

OTHERS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def found(name: str, verdict: str, findings: Findings, said: str, *words: str) -> dict[str, Any]:
    """The finding of this name: it has the verdict, and its sentence, which is printed too, has these words."""
    finding = findings[name]
    assert finding["verdict"] in verdict.split("|"), finding
    sentence = " ".join([finding["measured"], finding["reason"], finding["mend"]])
    assert all(word in sentence for word in words), sentence
    assert finding["mend"], finding
    assert name in said
    return finding


def only(findings: Findings, *names: str) -> None:
    """No check but these says stop."""
    assert {name for name, finding in findings.items() if finding["verdict"] == "stop"} <= set(names), findings


def test_the_chat_template_of_another_model(doctor: Doctor, healthy: Options, policy: str, tmp_path: Path) -> None:
    words = AutoTokenizer.from_pretrained(policy)
    words.chat_template = OTHERS_TEMPLATE  # <|im_start|> is no token of this model
    code, findings, said = doctor(healthy, model_name_or_path=with_tokenizer(policy, tmp_path / "other", words))
    assert code == 1
    found("chat_template", "stop", findings, said, "<|im_start|>")


def test_no_end_of_turn_in_the_stop_tokens(doctor: Doctor, healthy: Options, policy: str, tmp_path: Path) -> None:
    """The usual way to an answer that never ends: the tokenizer's EOS is not what the template ends a turn with."""
    words = AutoTokenizer.from_pretrained(policy)
    words.add_special_tokens({"eos_token": "<bos>"})
    path = with_tokenizer(policy, tmp_path / "other", words)
    model = AutoModelForCausalLM.from_pretrained(policy)
    model.config.eos_token_id = model.generation_config.eos_token_id = words.convert_tokens_to_ids("<bos>")
    model.save_pretrained(path)
    _, findings, said = doctor(healthy, model_name_or_path=path)
    found("eos", "look|stop", findings, said, "<bos>")
    found("chat_template", "look|stop", findings, said, "<eos>", "<bos>", "--stop_token_ids")


def test_eos_that_is_never_sampled(doctor: Doctor, healthy: Options, policy: str, tmp_path: Path) -> None:
    path = never_ends(policy, tmp_path / "endless")
    code, findings, said = doctor(healthy, model_name_or_path=path)
    assert code == 1
    found("eos", "stop", findings, said, "<eos>")


@pytest.mark.parametrize("size", [120, 320])
def test_a_reward_model_with_the_tokenizer_of_another(
    doctor: Doctor, healthy: Options, reward_model: str, tmp_path: Path, size: int
) -> None:
    """Of 120 tokens, or of 320, whose highest ids the embedding does not have."""
    others = models.foreign_tokenizer(size)
    path = with_tokenizer(reward_model, tmp_path / "other", others)
    code, findings, said = doctor(healthy, reward_funcs=None, reward_model_path=path)
    assert code == 1
    found("reward_tokenizer", "stop", findings, said, "194", "token")  # what the weights know


def test_a_reward_model_with_another_tokenizer_of_the_same_size(
    doctor: Doctor, healthy: Options, reward_model: str, tmp_path: Path
) -> None:
    """No size and no special id disagrees: what is left to see is that it cannot tell chosen from rejected."""
    others = models.foreign_tokenizer(len(AutoTokenizer.from_pretrained(reward_model)))
    path = with_tokenizer(reward_model, tmp_path / "other", others)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in models.comparisons()[:64]))
    _, findings, _ = doctor(healthy, reward_funcs=None, reward_model_path=path, pairs=pairs)
    wrong = {name for name in ("reward_tokenizer", "reward_pairs") if findings[name]["verdict"] != "ok"}
    assert wrong, findings
    _, right, _ = doctor(healthy, reward_funcs=None, reward_model_path=reward_model, pairs=pairs)
    assert all(right[name]["verdict"] == "ok" for name in ("reward_tokenizer", "reward_pairs")), right


def test_a_reward_that_loves_length(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    code, findings, said = doctor(healthy, reward_funcs=rewarded(tmp_path, "len(text) / 10"))
    assert code == 1
    found("reward_length", "stop", findings, said, "length")
    only(findings, "reward_length")


def test_a_constant_reward(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    code, findings, said = doctor(healthy, reward_funcs=rewarded(tmp_path, "0.5"))
    assert code == 1
    found("reward_spread", "stop", findings, said, "0.5")
    only(findings, "reward_spread")


def test_a_reward_that_is_nan_for_empty_answers(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    """No answer that was drawn is empty; that one will be, sooner or later, ends a run after hours."""
    source = "text.split().count('good') / len(text.split()) if text.split() else float('nan')"
    code, findings, said = doctor(healthy, reward_funcs=rewarded(tmp_path, source))
    assert code == 1
    found("reward_edge_cases", "stop", findings, said, "empty", "nan")
    only(findings, "reward_edge_cases")


def test_a_reward_that_fails_for_empty_answers(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    code, findings, said = doctor(healthy, reward_funcs=rewarded(tmp_path, "ord(text.strip()[0]) / 100"))
    assert code == 1
    found("reward_edge_cases", "stop", findings, said, "empty", "IndexError")


def test_a_kl_coefficient_of_a_thousandth(doctor: Doctor, healthy: Options) -> None:
    code, findings, said = doctor(healthy, kl_coef=5e-5)
    assert code in (0, 1)
    found("kl_against_reward", "look|stop", findings, said, "5e-05", "--kl_coef")


def test_a_kl_coefficient_of_a_thousand_times(doctor: Doctor, healthy: Options) -> None:
    _, findings, said = doctor(healthy, kl_coef=50)
    found("kl_against_reward", "look|stop", findings, said, "50", "--kl_coef")


@pytest.mark.parametrize("factor", [1e4, float("nan")])
def test_a_broken_value_head(
    doctor: Doctor, healthy: Options, reward_model: str, tmp_path: Path, factor: float
) -> None:
    path = spoilt_head(reward_model, tmp_path / "critic", factor)
    code, findings, said = doctor(healthy, critic="separate", value_model_path=path)
    assert code == 1
    found("critic_start", "stop", findings, said, "--value_model_path")


def test_duplicate_prompts(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    rows = Path(healthy["dataset_name"]).read_text().splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join(rows[:4] * 10) + "\n")
    _, findings, said = doctor(healthy, dataset_name=tmp_path / "twice.jsonl")
    found("duplicate_prompts", "look|stop", findings, said, "90")  # 36 of 40 are there already
    only(findings, "duplicate_prompts")


def test_doctor_touches_nothing(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    doctor(healthy)
    after = [str(path) for path in sorted(tmp_path.rglob("*")) if path.name != "doctor.json"]
    assert [path for path in after if "__pycache__" not in path] == before


def test_doctor_says_the_same_twice(doctor: Doctor, healthy: Options, reward_model: str) -> None:
    """All but what the clock says."""
    clocked = {"time", "memory", "disk", "reward_functions"}
    first, second = (doctor(healthy, reward_model_path=reward_model)[1] for _ in range(2))
    assert {name: first[name] for name in first.keys() - clocked} == {
        name: second[name] for name in second.keys() - clocked
    }
