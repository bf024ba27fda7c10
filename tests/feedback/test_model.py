"""A reward model as a scorer: the right token of the right text, whatever the padding; and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from clearppo.batch import Rollout
from clearppo.data.files import brief
from clearppo.data.judgement import JudgementTemplate
from clearppo.errors import ModelError, RewardError
from clearppo.feedback.model import RewardModelScorer
from clearppo.learning.reward import score_texts
from clearppo.models.reward_model import RewardModel, load_classifier, make_reward_model
from tests.tiny import FAMILIES, tiny_causal_lm, tiny_reward_model, tiny_rollout, tiny_tokenizer

CPU = torch.device("cpu")
USER = {"role": "user", "content": "What is it?"}
TEXTS = [
    "The film",
    "I think that the music and the people",
    "A",
    [USER],
    [USER, {"role": "assistant", "content": "A"}],
]
ANSWERS = [" was a delight.", "", " dog that is here, and a very happy one!", "It is a dog.", " dog."]
READ = [
    "The film was a delight.",
    "I think that the music and the people",
    "A dog that is here, and a very happy one!",
    "<|user|>\nWhat is it?<eos>\n<|assistant|>\nIt is a dog.<eos>\n",
    "<|user|>\nWhat is it?<eos>\n<|assistant|>\nA dog.<eos>\n",
]


def load(path: str, **options: Any) -> RewardModelScorer:
    given = {"device": CPU, "dtype": torch.float32, "batch_size": 2, **options}
    return RewardModelScorer.load(path, **given)


def rollout(texts: list[Any] = TEXTS, answers: list[str] = ANSWERS) -> Rollout:
    return tiny_rollout(texts, answers)


def alone(path: str, text: str) -> float:
    """The oracle: transformers' own classifier on one text without padding, at its last token."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    model.config.pad_token_id = None  # then its forward reads the last position
    ids = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits.item()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_read_at_the_last_token(tmp_path: Path, family: str) -> None:
    """Also where that token is an EOS that is the padding token as well."""
    for adds_eos in (False, True):
        path = tiny_reward_model(tmp_path / str(adds_eos), family=family, tokenizer=tiny_tokenizer(adds_eos=adds_eos))
        scores = load(path)(rollout(TEXTS[:3], ANSWERS[:3])).total
        assert scores.tolist() == pytest.approx([alone(path, text) for text in READ[:3]], abs=1e-4)
        assert scores.std() > 0.1


def test_a_search_for_padding_would_read_another_token(tmp_path: Path) -> None:
    """That is: the test above can fail."""
    path = tiny_reward_model(tmp_path, tokenizer=tiny_tokenizer(adds_eos=True))
    tokenizer = AutoTokenizer.from_pretrained(path)
    batch = tokenizer(READ[:3], padding=True, return_tensors="pt")
    searched = AutoModelForSequenceClassification.from_pretrained(path)(**batch).logits[:, 0]
    ours = load(path)(rollout(TEXTS[:3], ANSWERS[:3])).total
    assert ((searched - ours).abs() > 1e-2).all()


def test_it_reads_the_text_in_its_own_template(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(adds_eos=False, vocab_size=150)
    path = tiny_reward_model(tmp_path, tokenizer=tokenizer)
    scores = load(path)(rollout()).total
    assert scores.tolist() == pytest.approx([alone(path, text) for text in READ], abs=1e-4)


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("Q: {prompt} A: {answer} Is it good?", ["Q: The film A:  was a delight. Is it good?",
         "Q: What is it? A: It is a dog. Is it good?"]),
        ("{conversation} Is it good?", ["The film was a delight. Is it good?",
         "<|user|>\nWhat is it?<eos>\n<|assistant|>\nIt is a dog.<eos>\n Is it good?"]),
    ],
)  # fmt: skip
def test_it_reads_through_its_judgement_template(tmp_path: Path, template: str, read: list[str]) -> None:
    path = tiny_reward_model(tmp_path)
    asked = rollout([TEXTS[0], TEXTS[3]], [ANSWERS[0], ANSWERS[3]])
    plain = load(path)(asked).total
    JudgementTemplate(template).save(path)
    scores = load(path)(asked).total
    assert scores.tolist() == pytest.approx([alone(path, text) for text in read], abs=1e-4)
    assert ((scores - plain).abs() > 1e-3).all()


def test_messages_without_a_chat_template_under_a_template_that_needs_none(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path, tokenizer=tiny_tokenizer(chat=False))
    JudgementTemplate("{prompt} {answer}").save(path)
    scores = load(path)(rollout([[USER]], ["It is a dog."])).total
    assert scores.tolist() == pytest.approx([alone(path, "What is it? It is a dog.")], abs=1e-4)
    JudgementTemplate("{conversation}").save(path)
    assert "has no chat template, and the prompts are messages" in refused(path)


def test_a_judgement_template_that_is_broken(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path)
    (tmp_path / "judgement.json").write_text("nonsense")
    assert "judgement.json cannot be read as JSON" in refused(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_reward_model_scores_as_it_was_trained(tmp_path: Path, family: str) -> None:
    """From a language model to a reward model's directory to a scorer: the same number in all three."""
    start = tiny_causal_lm(tmp_path / "start", family=family)
    tokenizer, template = AutoTokenizer.from_pretrained(start), JudgementTemplate()
    model = make_reward_model(load_classifier(start))
    model.save(tmp_path / "end", tokenizer, template)
    scores = load(str(tmp_path / "end"))(rollout()).total
    texts = [template.ids(tokenizer, prompt, answer) for prompt, answer in zip(TEXTS, ANSWERS, strict=True)]
    assert scores.tolist() == pytest.approx(score_texts(model, texts, micro_batch_size=2).tolist(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_batch_size_nor_order_changes_a_score(tmp_path: Path, family: str) -> None:
    path = tiny_reward_model(tmp_path, family=family)
    reference = load(path, batch_size=1)(rollout()).total
    backwards = rollout(TEXTS[::-1], ANSWERS[::-1])
    for batch_size in (2, 3, 64):
        scorer = load(path, batch_size=batch_size)
        assert torch.allclose(scorer(rollout()).total, reference, atol=1e-4)
        assert torch.allclose(scorer(backwards).total.flip(0), reference, atol=1e-4)


def test_neither_does_a_token_budget(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path)
    reference = load(path)(rollout()).total
    for tokens in (1, 20, 10**6):
        scorer = load(path, batch_size=64, batch_tokens=tokens)
        assert torch.allclose(scorer(rollout()).total, reference, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_autocast_scores_are_those_of_the_exact_weights_in_autocast(tmp_path: Path, family: str) -> None:
    """To the bit, though the linear layers are bfloat16 beforehand; and near those in float32."""
    path = tiny_reward_model(tmp_path, family=family)
    scorer, plain = load(path, autocast=True, batch_size=64), load(path, batch_size=64)
    scores = scorer(rollout()).total
    kinds = {parameter.dtype for parameter in scorer.model.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}
    ids = plain.encoded(rollout().prompts.texts, rollout().completions)
    exact = RewardModel(load_classifier(path), autocast=True)
    assert torch.equal(scores, score_texts(exact, ids, micro_batch_size=64))
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())  # the head computed in float32
    difference = (scores - plain(rollout()).total).abs()
    assert 0 < float(difference.max()) < 0.5


def test_an_encoder_stays_in_its_own_precision(tmp_path: Path) -> None:
    path = bert(tmp_path)
    scores = load(path, autocast=True, batch_size=64)(rollout()).total
    assert torch.equal(scores, load(path, batch_size=64)(rollout()).total)


def bert(path: Path) -> str:
    """An encoder: it pools in its own way, so it is called whole."""
    tokenizer = tiny_tokenizer(pad="<pad>")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = BertConfig(
        vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, initializer_range=0.3, **sizes
    )
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_encoders(tmp_path: Path) -> None:
    path = bert(tmp_path)
    expected = [alone(path, text) for text in READ]
    for batch_size in (1, 64):
        assert load(path, batch_size=batch_size)(rollout()).total.tolist() == pytest.approx(expected, abs=1e-4)


def test_it_is_frozen_and_without_dropout(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path, family="gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    scorer = load(path)
    scorer.model.train()
    scorer = RewardModelScorer(scorer.model, scorer.tokenizer)
    scores = scorer(rollout()).total
    assert torch.equal(scores, scorer(rollout()).total)
    assert not scores.requires_grad
    assert not scores.is_inference()  # it goes into a loss later, which an inference tensor may not
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())


def test_scores_are_float32_also_in_bfloat16(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path / "my-model")
    scorer = load(path, dtype=torch.bfloat16)
    assert next(scorer.model.parameters()).dtype == torch.bfloat16
    scores = scorer(rollout())
    assert scores.total.dtype == torch.float32
    assert tuple(scores.parts) == scorer.names == ("my-model",)
    assert not torch.equal(scores.total, scores.total.bfloat16().float())  # the head computed in float32
    assert torch.allclose(scores.total, load(path)(rollout()).total, atol=0.3)


def test_padding_falls_back_to_eos(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path / "a", tokenizer=tiny_tokenizer(pad=None))
    scorer = load(path, batch_size=64)
    assert scorer.tokenizer.pad_token_id is None
    assert torch.allclose(scorer(rollout()).total, load(path, batch_size=1)(rollout()).total, atol=1e-4)
    neither = tiny_reward_model(tmp_path / "b", tokenizer=tiny_tokenizer(pad=None, eos=None))
    assert "neither a padding token nor an end-of-sequence token" in refused(neither)


# --------------------------------------------------------------------------------------------- what is refused


def refused(path: str, kind: type[Exception] = ModelError, asked: Rollout | None = None) -> str:
    with pytest.raises(kind) as caught:
        load(path)(asked or rollout())
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_what_is_no_reward_model(tmp_path: Path) -> None:
    message = refused(tiny_causal_lm(tmp_path / "lm"))
    assert f"{tmp_path / 'lm'} is a LlamaForCausalLM, not a reward model" in message
    assert "--reward_model_path" in message
    assert "num_labels = 3; a reward model has one output" in refused(tiny_reward_model(tmp_path / "3", num_labels=3))
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(str(tmp_path / "empty"))
    assert "is a file" in refused(str(tmp_path / "lm" / "config.json"))


def test_models_that_are_missing(tmp_path: Path) -> None:
    for path in (str(tmp_path / "no"), "./no", "no/such/model", ""):
        assert f"there is no reward model directory {path!r}" in refused(path)
    message = refused("someone/reward-model")
    assert "Tried: a local directory (there is none of that name); the Hugging Face hub (" in message


def edit_config(path: str, **changes: Any) -> None:
    file = Path(path) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in {**config, **changes}.items() if value is not None}))


def test_a_random_score_head(tmp_path: Path) -> None:
    """A language model whose config claims to be a reward model, or says nothing about it."""
    for name, architectures in (("claims", ["LlamaForSequenceClassification"]), ("silent", None)):
        path = tiny_causal_lm(tmp_path / name)
        edit_config(path, architectures=architectures, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
        assert "lacks the weights score.weight: its scores would be random" in refused(path)


def test_broken_directories(tmp_path: Path) -> None:
    for name, file, what in (
        ("weights", "model.safetensors", "weights"),
        ("config", "config.json", "config"),
        ("tokenizer", "tokenizer.json", "tokenizer"),
    ):
        path = tiny_reward_model(tmp_path / name)
        (Path(path) / file).write_bytes(b"nonsense")
        assert f"cannot load the {what} of the reward model in {path}" in refused(path)
    for name, pattern, what in (("no weights", "*.safetensors", "weights"), ("no tokenizer", "token*", "tokenizer")):
        path = tiny_reward_model(tmp_path / name)
        for file in Path(path).glob(pattern):
            file.unlink()
        assert f"cannot load the {what} of the reward model in {path}" in refused(path)


def test_texts_are_never_cut(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path, family="gpt2", context=20)
    fits = rollout(["z" * 12], ["z" * 8])
    assert load(path)(fits).total.tolist() == pytest.approx([alone(path, "z" * 20)], abs=1e-4)
    message = refused(path, RewardError, rollout(["z", "z" * 12], ["z", "z" * 9]))
    assert 'reads at most 20 tokens, and row 2 ("zzzzzzzzzzzz") has 21 with its answer' in message
    assert "--response_length" in message


def test_chat_templates_that_are_missing_or_refuse(tmp_path: Path) -> None:
    without = tiny_reward_model(tmp_path / "without", tokenizer=tiny_tokenizer(chat=False))
    assert "has no chat template, and the prompts are messages" in refused(without)
    assert load(without)(rollout(TEXTS[:3], ANSWERS[:3])).total.isfinite().all()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    refuses = tiny_reward_model(tmp_path / "refuses", tokenizer=tokenizer)
    message = refused(refuses, RewardError)
    assert 'cannot read row 4 ("What is it?"): the chat template refuses its messages (no system messages)' in message


def test_scores_that_are_not_finite(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path)
    scorer = load(path)
    scorer.model.score.weight.data.fill_(torch.nan)
    with pytest.raises(RewardError, match=r'gave nan for rows 1 \("The film"\), 2'):
        scorer(rollout())


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    path = tiny_reward_model(tmp_path, vocab_size=60)
    message = refused(path)
    assert "the model knows 60 tokens" in message
    assert brief(ValueError(message), 1000) + "." == message


def test_a_text_without_tokens(tmp_path: Path) -> None:
    scorer = load(tiny_reward_model(tmp_path))
    scorer.tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Strip()
    with pytest.raises(RewardError, match=r'row 2 \(""\) encodes to no token'):
        scorer(rollout(["a", " "], ["b", "  "]))
