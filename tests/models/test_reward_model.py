"""The reward model: transformers' own scores, whatever stands behind a text; new heads; what is saved and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from clearppo.errors import ModelError
from clearppo.models.build import Lora
from clearppo.models.loading import load_causal_lm
from clearppo.models.reward_model import RewardModel, load_classifier, make_reward_model
from tests.tiny import FAMILIES, tiny_causal_lm, tiny_reward_model, tiny_tokenizer

TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14], [15, 16, 17, 18]]
LENGTHS = torch.tensor([len(text) for text in TEXTS])


class Template:
    """Stands for a judgement template: all that the model does with one is to let it write itself."""

    def save(self, directory: Path) -> None:
        (directory / "judgement.json").write_text('{"template": "{prompt}{answer}"}')


def padded(fill: int = 0, width: int = 9) -> torch.Tensor:
    return torch.tensor([text + [fill] * (width - len(text)) for text in TEXTS])


def alone(path: str | Path) -> list[float]:
    """The oracle: transformers' own classifier, from the directory, on one text at a time without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([text])).logits.item() for text in TEXTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """From the start, and again from what was saved after the weights have changed."""
    path = tiny_reward_model(tmp_path / "start", family=family)
    model = make_reward_model(load_classifier(path))
    scores = model.scores(padded(), LENGTHS)
    assert scores.tolist() == pytest.approx(alone(path), abs=1e-4)
    assert scores.std() > 0.1
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.mul_(1.1)
    model.save(tmp_path / "end", AutoTokenizer.from_pretrained(path), Template())
    changed = model.scores(padded(), LENGTHS)
    assert changed.tolist() == pytest.approx(alone(tmp_path / "end"), abs=1e-4)
    assert not torch.allclose(changed, scores, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_behind_a_text_is_not_read(tmp_path: Path, family: str) -> None:
    model = make_reward_model(load_classifier(tiny_reward_model(tmp_path, family=family)))
    expected = model.scores(padded(), LENGTHS)
    assert torch.allclose(model.scores(padded(fill=100, width=20), LENGTHS), expected, atol=1e-5)
    each = [model.scores(torch.tensor([text]), torch.tensor([len(text)])) for text in TEXTS]
    assert torch.allclose(torch.cat(each), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_score_is_that_of_the_text_up_to_there(tmp_path: Path, family: str) -> None:
    model = make_reward_model(load_classifier(tiny_reward_model(tmp_path, family=family)))
    tokens = model.token_scores(padded(), LENGTHS)
    assert tokens.shape == (4, 9)
    for row, text in enumerate(TEXTS):
        begins = [model.scores(torch.tensor([text[:n]]), torch.tensor([n])).item() for n in range(1, len(text) + 1)]
        assert tokens[row].tolist() == pytest.approx(begins + [0.0] * (9 - len(text)), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_gets_a_new_head(tmp_path: Path, family: str) -> None:
    """Normal, of variance 1 / (d + 1); the seed decides, torch's global random state neither matters nor changes."""
    path = tiny_causal_lm(tmp_path, family=family)
    state = torch.get_rng_state()
    classifier = load_classifier(path, seed=3)
    torch.manual_seed(11)
    again = load_classifier(path, seed=3)
    assert torch.equal(classifier.score.weight, again.score.weight)
    assert not torch.equal(classifier.score.weight, load_classifier(path, seed=4).score.weight)
    torch.set_rng_state(state)
    weight = classifier.score.weight
    assert weight.shape == (1, 32)
    assert float(weight.detach().std(correction=0)) == pytest.approx(33**-0.5, rel=0.4)
    assert make_reward_model(classifier).scores(padded(), LENGTHS).isfinite().all()


def test_the_new_head_has_the_papers_spread() -> None:
    """Over many draws: 1 / sqrt(d + 1), which is not sqrt(d) nor 1 / (d + 1), unless another one is asked for."""
    from clearppo.models.reward_model import _new_head

    head = torch.nn.Linear(31, 4000)
    _new_head(head, 0.02, 0)
    assert float(head.weight.detach().std()) == pytest.approx(0.02, rel=0.01)
    _new_head(head, None, 0)
    assert float(head.weight.detach().std()) == pytest.approx(32**-0.5, rel=0.01)
    assert not head.bias.any()


def test_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path)
    expected = AutoModelForSequenceClassification.from_pretrained(path).score.weight
    assert torch.equal(load_classifier(path, seed=5).score.weight, expected)


def test_what_it_is_on_the_hub_shows_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no config.json to look into before: `architecture_of` says None."""
    monkeypatch.setattr("clearppo.models.reward_model.architecture_of", lambda _: None)
    monkeypatch.setattr("clearppo.models.loading.architecture_of", lambda _: None)
    path = tiny_reward_model(tmp_path / "rm")
    expected = AutoModelForSequenceClassification.from_pretrained(path).score.weight
    assert torch.equal(load_classifier(path).score.weight, expected)
    with pytest.raises(ModelError, match=r"is a reward model .LlamaForSequenceClassification., not a language model"):
        load_causal_lm(path)
    start = tiny_causal_lm(tmp_path / "lm")
    assert load_causal_lm(start)
    assert load_classifier(start, seed=1).score.weight.shape == (1, 32)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_adapters_learn_and_are_merged_when_saved(tmp_path: Path, family: str) -> None:
    path = tiny_causal_lm(tmp_path / "start", family=family)
    lora = Lora(r=2, alpha=4, target_modules="all-linear")
    model = make_reward_model(load_classifier(path), lora=lora)
    plain = make_reward_model(load_classifier(path)).scores(padded(), LENGTHS)
    assert torch.allclose(model.scores(padded(), LENGTHS), plain, atol=1e-5)  # adapters start at 0
    names = [name for name, _ in model.trainable()]
    assert [name for name in names if "lora_" not in name] == ["model.base_model.model.score.weight"]
    assert any("lora_A" in name for name in names)
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.add_(0.05)
    model.save(tmp_path / "end", AutoTokenizer.from_pretrained(path), Template())
    scores = model.scores(padded(), LENGTHS)
    assert scores.tolist() == pytest.approx(alone(tmp_path / "end"), abs=1e-4)
    assert not torch.allclose(scores, plain, atol=1e-2)
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end")
    assert not any("lora" in name for name, _ in saved.named_parameters())


def test_what_is_saved(tmp_path: Path) -> None:
    """Also of a tokenizer without a padding token: the config gets one, or no one could score a batch."""
    path = tiny_causal_lm(tmp_path / "start", tokenizer=tiny_tokenizer(pad=None))
    tokenizer = AutoTokenizer.from_pretrained(path)
    make_reward_model(load_classifier(path)).save(tmp_path / "end", tokenizer, Template())
    config = json.loads((tmp_path / "end" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] == tokenizer.unk_token_id
    assert tokenizer.pad_token_id is None  # the caller's tokenizer is left as it was
    assert "judgement.json" in {entry.name for entry in (tmp_path / "end").iterdir()}
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end", output_loading_info=True)
    assert loaded.config.num_labels == 1
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "end").get_vocab() == tokenizer.get_vocab()


def test_texts_that_end_in_the_padding_token(tmp_path: Path) -> None:
    """Where padding is the EOS and texts end in it, transformers would look before the end: alone and in a batch."""
    path = tiny_causal_lm(tmp_path / "start", tokenizer=tiny_tokenizer(adds_eos=True))
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    model = make_reward_model(load_classifier(path))
    model.save(tmp_path / "end", tokenizer, Template())
    read = ["The film was a delight.", "I think that", "A dog"]
    ids = [tokenizer(text)["input_ids"] for text in read]
    assert all(row[-1] == tokenizer.eos_token_id for row in ids)
    ours = [model.scores(torch.tensor([row]), torch.tensor([len(row)])).item() for row in ids]
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "end")(read, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert theirs(**batch).logits[:, 0].tolist() == pytest.approx(ours, abs=1e-4)
        alone = [theirs(input_ids=torch.tensor([row])).logits.item() for row in ids]
        assert alone == pytest.approx(ours, abs=1e-4)
        theirs.config.pad_token_id = tokenizer.eos_token_id
        assert theirs(**batch).logits[:, 0].tolist() != pytest.approx(ours, abs=1e-2)


def test_a_tokenizer_with_no_other_special_token(tmp_path: Path) -> None:
    """As GPT-2's: then the EOS pads."""
    path = tiny_causal_lm(tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.unk_token = None
    make_reward_model(load_classifier(path)).save(tmp_path / "end", tokenizer, Template())
    assert json.loads((tmp_path / "end" / "config.json").read_text())["pad_token_id"] == tokenizer.eos_token_id


def test_the_head_computes_in_float32_also_in_bfloat16(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path / "start")
    exact = make_reward_model(load_classifier(path)).scores(padded(), LENGTHS)
    half = make_reward_model(load_classifier(path, dtype=torch.bfloat16))
    mixed = make_reward_model(load_classifier(path), autocast=True)
    assert half.head.weight.dtype == torch.float32
    for model in (half, mixed):
        scores = model.scores(padded(), LENGTHS)
        assert scores.dtype == torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())
        assert not torch.equal(scores, exact)  # the backbone did not
        assert torch.allclose(scores, exact, atol=0.3)
        assert model.token_scores(padded(), LENGTHS).dtype == torch.float32
        model.scores(padded(), LENGTHS).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for _, parameter in model.trainable()
                   if "embed" not in _)  # fmt: skip
    double = make_reward_model(load_classifier(path, dtype=torch.float64))
    assert double.scores(padded(), LENGTHS).dtype == torch.float64
    half.save(tmp_path / "half", AutoTokenizer.from_pretrained(path), Template())
    weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert torch.equal(weights.score.weight, half.head.weight)  # the head is not rounded when saved


@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4, target_modules="all-linear")])
def test_checkpointed_gradients_are_the_same(tmp_path: Path, lora: Lora | None) -> None:
    path = tiny_reward_model(tmp_path)

    def gradients(checkpoint: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # of the adapters
        model = make_reward_model(load_classifier(path), lora=lora, gradient_checkpointing=checkpoint)
        assert _checkpoints(model) is checkpoint
        model.train()
        model.scores(padded(), LENGTHS).square().sum().backward()
        return {name: p.grad for name, p in model.trainable() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert len(plain) > 2
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def _checkpoints(model: RewardModel) -> bool:
    return any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def test_dropout_is_off(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path, family="gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model = make_reward_model(load_classifier(path)).train()
    assert torch.equal(model.scores(padded(), LENGTHS), model.scores(padded(), LENGTHS))


# --------------------------------------------------------------------------------------------- what is refused


def refused(path: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_classifier(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_what_cannot_become_a_reward_model(tmp_path: Path) -> None:
    assert "num_labels = 3; a reward model has one output" in refused(tiny_reward_model(tmp_path / "3", num_labels=3))
    assert "there is none" in refused("nobody/nothing") or "cannot load nobody/nothing" in refused("nobody/nothing")
    config = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    assert "no linear `score` layer over a decoder" in refused(tmp_path / "bert")


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path / "claims")
    file = Path(path) / "config.json"
    config = json.loads(file.read_text())
    labels = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "0"}, "label2id": {"0": 0}}
    file.write_text(json.dumps({**config, **labels}))
    assert "lacks the weights score.weight" in refused(path)
    path = tiny_causal_lm(tmp_path / "deeper")
    file = Path(path) / "config.json"
    config = {**json.loads(file.read_text()), "num_hidden_layers": 3}
    config.pop("layer_types", None)
    file.write_text(json.dumps(config))
    assert "lacks the weights model.layers.2." in refused(path)


def test_adapters_on_layers_that_are_not_there(tmp_path: Path) -> None:
    classifier = load_classifier(tiny_causal_lm(tmp_path))
    with pytest.raises(ModelError, match=r"lora_target_modules = \['wrong'\] cannot be used"):
        make_reward_model(classifier, lora=Lora(r=2, alpha=4, target_modules=["wrong"]))
