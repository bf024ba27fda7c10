"""Comparisons: every format, where the prompt ends, what is refused, and what the reward model is given."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.data import (
    Comparison,
    ComparisonSet,
    JudgementTemplate,
    encode_comparisons,
    load_comparisons,
    split_comparisons,
)
from clearppo.errors import ConfigError, DataError
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
USER = {"role": "user", "content": "Is it?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def file_of(folder: Path, rows: list[Any]) -> str:
    path = folder / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def loaded(folder: Path, row: dict[str, Any]) -> Comparison:
    first, second = load_comparisons(file_of(folder, [row, row]))
    assert (first.where, second.where) == ("line 1", "line 2")
    assert (first.prompt, first.answers, first.pairs) == (second.prompt, second.answers, second.pairs)
    return first


# --------------------------------------------------------------------------------------------- chosen and rejected


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "It is", "chosen": " good", "rejected": " bad"}, "It is", (" good", " bad")),
        ({"prompt": "It is", "chosen": "It is a", "rejected": "It is b"}, "It is", ("It is a", "It is b")),
        ({"chosen": "It is good", "rejected": "It is bad"}, "It is", (" good", " bad")),
        ({"chosen": "It is great", "rejected": "It is green"}, "It is", (" great", " green")),
        ({"chosen": "It is", "rejected": "It is not"}, "It", (" is", " is not")),
        ({"chosen": "It is ", "rejected": "It is not"}, "It", (" is ", " is not")),
        ({"chosen": "It\n\nis  good", "rejected": "It\n\nis  bad"}, "It\n\nis", ("  good", "  bad")),
        ({"chosen": "Good.", "rejected": "Great."}, "", ("Good.", "Great.")),
        ({"chosen": "Good.", "rejected": "Bad."}, "", ("Good.", "Bad.")),
        ({"prompt": None, "chosen": "It is good", "rejected": "It is bad"}, "It is", (" good", " bad")),
        ({"prompt": [USER], "chosen": "Yes", "rejected": "No"}, [USER], ("Yes", "No")),
        ({"prompt": [USER], "chosen": [said("Yes")], "rejected": [said("No")]}, [USER], ("Yes", "No")),
        ({"prompt": "Is it?", "chosen": [said("Yes")], "rejected": [said("No")]}, [USER], ("Yes", "No")),
        ({"chosen": [USER, said("Yes")], "rejected": [USER, said("No")]}, [USER], ("Yes", "No")),
        ({"prompt": [USER], "chosen": [USER, said("Yes")], "rejected": [USER, said("No")]}, [USER], ("Yes", "No")),
        ({"prompt": "Is it?", "chosen": [USER, said("Yes")], "rejected": [USER, said("No")]}, [USER], ("Yes", "No")),
        (
            {"chosen": [USER, said("Eh"), USER, said("Yes")], "rejected": [USER, said("Eh"), USER, said("No")]},
            [USER, said("Eh"), USER],
            ("Yes", "No"),
        ),
    ],
)
def test_where_the_prompt_ends(tmp_path: Path, row: dict[str, Any], prompt: Any, answers: tuple[str, str]) -> None:
    found = loaded(tmp_path, row)
    assert (found.prompt, found.answers) == (prompt, answers)
    assert (found.pairs, found.margins, found.choice, found.labels) == (((0, 1),), (0.0,), 0, None)


WORDS = st.lists(st.sampled_from(["a", "b", "ab", " ", "\n", "  "]), min_size=1, max_size=8).map("".join)


@given(WORDS, WORDS, WORDS)
def test_an_implicit_prompt_loses_nothing(shared: str, left: str, right: str) -> None:
    from clearppo.data.implicit import implicit_prompt

    chosen, rejected = shared + left, shared + right
    if chosen == rejected or not chosen.strip() or not rejected.strip():
        return
    prompt, better, worse = implicit_prompt(chosen, rejected, "here")
    assert (prompt + better, prompt + worse) == (chosen, rejected)
    assert better.strip()
    assert worse.strip()
    assert not prompt or (better[0].isspace() and worse[0].isspace() and not prompt[-1].isspace())


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: More\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (f"{HH} Yes, I do", f"{HH} Yes, I will", HH),
        (f"{HH} ", f"{HH} Yes", HH),  # silence was chosen: HH-RLHF has such rows
        ("\n\nHuman: Hi\n\nAssistant: A.\n\nHuman: B\n\nAssistant: C", f"{HH} D", "\n\nHuman: Hi\n\nAssistant:"),
    ],
)
def test_dialogues_of_humans_and_assistants_stay_text(tmp_path: Path, chosen: str, rejected: str, prompt: str) -> None:
    found = loaded(tmp_path, {"chosen": chosen, "rejected": rejected})
    assert (found.prompt, *found.answers) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])
    again = loaded(tmp_path, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
    assert (again.prompt, again.answers) == (found.prompt, found.answers)


def test_margins(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}
    assert loaded(tmp_path, row).margins == (2.0,)
    assert load_comparisons(file_of(tmp_path, [row, {**row, "margin": None}]))[1].margins == (0.0,)


# --------------------------------------------------------------------------------------------- more than two answers


@pytest.mark.parametrize(
    ("said_of_them", "pairs", "choice", "labels"),
    [
        ({"scores": [1, 3.5, 2]}, {(1, 0), (1, 2), (2, 0)}, 1, (1.0, 3.5, 2.0)),
        ({"scores": [1, 2, 2]}, {(1, 0), (2, 0)}, None, (1.0, 2.0, 2.0)),
        ({"ranks": [3, 1, 2]}, {(1, 0), (1, 2), (2, 0)}, 1, None),
        ({"ranks": [1, 0, 1]}, {(1, 0), (1, 2)}, 1, None),
        ({"choice": 2}, {(2, 0), (2, 1)}, 2, None),
        ({"best": 0}, {(0, 1), (0, 2)}, 0, None),
        ({"scores": [1, 3, 2.9], "pairs": [[1, 0], [2, 0]]}, {(1, 0), (2, 0)}, None, (1.0, 3.0, 2.9)),
        ({"scores": [1, 3, 2], "choice": 1}, {(1, 0), (1, 2), (2, 0)}, 1, (1.0, 3.0, 2.0)),
    ],
)
def test_what_is_said_of_three_answers(
    tmp_path: Path, said_of_them: dict[str, Any], pairs: Any, choice: Any, labels: Any
) -> None:
    found = loaded(tmp_path, {"prompt": "p", "completions": ["a", "b", ""], **said_of_them, "other": [1]})
    assert found.answers == ("a", "b", "")
    assert (set(found.pairs), len(found.pairs)) == (pairs, len(pairs))
    assert (found.choice, found.labels) == (choice, labels)
    assert found.margins == (0.0,) * len(pairs)


def test_pairs_may_have_margins(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["a", "b", "c"], "pairs": [[0, 1], [1, 2]], "margins": [0.5, 2]}
    found = loaded(tmp_path, row)
    assert (found.pairs, found.margins) == (((0, 1), (1, 2)), (0.5, 2.0))


def test_equal_answers_of_which_one_was_picked_make_no_pair(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"prompt": "p", "completions": ["a", "a", "b"], "choice": 0})
    assert (found.pairs, found.choice) == (((0, 2),), 0)


def test_formats_of_others(tmp_path: Path) -> None:
    nemo = {
        "context": [USER],
        "completions": [{"rank": 1, "completion": [said("No")]}, {"rank": 0, "completion": [said("Yes")]}],
    }
    found = loaded(tmp_path, nemo)
    assert (found.prompt, found.answers, found.pairs) == ([USER], ("No", "Yes"), ((1, 0),))
    picked = {"query": "It", "sample0": " a", "sample1": " b", "sample2": " c", "sample3": " d", "best": 3}
    found = loaded(tmp_path, picked)
    assert (found.prompt, found.answers) == ("It", (" a", " b", " c", " d"))
    assert (found.pairs, found.choice) == (((3, 0), (3, 1), (3, 2)), 3)
    info = {"post": "It sat.", "title": "Help", "subreddit": "cats", "id": "x"}
    found = loaded(tmp_path, {"info": info, "summaries": [{"text": "A"}, {"text": " B"}], "choice": 1})
    assert found.prompt == "SUBREDDIT: r/cats\n\nTITLE: Help\n\nPOST: It sat.\n\nTL;DR:"
    assert (found.answers, found.pairs) == ((" A", " B"), ((1, 0),))
    chat = loaded(tmp_path, {"prompt": "Is it?", "completions": [[said("A")], [said("B")]], "scores": [1, 0]})
    assert chat.prompt == [USER]


# --------------------------------------------------------------------------------------------- what is refused


ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
RANKED = {"prompt": "p", "completions": ["a", "b", "c"]}
REFUSED: dict[str, tuple[list[Any], str, str]] = {
    "no format": ([{"prompt": "a"}], "line 1: no comparison in the columns seen (prompt)", "`chosen` and `rejected`"),
    "another format": ([ROW, {**RANKED, "choice": 1}], "line 2: no `chosen`", "same format"),
    "a prompt too few": ([ROW, {"chosen": "a", "rejected": "b"}], "line 2: no `prompt`", "same format"),
    "a margin too few": ([{**ROW, "margin": 1}, ROW], "line 2: no `margin`", "same format"),
    "no object": ([ROW, 3], "line 2: a number, not an object", "Write"),
    "identical": ([{**ROW, "rejected": "a"}], '`chosen` and `rejected` are identical ("a")', "Remove the row"),
    "identical messages": (
        [{"chosen": [USER, said("a")], "rejected": [USER, said("a")]}],
        '`chosen` and `rejected` are identical ("a")',
        "Remove the row",
    ),
    "identical under other columns": (
        [{"prompt": [USER], "chosen": [{**said("a"), "id": 1}], "rejected": [{**said("a"), "id": 2}]}],
        '`chosen` and `rejected` are identical ("a")',
        "Remove the row",
    ),
    "empty chosen": ([{**ROW, "chosen": ""}], "the answer in `chosen` is empty", "Write one"),
    "blank rejected": ([{**ROW, "rejected": " \n"}], "the answer in `rejected` is empty", "Write one"),
    "empty without a prompt": ([{"chosen": "It is", "rejected": ""}], "the answer in `rejected` is empty", "Write"),
    "empty message": (
        [{"chosen": [USER, said("a")], "rejected": [USER, said("")]}],
        "the answer in `rejected` is empty",
        "Write one",
    ),
    "a number": ([{**ROW, "chosen": 3}], "`chosen` is a number", "string"),
    "null": ([{**ROW, "rejected": None, "chosen": None}], "`chosen` is nothing (null)", "string"),
    "two kinds": ([{**ROW, "rejected": [said("b")]}], "`chosen` is a string and `rejected` a list", "same form"),
    "other questions": (
        [{"chosen": [USER, said("a")], "rejected": [{"role": "user", "content": "x"}, said("b")]}],
        "the prompts of `chosen` and `rejected` differ: they part at message 1",
        "same messages",
    ),
    "other second questions": (
        [{"chosen": [USER, said("a"), USER, said("b")], "rejected": [USER, said("a"), said("c")]}],
        "the prompts of `chosen` and `rejected` differ: they part at message 3",
        "same messages",
    ),
    "other answers on the way": (
        [{"chosen": [USER, said("a"), USER, said("b")], "rejected": [USER, said("c"), USER, said("d")]}],
        "an answer of 3 messages",
        "one message of the assistant",
    ),
    "other dialogues": (
        [{"chosen": HH + " a", "rejected": HH.replace("Hi", "Ho") + " b"}],
        "the dialogues part before the first Assistant answers",
        "remove the row",
    ),
    "another prompt than the given": (
        [{"prompt": "What?", "chosen": [USER, said("a")], "rejected": [USER, said("b")]}],
        "begin with another prompt than `prompt`",
        "Mend the row",
    ),
    "another dialogue than the given": (
        [{"prompt": "\n\nHuman: What?\n\nAssistant:", "chosen": HH + " a", "rejected": HH + " b"}],
        "begin with another prompt than `prompt`",
        "Mend the row",
    ),
    "the user answers": ([{"prompt": [USER], "chosen": [USER], "rejected": [said("a")]}], "role is 'user'", "Mend"),
    "empty prompt": ([{**ROW, "prompt": ""}], "`prompt` is an empty string", "remove the row"),
    "a margin below 0": ([{**ROW, "margin": -1}], "`margin` is -1; it must be 0 or more", "Mend"),
    "no margin": ([{**ROW, "margin": "much"}], "`margin` is a string; it must be a number", "Mend"),
    "an infinite margin": ([{**ROW, "margin": float("inf")}], "`margin` is inf; it must be a finite", "Mend"),
    "one answer": ([{**RANKED, "completions": ["a"], "scores": [1]}], "it has one answer", "needs two"),
    "no answer": ([{**RANKED, "completions": [], "scores": []}], "it has no answer", "needs two"),
    "no list": ([{**RANKED, "completions": "ab", "scores": [1]}], "`completions` is a string", "list of answers"),
    "answers of numbers": (
        [{**RANKED, "completions": ["a", 3], "choice": 0}],
        "completion 2: `completion` is a",
        "str",
    ),
    "answers of objects": ([{**RANKED, "completions": ["a", {"x": 1}], "choice": 0}], "2: no `completion`", "Mend"),
    "answers of token ids": ([{**RANKED, "completions": [[1, 2], [3]], "choice": 0}], "a list of token ids", "text"),
    "a prompt of token ids": ([{**RANKED, "prompt": [1, 2], "choice": 0}], "`prompt` is a list of token ids", "text"),
    "no prompt": ([{"completions": ["a", "b"], "choice": 0}], "no `prompt` (columns seen: completions", "Name what"),
    "nothing said": ([RANKED], "nothing says which answer is better", "`scores`, `ranks`, `pairs` or `choice`"),
    "two scores for three": ([{**RANKED, "scores": [1, 2]}], "`scores` is 2 numbers for 3 answers", "one number"),
    "a score that is none": ([{**RANKED, "scores": [1, 2, None]}], "`scores` is nothing (null)", "number"),
    "a score that is not finite": ([{**RANKED, "scores": [1, 2, float("nan")]}], "`scores` is nan", "finite"),
    "a huge score": ([{**RANKED, "scores": [1, 2, 10**400]}], "it must be a finite number", "Mend"),
    "a choice that is not there": ([{**RANKED, "choice": 3}], "`choice` is 3, and there are 3 answers", "0 to 2"),
    "a choice below": ([{**RANKED, "choice": -1}], "`choice` is -1, and there are 3 answers", "0 to 2"),
    "a choice of words": ([{**RANKED, "choice": "b"}], "`choice` is a string", "whole number"),
    "a true choice": ([{**RANKED, "choice": True}], "`choice` is a boolean", "whole number"),
    "all the same": ([{**RANKED, "scores": [1, 1, 1]}], "none of its 3 answers is better", "Remove the row"),
    "no pairs": ([{**RANKED, "pairs": []}], "none of its 3 answers is better", "Remove the row"),
    "pairs of three": ([{**RANKED, "pairs": [[0, 1, 2]]}], "pair 1: [0, 1, 2] is no [better, worse]", "Mend"),
    "pairs that contradict": ([{**RANKED, "pairs": [[0, 1], [1, 0]]}], "pair 2: [1, 0] says nothing new", "once"),
    "a pair with itself": ([{**RANKED, "pairs": [[1, 1]]}], "pair 1: [1, 1] says nothing new", "once"),
    "pairs of no list": ([{**RANKED, "pairs": 3}], "`pairs` is a number", "list of [better, worse]"),
    "a margin for two pairs": (
        [{**RANKED, "pairs": [[0, 1], [1, 2]], "margins": [1]}],
        "`margins` is 1 numbers for 2 pairs",
        "one number for each",
    ),
    "identical and unlike": (
        [{**RANKED, "completions": ["a", "b", "a"], "scores": [1, 2, 3]}],
        'answer 2 is to be better than answer 0, and they are identical ("a")',
        "same score",
    ),
    "ranks of some": (
        [{**RANKED, "completions": [{"completion": "a", "rank": 1}, {"completion": "b"}]}],
        "1 of its 2 completions have a `rank`",
        "each of them",
    ),
    "half a character": ([{**ROW, "chosen": "a\ud83d"}], r"\ud83d is half a character", "other half"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_refused(tmp_path: Path, case: str) -> None:
    rows, problem, mend = REFUSED[case]
    name = file_of(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        load_comparisons(name)
    message = str(caught.value)
    assert message.startswith(f"{name} line ")
    assert problem in message
    assert mend in message
    assert "\n" not in message


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the name of the comparisons is empty\. Give --eval_dataset_name"):
        load_comparisons("", flag="eval_dataset_name")
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no comparisons"):
        load_comparisons(str(tmp_path / "e.jsonl"))
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="line 1: no column `chosen` or"):
        load_comparisons(str(tmp_path / "c.csv"))
    (tmp_path / "c.csv").write_text("chosen,rejected\n1,2\n")
    assert load_comparisons(str(tmp_path / "c.csv"))[0].answers == ("1", "2")


# --------------------------------------------------------------------------------------------- tokens and batches


def pair_of(prompt: Any, *answers: str, where: str = "line 7", **more: Any) -> Comparison:
    pairs = more.pop("pairs", ((0, 1),))
    values = {"margins": (0.0,) * len(pairs), "choice": 0, "labels": None, **more}
    return Comparison(prompt=prompt, answers=answers, pairs=pairs, where=where, **values)


def encode(*comparisons: Comparison, template: str = "{conversation}!", **options: Any) -> ComparisonSet:
    settings = {"max_length": None, "source": "c.jsonl", **options}
    return encode_comparisons(comparisons, TOKENIZER, JudgementTemplate(template), **settings)


def test_what_the_reward_model_reads() -> None:
    found = encode(pair_of("zz", " z", "zzz"), pair_of([USER], "z", "qq"))
    assert [[TOKENIZER.decode(list(text)) for text in texts] for texts in found.ids] == [
        ["zz z!", "zzzzz!"],
        ["<|user|>\nIs it?<eos>\n<|assistant|>\nz<eos>\n!", "<|user|>\nIs it?<eos>\n<|assistant|>\nqq<eos>\n!"],
    ]
    assert [list(lengths) for lengths in found.answer_tokens] == [
        [len(TOKENIZER(" z")["input_ids"]), 3],
        [1, len(TOKENIZER("qq")["input_ids"])],
    ]
    assert (len(found), found.n_pairs, found.n_too_long) == (2, 2, 0)
    assert found.longest == max(len(text) for texts in found.ids for text in texts) == found.lengths[1]


def test_a_comparison_with_a_long_answer_is_left_out_whole() -> None:
    rows = [pair_of("z", "z" * n, "q", where=f"line {n}") for n in (2, 9, 3)]
    found = encode(*rows, template="{conversation}", max_length=5, room=8)
    assert ([len(texts[0]) for texts in found.ids], found.n_too_long, found.longest) == ([3, 4], 1, 10)
    assert found.comparisons == (rows[0], rows[2])
    with pytest.raises(DataError, match=r"c\.jsonl line 9: 11 tokens, and the model's context has 8"):
        encode(*rows, room=8)
    with pytest.raises(DataError, match=r"all 3 comparisons of c\.jsonl are longer than max_length = 1 tokens"):
        encode(*rows, max_length=1)
    with pytest.raises(ConfigError, match="--max_length 8"):
        encode(*rows, max_length=9, room=8)
    with pytest.raises(DataError, match="holds no comparisons"):
        encode()


def test_texts_that_cannot_be_encoded() -> None:
    with pytest.raises(DataError, match=r"c\.jsonl line 7: answers 0 and 1 become the same tokens"):
        encode(pair_of("z", "é", "è"))  # both are <unk> to this tokenizer
    rows, plain = [pair_of([USER], "a", "b")], tiny_tokenizer(chat=False)
    with pytest.raises(DataError, match=r"c\.jsonl line 7: the tokenizer has no chat template.*--judgement_template"):
        encode_comparisons(rows, plain, JudgementTemplate(), max_length=None, source="c.jsonl")


@given(st.data(), st.integers(0, 20))
def test_batches(data: st.DataObject, pad_id: int) -> None:
    """The tensors say what the comparisons say, whatever the padding id."""
    text = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)
    rows: list[Comparison] = []
    ids: list[Any] = []
    for _ in range(data.draw(st.integers(1, 4))):
        texts = data.draw(st.lists(text, min_size=2, max_size=4, unique=True))
        order = data.draw(st.permutations(range(len(texts))))
        pairs = tuple((order[i], order[i + 1]) for i in range(len(order) - 1))
        choice = data.draw(st.sampled_from([None, order[0]]))
        margins = tuple(float(i) for i in range(len(pairs)))
        rows.append(pair_of("p", *map(str, texts), pairs=pairs, choice=choice, margins=margins))
        ids.append(tuple(texts))
    tokens = tuple(tuple(1 for _ in texts) for texts in ids)
    found = ComparisonSet(comparisons=tuple(rows), ids=tuple(ids), answer_tokens=tokens, n_too_long=0, longest=5)
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    batch = found.batch(indices, pad_id).to(torch.device("cpu"))
    assert len(batch) == len(indices)
    texts = [[token for token, real in zip(*cells, strict=True) if real] for cells in _cells(batch)]
    assert texts == [list(text) for i in indices for text in ids[i]]
    assert [pad for row in batch.ids[~batch.mask].reshape(-1, 1).tolist() for pad in row] == [pad_id] * int(
        (~batch.mask).sum()
    )
    assert batch.comparison.tolist() == [number for number, i in enumerate(indices) for _ in ids[i]]
    told = [(number, i, pair) for number, i in enumerate(indices) for pair in rows[i].pairs]
    assert batch.pair_comparison.tolist() == [number for number, _, _ in told]
    for (better, worse), (_, i, pair), first in zip(batch.pairs.tolist(), told, batch.divergence.tolist(), strict=True):
        one, other = (list(ids[i][answer]) for answer in pair)
        assert (texts[better], texts[worse]) == (one, other)
        assert one[:first] == other[:first]
        assert one[: first + 1] != other[: first + 1]
    assert batch.margins.tolist() == [margin for i in indices for margin in rows[i].margins]
    for i, row in zip(indices, batch.choice.tolist(), strict=True):
        choice = rows[i].choice
        assert row == -1 if choice is None else texts[row] == list(ids[i][choice])


def _cells(batch: Any) -> list[tuple[list[int], list[bool]]]:
    return list(zip(batch.ids.tolist(), batch.mask.tolist(), strict=True))


def test_no_prompt_is_learned_and_held_out() -> None:
    rows = [pair_of([{"role": "user", "content": f"p{i // 3}"}], f"a{i}", f"b{i}") for i in range(60)]
    kept, held = split_comparisons(rows, 0.1, seed=5)
    assert (len(kept), len(held)) == (54, 6)
    assert not {row.prompt[0]["content"] for row in kept} & {row.prompt[0]["content"] for row in held}
    assert len(split_comparisons([pair_of("", f"a{i}", "b") for i in range(10)], 0.3, seed=0)[1]) == 3


# --------------------------------------------------------------------------------------------- real comparisons


@pytest.mark.data
def test_human_comparisons(shared_data: Path) -> None:
    """All of HH-RLHF's harmless test part: read gzipped, split where the Assistant's words differ, nothing lost."""
    file = shared_data / "hh-harmless-test.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]
    found = load_comparisons(str(file))
    assert len(found) == len(rows) == 2312
    for row, comparison in zip(rows, found, strict=True):
        prompt = comparison.prompt
        assert isinstance(prompt, str)
        assert prompt.endswith("\n\nAssistant:")
        assert [prompt + answer for answer in comparison.answers] == [row["chosen"], row["rejected"]]
    kept, held = split_comparisons(found, 0.1, seed=0)
    assert {row.prompt for row in kept}.isdisjoint(row.prompt for row in held)
    assert abs(len(held) - 231) <= 1
    tokens = encode_comparisons(held, TOKENIZER, JudgementTemplate(), max_length=600, source="hh")
    assert 0 < len(tokens) < 231
    assert len(tokens) + tokens.n_too_long == len(held)
