"""Demonstrations: every format, which tokens are learned, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clearppo.data
from clearppo.data import (
    Demonstration,
    SequenceSet,
    encode_demonstrations,
    load_demonstrations,
    split_demonstrations,
)
from clearppo.data.templates import prompt_ids
from clearppo.errors import ConfigError, DataError
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
USER, SAID = {"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}


def file_of(folder: Path, rows: list[Any]) -> str:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def loaded(folder: Path, *rows: Any) -> list[tuple[Any, Any]]:
    return [(row.prompt, row.completion) for row in load_demonstrations(file_of(folder, list(rows)))]


def encoded(prompt: Any, completion: Any, tokenizer: Any = TOKENIZER, **options: Any) -> SequenceSet:
    row = Demonstration(prompt=prompt, completion=completion, where="line 7")
    return encode_demonstrations([row], tokenizer, **{"max_length": None, "source": "d.jsonl", **options})


def learned(prompt: Any, completion: Any, tokenizer: Any = TOKENIZER, **options: Any) -> tuple[str, list[str]]:
    """The whole text, and the stretches of it that are learned."""
    one = encoded(prompt, completion, tokenizer, **options)
    stretches: list[list[int]] = []
    before = False
    for token, taught in zip(one.ids[0], one.loss_masks[0], strict=True):
        if taught and not before:
            stretches.append([])
        if taught:
            stretches[-1].append(token)
        before = taught
    return tokenizer.decode(list(one.ids[0])), [tokenizer.decode(ids) for ids in stretches]


# --------------------------------------------------------------------------------------------- formats


def test_formats(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], tuple[Any, Any]]] = [
        ({"text": "A film."}, ("", "A film.")),
        ({"prompt": "The film", "completion": " was", "topic": 1, "text": "x"}, ("The film", " was")),
        ({"prompt": [USER], "completion": [SAID]}, ([USER], [SAID])),
        ({"prompt": [USER], "completion": "It is."}, ([USER], [SAID])),
        ({"prompt": "Is it?", "completion": [SAID]}, ([USER], [SAID])),
        ({"messages": [USER, SAID], "prompt": "Is it?"}, ([], [USER, SAID])),
        (
            {"conversations": [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "It is."}]},
            ([], [USER, SAID]),
        ),
        ({"conversations": [USER, SAID]}, ([], [USER, SAID])),
        ({"instruction": "Is it?", "input": "", "output": "It is."}, ([USER], [SAID])),
        (
            {"instruction": "Add.", "input": "1, 2", "output": "It is."},
            ([{"role": "user", "content": "Add.\n\n1, 2"}], [SAID]),
        ),
        ({"input": "The film", "output": " was"}, ("The film", " was")),
        (
            {"subreddit": "cats", "title": "Help", "post": "It sat.", "summary": "Cat sat."},
            ("SUBREDDIT: r/cats\n\nTITLE: Help\n\nPOST: It sat.\n\nTL;DR:", " Cat sat."),
        ),
    ]
    for row, expected in cases:
        assert loaded(tmp_path, row, row) == [expected, expected], row


def test_a_tables_empty_columns_say_nothing(tmp_path: Path) -> None:
    row = {"messages": None, "text": "A film.", "prompt": None, "completion": None}
    assert loaded(tmp_path, row) == [("", "A film.")]


def test_cells_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,completion,n\n1,2,3\n4,5,6\n")
    assert [(row.prompt, row.completion) for row in load_demonstrations(str(path))] == [("1", "2"), ("4", "5")]


def test_the_authored_demonstrations_can_be_read() -> None:
    path = Path(clearppo.data.__file__).parent / "quickstart" / "demonstrations.jsonl"
    rows = load_demonstrations(str(path))
    assert len({row.prompt for row in rows}) == len(rows)
    assert all(isinstance(row.completion, str) and row.completion.startswith(" ") for row in rows)


REFUSED: dict[str, tuple[list[Any], str, str]] = {
    "no format": ([{"query": "a", "x": 1}], "line 1: no demonstration in the columns seen (query, x)", "`messages`"),
    "another format": (
        [{"text": "a"}, {"prompt": "a", "completion": "b"}],
        "line 2: no `text` (columns seen: prompt, completion), and the first row has `text`",
        "same format",
    ),
    "half a row": ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "line 2: no `completion`", "same format"),
    "strings and messages": (
        [{"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": [SAID]}],
        "line 2: its completion is messages, and that of the first row is a string",
        "same format",
    ),
    "no object": ([{"text": "a"}, "b"], "line 2: a string, not an object", "Write"),
    "first is no object": ([["b"]], "line 1: a list, not an object", "Write"),
    "empty text": ([{"text": ""}], "line 1: `text` is an empty string", "remove the row"),
    "blank text": ([{"text": " \n"}], "line 1: `text` is blank", "remove the row"),
    "a number": ([{"text": 3}], "line 1: `text` is a number", "string"),
    "null": ([{"text": None}], "line 1: `text` is nothing (null)", "string"),
    "empty completion": ([{"prompt": "a", "completion": ""}], "line 1: `completion` is an empty string", "remove"),
    "empty prompt": ([{"prompt": "", "completion": "b"}], "line 1: `prompt` is an empty string", "remove"),
    "no messages": ([{"messages": []}], "line 1: `messages` is an empty list", "remove"),
    "messages of text": ([{"messages": "hi"}], "line 1: `messages` is a string", "list of messages"),
    "no assistant": ([{"messages": [USER]}], "none of its messages is the assistant's (roles seen: user)", "remove"),
    "assistant first": ([{"messages": [SAID, USER]}], "its first message is the assistant's", "Put a user's"),
    "says nothing": (
        [{"messages": [USER, {"role": "assistant", "content": " "}]}],
        "line 1, message 2: `content` is blank",
        "remove",
    ),
    "no role": ([{"messages": [{"content": "a"}]}], "line 1, message 1: no `role`", "keys seen: content"),
    "ShareGPT's others": (
        [{"conversations": [{"from": "narrator", "value": "a"}]}],
        "message 1: `from` is 'narrator'; it must be one of",
        "human",
    ),
    "half a character": ([{"text": "a\ud83d"}], r"line 1: \ud83d is half a character", "other half"),
    "two answers to a started one": (
        [{"prompt": [SAID], "completion": [SAID, SAID]}],
        "the completion has 2 messages",
        "Give one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_refused(tmp_path: Path, case: str) -> None:
    rows, problem, mend = REFUSED[case]
    name = file_of(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        load_demonstrations(name)
    message = str(caught.value)
    assert message.startswith(f"{name} line ")
    assert problem in message
    assert mend in message
    assert "\n" not in message


def test_files_that_are_refused_name_the_flag_they_came_by(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*gone\.jsonl.*--eval_dataset_name"):
        load_demonstrations(str(tmp_path / "gone.jsonl"), flag="eval_dataset_name")
    with pytest.raises(DataError, match=r"is a directory, not a file of demonstrations.*--ptx_dataset_name"):
        load_demonstrations(str(tmp_path), flag="ptx_dataset_name")
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(DataError, match=r"holds no demonstrations\. Write one object a line"):
        load_demonstrations(str(tmp_path / "e.jsonl"))
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="line 1: no column `prompt` or"):
        load_demonstrations(str(tmp_path / "d.csv"))
    for split in ("test", "train"):
        with pytest.raises(ConfigError, match=f"dataset_test_split = {split} has no effect"):
            load_demonstrations(file_of(tmp_path, [{"text": "a"}]), split=split, split_flag="dataset_test_split")
    assert load_demonstrations(file_of(tmp_path, [{"text": "a"}]), split=None, split_flag="dataset_test_split")


# --------------------------------------------------------------------------------------------- which tokens are learned


def test_the_completion_and_its_end_are_learned() -> None:
    assert learned("The film", " was") == ("The film was<eos>", [" was<eos>"])
    assert learned("The film", " was", completion_only=False)[1] == [" film was<eos>"]  # but for the first token
    text, stretches = learned("", "zebra")
    assert (text, stretches) == ("zebra<eos>", ["ebra<eos>"])  # nothing predicts the first token
    assert learned("", "zebra", tiny_tokenizer(bos=True)) == ("<bos>zebra<eos>", ["zebra<eos>"])


def test_an_eos_is_never_doubled() -> None:
    for adds_eos in (False, True):
        tokenizer = tiny_tokenizer(adds_eos=adds_eos, bos=True)
        assert learned("The film", " was<eos>", tokenizer) == ("<bos>The film was<eos>", [" was<eos>"])
        assert learned("The film", " was", tokenizer) == ("<bos>The film was<eos>", [" was<eos>"])
    assert learned("The film", " was", tiny_tokenizer(eos=None, pad="<pad>"))[0] == "The film was"


LETTERS = st.text(st.sampled_from("The film was a delight,\nz"), min_size=1, max_size=12)


@given(LETTERS, LETTERS, st.booleans())
def test_the_policy_sees_the_same_prompt_when_it_writes(prompt: str, completion: str, bos: bool) -> None:
    """Wherever the border lies, even inside what would be one token, the prompt's tokens come first and whole."""
    tokenizer = tiny_tokenizer(bos=bos)
    one = encoded(prompt, completion, tokenizer)
    before = prompt_ids(tokenizer, prompt)
    assert list(one.ids[0][: len(before)]) == before
    assert one.loss_masks[0] == (False,) * len(before) + (True,) * (len(one.ids[0]) - len(before))
    assert tokenizer.decode(list(one.ids[0])[len(before) :]) == completion + "<eos>"


def test_a_border_inside_a_token() -> None:
    whole, left, right = (TOKENIZER(text)["input_ids"] for text in ("The", "T", "he"))
    assert whole != left + right
    assert encoded("T", "he").ids[0][:-1] == (*left, *right)


def test_tokenizers_that_put_a_blank_before_everything() -> None:
    from tokenizers import pre_tokenizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert learned("The film w", "as", tokenizer) == (" The film was<eos>", ["as<eos>"])


TALK = [USER, SAID, {"role": "user", "content": "No?"}, {"role": "assistant", "content": "Yes."}]
TALK_TEXT = "<|user|>\nIs it?<eos>\n<|assistant|>\nIt is.<eos>\n<|user|>\nNo?<eos>\n<|assistant|>\nYes.<eos>\n"


def test_the_assistants_turns_are_learned() -> None:
    assert learned([], TALK) == (TALK_TEXT, ["It is.<eos>", "Yes.<eos>"])
    assert learned(TALK[:2], TALK[2:]) == (TALK_TEXT, ["Yes.<eos>"])
    assert learned(TALK[:3], TALK[3:]) == (TALK_TEXT, ["Yes.<eos>"])
    assert learned([], TALK[:3]) == (TALK_TEXT[: TALK_TEXT.index("<|assistant|>\nYes")], ["It is.<eos>"])
    assert learned([], TALK, completion_only=False)[0] == TALK_TEXT
    assert encoded([], TALK, completion_only=False).n_loss_tokens == len(encoded([], TALK).ids[0]) - 1


def test_a_started_answer_is_continued() -> None:
    started = [USER, {"role": "assistant", "content": "It"}]
    rest = [{"role": "assistant", "content": " is."}]
    assert learned(started, rest) == ("<|user|>\nIs it?<eos>\n<|assistant|>\nIt is.<eos>\n", [" is.<eos>"])
    before = prompt_ids(TOKENIZER, started)
    assert list(encoded(started, rest).ids[0][: len(before)]) == before


def test_a_template_that_ends_turns_without_an_eos() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    expected = "user: Is it?\nassistant: It is.\n<eos>"
    assert learned([USER], [SAID], tokenizer) == (expected, [" It is.\n<eos>"])
    assert learned([USER], [SAID], tokenizer, completion_only=False)[0] == expected


def test_a_template_that_rewrites_earlier_turns() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>\n"
        "{% if m['role'] == 'assistant' and loop.last %}(thinks){% endif %}{{ m['content'] }}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    assert learned(TALK[:1], TALK[1:2], tokenizer)[1] == ["(thinks)It is.<eos>"]
    with pytest.raises(DataError) as caught:
        encoded([], TALK, tokenizer)
    message = str(caught.value)
    assert message.startswith("d.jsonl line 7: the chat template writes message 2 differently")
    assert "--completion_only_loss false" in message
    assert encoded([], TALK, tokenizer, completion_only=False).n_loss_tokens > 0


def test_templates_that_are_missing_or_refuse() -> None:
    with pytest.raises(DataError, match=r"d\.jsonl line 7: the tokenizer has no chat template\. Use a model"):
        encoded([USER], [SAID], tiny_tokenizer(chat=False))


# --------------------------------------------------------------------------------------------- lengths, sets, batches


def rows_of(*lengths: int) -> list[Demonstration]:
    """Texts of exactly these lengths in tokens, the EOS among them: "z" is in no merge."""
    return [Demonstration(prompt="", completion="z" * (n - 1), where=f"line {i}") for i, n in enumerate(lengths, 1)]


def test_long_texts_are_left_out_and_counted() -> None:
    found = encode_demonstrations(rows_of(3, 9, 5, 6), TOKENIZER, max_length=5, room=8, source="d")
    assert (found.lengths, found.n_too_long, found.longest, len(found)) == ((3, 5), 2, 9, 2)
    assert found.n_loss_tokens == 2 + 4
    with pytest.raises(DataError, match="all 2 demonstrations of d are longer than max_length = 2 tokens"):
        encode_demonstrations(rows_of(3, 9), TOKENIZER, max_length=2, source="d")
    with pytest.raises(DataError, match=r"d line 2: 9 tokens, and the model's context has 8\. Use --max_length 8"):
        encode_demonstrations(rows_of(8, 9), TOKENIZER, max_length=None, room=8, source="d")
    with pytest.raises(ConfigError, match="max_length = 9 is more than the 8 tokens"):
        encode_demonstrations(rows_of(3), TOKENIZER, max_length=9, room=8, source="d")
    with pytest.raises(DataError, match="d holds no demonstrations"):
        encode_demonstrations([], TOKENIZER, max_length=9, source="d")
    with pytest.raises(DataError, match="d line 1: after its first token there is nothing to learn"):
        encode_demonstrations(rows_of(2), tiny_tokenizer(eos=None, pad="<pad>"), max_length=9, source="d")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data(), st.integers(0, 20))
def test_right_padding(lengths: list[int], data: st.DataObject, pad_id: int) -> None:
    """Whatever the padding id is, even one that a text contains, the masks tell text from padding."""
    texts = tuple(tuple(range(10, 10 + length)) for length in lengths)
    masks = tuple(tuple(data.draw(st.booleans()) for _ in text) for text in texts)
    found = SequenceSet(ids=texts, loss_masks=masks, n_too_long=0, longest=max(lengths))
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    batch = found.batch(indices, pad_id)
    width = max(lengths[i] for i in indices)
    assert batch.ids.shape == batch.mask.shape == batch.loss_mask.shape == (len(indices), width)
    for row, i in enumerate(indices):
        empty = width - lengths[i]
        assert batch.ids[row].tolist() == [*texts[i], *[pad_id] * empty]
        assert batch.mask[row].tolist() == [True] * lengths[i] + [False] * empty
        assert batch.loss_mask[row].tolist() == [*masks[i], *[False] * empty]
    alone = batch.select([0])
    assert alone.ids.tolist() == [list(texts[indices[0]])]
    assert torch.equal(alone.loss_mask, batch.loss_mask[:1, : lengths[indices[0]]])


def test_no_prompt_is_learned_and_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i // 2}", "completion": f" c{i}"} for i in range(40)]
    kept, held = split_demonstrations(load_demonstrations(file_of(tmp_path, rows)), 0.1, seed=3)
    assert (len(kept), len(held)) == (36, 4)
    assert {row.prompt for row in kept}.isdisjoint(row.prompt for row in held)
    texts = [Demonstration(prompt="", completion=f"t{i}") for i in range(10)]
    assert len(split_demonstrations(texts, 0.2, seed=0)[1]) == 2
    talks = [Demonstration(prompt=[], completion=[USER, {**SAID, "content": str(i)}]) for i in range(3)]
    with pytest.raises(DataError, match="none of the 3 demonstrations can be held out"):
        split_demonstrations(talks, 0.5, seed=0)
