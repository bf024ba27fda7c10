"""From text to tokens: what stands around a prompt, and where an answer begins."""

import pytest

from clearppo.data.templates import answer_ids, prompt_ids
from tests.tiny import tiny_tokenizer

USER = {"role": "user", "content": "What is it?"}
STARTED = {"role": "assistant", "content": "It is a"}


def test_strings_are_tokenised_as_they_stand() -> None:
    tokenizer = tiny_tokenizer()
    text = " The film,\n was"
    assert tokenizer.decode(prompt_ids(tokenizer, text)) == text


@pytest.mark.parametrize("bos", [False, True])
def test_the_tokenizers_own_eos_is_no_part_of_a_prompt(bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos=bos, adds_eos=True)
    before = "<bos>" if bos else ""
    assert tokenizer.decode(tokenizer("The film")["input_ids"]) == f"{before}The film<eos>"
    assert tokenizer.decode(prompt_ids(tokenizer, "The film")) == f"{before}The film"
    assert tokenizer.decode(answer_ids(tokenizer, "The film", " was")) == f"{before}The film was<eos>"


def test_an_eos_that_the_user_wrote_stays() -> None:
    for adds_eos in (False, True):
        tokenizer = tiny_tokenizer(adds_eos=adds_eos)
        assert tokenizer.decode(prompt_ids(tokenizer, "A<eos>")) == "A<eos>"
        assert prompt_ids(tokenizer, "<eos>") == [tokenizer.eos_token_id]


def test_messages_get_a_generation_prompt() -> None:
    tokenizer = tiny_tokenizer()
    ids = prompt_ids(tokenizer, [{"role": "system", "content": "Be kind."}, USER])
    expected = "<|system|>\nBe kind.<eos>\n<|user|>\nWhat is it?<eos>\n<|assistant|>\n"
    assert tokenizer.decode(ids) == expected


def test_a_started_answer_is_continued() -> None:
    tokenizer = tiny_tokenizer()
    expected = "<|user|>\nWhat is it?<eos>\n<|assistant|>\nIt is a"
    assert tokenizer.decode(prompt_ids(tokenizer, [USER, STARTED])) == expected
    assert tokenizer.decode(answer_ids(tokenizer, [USER, STARTED], " dog.")) == f"{expected} dog.<eos>\n"
    assert STARTED["content"] == "It is a"


def test_an_answer_becomes_the_assistants_message() -> None:
    tokenizer = tiny_tokenizer()
    expected = "<|user|>\nWhat is it?<eos>\n<|assistant|>\nA dog.<eos>\n"
    assert tokenizer.decode(answer_ids(tokenizer, [USER], "A dog.")) == expected


def test_a_bos_stands_once_only() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = "<bos>" + (tokenizer.chat_template or "")
    assert prompt_ids(tokenizer, [USER]).count(tokenizer.bos_token_id) == 1


def test_templates_that_are_missing_or_refuse() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        prompt_ids(tiny_tokenizer(chat=False), [USER])
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('No system, please.') }}"
    with pytest.raises(ValueError, match=r"refuses its messages \(No system, please\)"):
        prompt_ids(tokenizer, [USER])
