"""What a reward model reads: placeholders, special tokens, and the file beside the model."""

import json
from pathlib import Path

import pytest

from clearppo.data import DEFAULT_TEMPLATE, JudgementTemplate
from clearppo.errors import ConfigError, ModelError
from tests.tiny import tiny_tokenizer

ASKED = [{"role": "user", "content": "What is it?"}]
CHAT = "<|user|>\nWhat is it?<eos>\n<|assistant|>\nA dog.<eos>\n"


def reads(text: str, prompt: object = "The film was", answer: str = " good", **options: bool) -> str:
    tokenizer = tiny_tokenizer(**options)
    return tokenizer.decode(JudgementTemplate(text).ids(tokenizer, prompt, answer))


def test_strings_need_no_chat_template() -> None:
    assert reads(DEFAULT_TEMPLATE, chat=False) == "The film was good\n\nOverall, the answer above is"
    assert JudgementTemplate().text == DEFAULT_TEMPLATE
    assert reads("Q:{prompt} A:{answer}!") == "Q:The film was A: good!"
    assert reads("{answer}") == " good"


def test_messages_go_through_the_chat_template() -> None:
    assert reads("{conversation}\n\nIt is", ASKED, "A dog.") == f"{CHAT}\n\nIt is"
    started = [*ASKED, {"role": "assistant", "content": "A "}]
    assert reads("{conversation}", started, "dog.") == CHAT
    assert reads("{prompt}|{answer}", ASKED, "A dog.", chat=False) == "What is it?|A dog."
    two = [{"role": "system", "content": "Be kind."}, *ASKED]
    assert reads("{prompt}|{answer}", two, "A dog.") == "system: Be kind.\n\nuser: What is it?|A dog."


def test_inserted_texts_are_no_templates() -> None:
    assert reads("{prompt}{answer}", "{answer}", "{prompt}{eos}") == "{answer}{prompt}{eos}"


@pytest.mark.parametrize("adds_eos", [False, True])
def test_one_bos_and_no_eos_but_the_written_one(adds_eos: bool) -> None:
    assert reads("{conversation} is", bos=True, adds_eos=adds_eos) == "<bos>The film was good is"
    assert reads("<bos>{conversation} is", bos=True, adds_eos=adds_eos) == "<bos>The film was good is"
    assert reads("{conversation}{eos}", bos=True, adds_eos=adds_eos) == "<bos>The film was good<eos>"


def test_the_chat_template_says_whether_there_is_a_bos() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    plain = JudgementTemplate("{conversation} is").ids(tokenizer, ASKED, "A dog.")
    assert tokenizer.decode(plain) == f"{CHAT} is"
    tokenizer.chat_template = "<bos>" + tokenizer.chat_template
    assert JudgementTemplate("{conversation} is").ids(tokenizer, ASKED, "A dog.") == [tokenizer.bos_token_id, *plain]
    late = tokenizer.decode(JudgementTemplate("Read: {conversation}").ids(tokenizer, ASKED, "A dog."))
    assert late == f"<bos>Read: {CHAT}"


def test_what_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        JudgementTemplate().ids(tiny_tokenizer(chat=False), ASKED, "x")
    with pytest.raises(ValueError, match=r"no end-of-text token for \{eos\}"):
        JudgementTemplate("{answer}{eos}").ids(tiny_tokenizer(eos=None), "a", "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither {conversation} nor {answer}"),
        ("{prompt} is", "neither {conversation} nor {answer}"),
        ("{answer} {reply}", "{reply}, which is unknown"),
        ("{answer} {}", "{} without a name"),
        ("{Answer}", "{Answer}, which is unknown"),
        ("{answer} is { answer }", "{ answer }, which is nearly a placeholder"),
        ("{answer} is {answer!r}", "{answer!r}, which is nearly a placeholder"),
    ],
)
def test_templates_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        JudgementTemplate(text)
    assert problem in str(caught.value)
    assert "--judgement_template" in str(caught.value)


def test_saved_and_loaded(tmp_path: Path) -> None:
    assert JudgementTemplate.load(tmp_path) is None
    template = JudgementTemplate('»{conversation}«\n\n"It" is')
    template.save(tmp_path)
    assert JudgementTemplate.load(tmp_path) == template
    assert json.loads((tmp_path / "judgement.json").read_text("utf-8")) == {"version": 1, "template": template.text}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no template"),
        ('{"version": 1}', "holds no template"),
        ('{"version": 1, "template": 3}', "holds no template"),
        ('{"version": 2, "template": "{answer}"}', "has version 2"),
        ('{"version": 1, "template": "{x}"}', "{x}, which is unknown"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "judgement.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        JudgementTemplate.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "judgement.json"))
    assert problem in str(caught.value)
