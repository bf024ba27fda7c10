"""Each token's own piece of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clearppo.train.pieces import Pieces
from tests.tiny import EOS, tiny_tokenizer


def of_bytes() -> PreTrainedTokenizerFast:
    """Byte-level, as GPT-2's and Llama 3's: every byte is a token, and 中 is one with the half of another character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate([*letters, "Ġa", "ä¸Ń", "ä¸Ńä"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def of_sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: a word begins with ▁, which a text's first word loses, and unknown characters are bytes."""
    words = ["<unk>", "a", "▁a", "▁film", "s", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False)


BYTES, SENTENCEPIECE = of_bytes(), of_sentencepiece()


def ids(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(tokens))


def test_pieces_keep_spaces_and_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    text = f" The film{EOS} was\n\n.{EOS}"
    pieces = Pieces(tokenizer)(tokenizer(text)["input_ids"])
    assert "".join(pieces) == text
    assert pieces.count(EOS) == 2
    assert all(pieces)


def test_a_character_of_several_tokens_stands_at_its_last_one() -> None:
    assert Pieces(BYTES)(BYTES("é👍a")["input_ids"]) == ["", "é", "", "", "", "👍", "a"]


def test_a_token_may_end_one_character_and_begin_another() -> None:
    given = ids(BYTES, "Ġa", "ä¸Ńä", "½", "ł")
    assert BYTES.decode(given) == " a中你"
    assert Pieces(BYTES)(given) == [" a", "中", "", "你"]


def test_what_is_no_character_is_shown_as_such() -> None:
    half = ids(BYTES, "a")[0], *ids(BYTES, "ä", "½")
    assert "".join(Pieces(BYTES)(half)) == BYTES.decode(half) == "a\ufffd"
    assert Pieces(BYTES)([*half, half[0]]) == ["a", "", "\ufffd", "a"]


def test_a_first_word_keeps_its_space() -> None:
    given = ids(SENTENCEPIECE, "▁film", "s", "▁a", "<0xC3>", "<0xA9>")
    assert SENTENCEPIECE.decode(given) == "films aé"
    assert Pieces(SENTENCEPIECE)(given) == [" film", "s", " a", "", "é"]


@pytest.mark.parametrize("tokenizer", [BYTES, tiny_tokenizer()], ids=["bytes", "tiny"])
@given(text=st.text(max_size=20))
def test_joined_they_are_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    given = tokenizer(text)["input_ids"]
    pieces = Pieces(tokenizer)(given)
    assert len(pieces) == len(given)
    assert "".join(pieces) == tokenizer.decode(given)


@given(given=st.lists(st.integers(0, len(BYTES) - 1), max_size=30))
def test_joined_they_are_the_text_of_any_tokens(given: list[int]) -> None:
    pieces = Pieces(BYTES)(given)
    assert len(pieces) == len(given)
    assert "".join(pieces) == BYTES.decode(given)
