"""Reference samples: what a reward model reads of demonstrations."""

import pytest

from clearppo.data.demonstration_formats import Demonstration
from clearppo.data.judgement import JudgementTemplate
from clearppo.data.references import encode_references
from clearppo.errors import DataError
from tests.tiny import tiny_tokenizer

TEMPLATE = JudgementTemplate("{conversation} Mark:")
USER, ASSISTANT = {"role": "user", "content": "Film?"}, {"role": "assistant", "content": "Good."}


def sample(prompt, completion, where: str = "line 3") -> Demonstration:
    return Demonstration(prompt=prompt, completion=completion, where=where)


def read(*samples: Demonstration, max_length: int | None = None) -> list[list[int]]:
    return encode_references(samples, tiny_tokenizer(), TEMPLATE, max_length=max_length, source="refs.jsonl")


def test_strings_and_messages_are_read_through_the_template() -> None:
    texts = read(
        sample("The film was", " good"), sample([USER], [ASSISTANT]), sample([], [USER, ASSISTANT]), sample("", "Good.")
    )
    decoded = [tiny_tokenizer().decode(ids) for ids in texts]
    assert decoded[0] == "The film was good Mark:"
    assert decoded[1] == decoded[2] == "<|user|>\nFilm?<eos>\n<|assistant|>\nGood.<eos>\n Mark:"
    assert decoded[3] == "Good. Mark:"


def test_long_ones_are_left_out_and_two_must_stay() -> None:
    short = [sample("a", " b"), sample("c", " d")]
    limit = max(map(len, read(*short)))
    assert len(read(*short, sample("The film was", " good" * 50), max_length=limit)) == 2
    with pytest.raises(DataError, match=r"refs\.jsonl leaves 1 reference samples .*--reference_dataset_name"):
        read(short[0], sample("The film was", " good" * 50), max_length=limit)


def test_what_is_no_answer_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"refs\.jsonl line 3: the last message is the user's"):
        read(sample([], [ASSISTANT, USER]), sample("a", "b"))
    with pytest.raises(DataError, match=r"refs\.jsonl line 3 cannot be read.*chat template"):
        encode_references(
            [sample([USER], [ASSISTANT])], tiny_tokenizer(chat=False), TEMPLATE, max_length=None, source="refs.jsonl"
        )
