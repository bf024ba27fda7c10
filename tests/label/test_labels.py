"""From files to items, and from decisions to the comparisons that a reward model learns from."""

import json
from pathlib import Path
from typing import Any

import pytest

from clearppo.data import load_comparisons
from clearppo.data.candidates import Candidates, has_answers, read_candidates, read_source
from clearppo.data.labels import Decision, item_id, read_decision, standing
from clearppo.errors import ClearPPOError, DataError
from tests.label.conftest import decision, write_rows


def read(tmp_path: Path, *files: list[Any]) -> Candidates:
    """The items of these files' rows."""
    names = [write_rows(tmp_path / f"file-{number}.jsonl", rows) for number, rows in enumerate(files)]
    return read_candidates({name: read_source(name) for name in names})


MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "Q", "completions": ["a", "b"]}, "Q", ["a", "b"]),
        ({"prompt": "Q", "completions": ["a", "b", "c"], "scores": [1, 1, 1]}, "Q", ["a", "b", "c"]),
        ({"prompt": "Q", "completions": ["a", "b"], "pairs": []}, "Q", ["a", "b"]),
        ({"prompt": "Q", "chosen": "a", "rejected": "b"}, "Q", ["a", "b"]),
        ({"query": "Q", "sample0": "a", "sample1": "b", "sample2": "c", "best": 1}, "Q", ["a", "b", "c"]),
        ({"query": "Q", "sample0": "a", "sample1": "b"}, "Q", ["a", "b"]),
        ({"prompt": MESSAGES, "completions": ["a", "b"]}, MESSAGES, ["a", "b"]),
        (
            {"chosen": [*MESSAGES, {"role": "assistant", "content": "a"}],
             "rejected": [*MESSAGES, {"role": "assistant", "content": "b"}]},
            MESSAGES,
            ["a", "b"],
        ),
        (json.loads(decision().line()), "Q", ["yes", "no"]),  # labels can be labelled again
    ],
)  # fmt: skip
def test_answers_of_every_format(row: dict[str, Any], prompt: Any, answers: list[str], tmp_path: Path) -> None:
    (item,) = read(tmp_path, [row]).items
    assert (item.prompt, list(item.completions)) == (prompt, answers)
    assert item.item == item_id(prompt, answers)


def test_summaries_need_no_choice(tmp_path: Path) -> None:
    info = {"post": "Long.", "title": "T", "subreddit": "s", "id": "1"}
    (item,) = read(tmp_path, [{"info": info, "summaries": [{"text": "a"}, {"text": "b"}]}]).items
    assert item.completions == (" a", " b")
    assert "Long." in item.prompt


def test_at_most_four_different_answers(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [
            {"prompt": "1", "completions": ["a", "b", " a", "c", "d", "e"]},
            {"prompt": "2", "completions": ["a", "a ", "\na"]},
            {"prompt": "1", "completions": ["a", "b", "c", "d"]},
        ],
    )
    assert [item.completions for item in found.items] == [("a", "b", "c", "d")]
    assert (found.n_alike, found.n_cut, found.n_repeated) == (1, 1, 1)


def test_several_files_are_put_together_by_their_prompts(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [{"prompt": "1", "completions": ["a"]}, {"prompt": "2", "completions": ["x", "y"]}],
        [{"prompt": "2", "completions": ["u", "v"]}, {"prompt": "1", "completions": ["b"]}],
    )
    assert {item.prompt: item.completions for item in found.items} == {"1": ("a", "b"), "2": ("x", "u", "y", "v")}


def test_who_wrote_an_answer_is_known(tmp_path: Path) -> None:
    """By the rows themselves; where they are silent, by the file's name."""
    named = {"prompt": "1", "completions": ["a", "b", "a "], "sources": ["m", "n", "o"]}
    cut = {"finish_reasons": ["stop", "length", "length"]}
    found = read(tmp_path, [named | cut])
    assert (found.items[0].sources, found.items[0].cut) == ((("m", "o"), ("n",)), (False, True))
    assert found.models == ("m", "n", "o")

    two = read(
        tmp_path, [{"prompt": "1", "completions": ["a"]}], [{"prompt": "1", "completions": ["b"], "sources": ["m"]}]
    )
    assert two.items[0].sources == ((str(tmp_path / "file-0.jsonl"),), ("m",))
    same = {"prompt": "1", "sources": ["m"]}
    both = read(tmp_path, [same | {"completions": ["a"]}], [same | {"completions": ["b"]}])
    assert both.items[0].sources == tuple((f"m ({tmp_path / f'file-{n}.jsonl'})",) for n in (0, 1))


@pytest.mark.parametrize("sources", [None, ["m"], [1, 2], [["m"], [3]], "mn", [" ", "n"]])
def test_a_column_of_another_meaning_names_nobody(sources: Any, tmp_path: Path) -> None:
    (item,) = read(
        tmp_path, [{"prompt": "1", "completions": ["a", "b"], "sources": sources, "finish_reasons": 3}]
    ).items
    assert (item.sources, item.cut) == ((), (False, False))


def test_rows_of_one_file_stay_apart(tmp_path: Path) -> None:
    found = read(
        tmp_path, [{"prompt": "1", "chosen": "a", "rejected": "b"}, {"prompt": "1", "chosen": "c", "rejected": "d"}]
    )
    assert [item.completions for item in found.items] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "Q"}], "no answers in the columns seen (prompt)"),
        ([{"prompt": "Q", "completions": ["a", "b"]}, {"prompt": "R"}], "line 2: no `completions`"),
        ([{"prompt": "Q", "completions": "ab"}], "`completions` is a string"),
        ([{"completions": ["a", "b"]}], "no `prompt`"),
        ([{"prompt": "Q", "completions": ["a", "a"]}], "no two different answers to any of 1 prompts"),
        (["text"], "a string, not an object"),
    ],
)
def test_files_that_hold_nothing_to_compare(rows: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, rows)
    assert words in str(caught.value)


def test_prompts_alone_are_known(tmp_path: Path) -> None:
    assert not has_answers(read_source(write_rows(tmp_path / "p.jsonl", [{"prompt": "Q"}])))
    assert has_answers(read_source(write_rows(tmp_path / "a.jsonl", [{"prompt": "Q", "completions": ["a", "b"]}])))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "answers.jsonl", [{}])
    (tmp_path / "empty.jsonl").touch()
    for name, words in {
        "answer.jsonl": "Did you mean",
        "x/y.jsonl": "Give a file of answers",
        "": "is a directory",
        "empty.jsonl": "holds no answers to compare",
    }.items():
        with pytest.raises(DataError, match=words):
            read_source(str(tmp_path / name))


# --------------------------------------------------------------------------------------------- decisions


def test_a_line_comes_back() -> None:
    one = decision(
        note="n", order=(1, 0), seconds=1.5, time="2026-01-31T14:05:09+00:00", nonce="x" * 12, prompt=MESSAGES,
        sources=(("m", "n"), ()),
    )  # fmt: skip
    assert read_decision(json.loads(one.line()), "here") == one


def test_sources_of_a_line_are_lists_of_names() -> None:
    row = json.loads(decision().line())
    with pytest.raises(DataError, match="here: `sources` must hold a list of names for each"):
        read_decision(row | {"sources": [["m"]]}, "here")
    del row["sources"]  # as files of before
    assert read_decision(row, "here").sources == ()


def test_what_stands() -> None:
    lines = [
        decision("i", "ann", choice=0),
        decision("i", "bob", "tie"),
        decision("j", "ann", "all bad"),
        decision("i", "ann", choice=1),
        decision("j", "ann", "undone"),
    ]
    assert list(standing(lines).values()) == [lines[1], lines[3]]


def labels(path: Path, *decisions: Decision) -> str:
    path.write_text("".join(one.line() for one in decisions), encoding="utf-8")
    return str(path)


def test_a_reward_model_reads_labels_as_they_are(tmp_path: Path) -> None:
    three = {"completions": ("x", "y", "z"), "order": (2, 0, 1)}
    name = labels(
        tmp_path / "labels.jsonl",
        decision("i", "ann", choice=0),
        decision("i", "bob", choice=1),
        decision("j", "ann", "tie"),
        decision("k", "ann", choice=2, prompt=MESSAGES, **three),
        decision("i", "ann", choice=1),
        decision("l", "bob", "all bad"),
        decision("m", "bob", choice=0, prompt=""),
        decision("n", "bob", "tie"),
        decision("n", "bob", "undone"),
    )
    said: list[str] = []
    found = load_comparisons(name, note=said.append)
    assert [(c.prompt, c.answers, c.pairs, c.choice, c.where) for c in found] == [
        ("Q", ("yes", "no"), ((1, 0),), 1, "line 2"),  # each labeller's decision counts
        (MESSAGES, ("x", "y", "z"), ((2, 0), (2, 1)), 2, "line 4"),
        ("Q", ("yes", "no"), ((1, 0),), 1, "line 5"),
        ("", ("yes", "no"), ((0, 1),), 0, "line 7"),
    ]
    assert said == [
        f'{name}: 6 decisions of 2 labellers; 4 for an answer; 1 tie and 1 "all bad", which make no pair; 3 lines '
        "replaced or taken back by a later one"
    ]


def test_decisions_between_equal_answers_are_counted(tmp_path: Path) -> None:
    same, other = decision("j", completions=("a", "a")), decision("k", completions=("a", "a", "b"), order=(0, 1, 2))
    name = labels(tmp_path / "labels.jsonl", decision("i"), same, other)
    said: list[str] = []
    assert [comparison.pairs for comparison in load_comparisons(name, note=said.append)] == [((0, 1),), ((0, 2),)]
    assert said == [
        f'{name}: 3 decisions of 1 labeller; 2 for an answer; 0 ties and 0 "all bad", which make no pair; '
        "1 between answers that are all the same, which makes no pair"
    ]
    with pytest.raises(DataError, match=r"no decision for an answer \(1 .*1 between answers that are all the same"):
        load_comparisons(labels(tmp_path / "labels.jsonl", same))


def test_labels_without_a_choice(tmp_path: Path) -> None:
    name = labels(tmp_path / "labels.jsonl", decision("i", "ann", "tie"))
    with pytest.raises(DataError, match=r"no decision for an answer \(1 decision of 1 labeller"):
        load_comparisons(name)


def test_a_line_of_another_kind_within_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(decision().line() + '{"prompt": "Q", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(ClearPPOError, match="line 2: no `item`"):
        load_comparisons(str(path))
