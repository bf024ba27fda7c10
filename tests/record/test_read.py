"""Reading the record: sorted, filtered, an answer at a time; and files that are none."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearppo.errors import RecordError
from clearppo.record import Iteration, iteration_path, steps
from clearppo.record.schema import SCALARS, TOKENS
from clearppo.record.store import write_iteration
from tests.record.files import META, made, row, table

ALL = {"version": 1, "step": 3, **META}
CHAT = [{"role": "user", "content": "Hello [x] <b>"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("run"))


@pytest.fixture
def iteration(path: Path) -> Iteration:
    return Iteration(path)


def numbers(iteration: Iteration, *args: Any, **more: Any) -> list[int]:
    return [one["row"] for one in iteration.page(*args, **{"limit": 1000, **more}).rows]


def test_which_iterations_there_are(tmp_path: Path) -> None:
    assert steps(tmp_path) == []
    for step in (12, 1, 1_000_000):
        made(tmp_path, step, n=1)
    (tmp_path / "record" / "step-x.parquet").touch()
    assert steps(tmp_path) == [1, 12, 1_000_000]
    assert iteration_path(tmp_path, 12).exists()


@pytest.mark.parametrize("number", [0, 63, 64, 127, 128, 149])
def test_one_answer_has_all_its_columns(iteration: Iteration, number: int) -> None:
    found = iteration.answer(number)
    expected = table([row(number)]).to_pylist()[0]
    assert found == expected
    assert {*found} == {*SCALARS, *TOKENS, "ratios", "prompt_ids"}


def test_an_answer_reads_one_row_group(iteration: Iteration, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda file, i: (read.append(i), original(file, i))[1])
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    iteration.answer(100)
    assert read == [1]


@pytest.mark.parametrize("number", [-1, 150])
def test_an_answer_that_is_not_there(iteration: Iteration, number: int) -> None:
    with pytest.raises(RecordError, match="answers 0 to 149"):
        iteration.answer(number)


def test_neighbours(iteration: Iteration) -> None:
    assert [iteration.neighbours(i) for i in (0, 5, 149)] == [(None, 1), (4, 6), (148, None)]


def test_a_page_has_one_value_a_column_and_says_how_many_there_are(iteration: Iteration) -> None:
    page = iteration.page(offset=140, limit=50)
    assert (page.total, page.matching, [one["row"] for one in page.rows]) == (150, 150, list(range(140, 150)))
    assert {*page.rows[0]} == {*SCALARS}
    assert iteration.page(offset=1000).rows == []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["score", "kl", "completion", "finish_reason", "learned", "parts.taste"])
def test_sorted_by_any_column_null_last_and_equal_ones_in_order(
    iteration: Iteration, sort: str, descending: bool
) -> None:
    column, _, source = sort.partition(".")
    rows = table([row(i) for i in range(150)]).to_pylist()

    def value(one: dict[str, Any]) -> Any:
        return one[column][source] if source else one[column]

    given = sorted((one for one in rows if value(one) is not None), key=value, reverse=descending)
    expected = [one["row"] for one in given] + [one["row"] for one in rows if value(one) is None]
    assert numbers(iteration, sort, descending=descending) == expected


def test_filters_are_inclusive_and_leave_null_out(iteration: Iteration) -> None:
    assert numbers(iteration, filters={"min_score": 0.5, "max_score": 0.5}) == [
        i for i in range(150) if i % 5 in (0, 3)
    ]
    assert numbers(iteration, filters={"min_score": -1e9}) == [i for i in range(150) if i % 5 != 1]
    assert numbers(iteration, filters={"learned": False}) == list(range(1, 150, 5))
    assert numbers(iteration, filters={"finish": "length", "max_kl": 1.0}) == [0, 3, 6, 9]
    assert numbers(iteration, filters={"prompt_id": row(4)["prompt_id"]}) == [4, 5]
    page = iteration.page("kl", descending=True, filters={"finish": "length"}, offset=1, limit=2)
    assert (page.total, page.matching, [one["row"] for one in page.rows]) == (150, 50, [144, 141])


def test_words_are_found_in_prompts_and_answers_whatever_their_case(iteration: Iteration) -> None:
    assert numbers(iteration, query="ANSWER 149") == [149]
    assert numbers(iteration, query="question 70?") == [140, 141]
    assert numbers(iteration, query=".*") == []  # no pattern, but words


@pytest.mark.parametrize("wrong", [{"sort": "tokens"}, {"sort": "parts.none"}, {"filters": {"min_prompt": 1}}])
def test_what_is_not_known_is_said(iteration: Iteration, wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="Use one of"):
        iteration.page(**wrong)


def test_a_conversation_comes_as_messages_and_a_text_that_looks_like_one_as_text(tmp_path: Path) -> None:
    prompts = [CHAT, str(CHAT).replace("'", '"'), "[]"]
    rows = [row(i, prompt=prompt) for i, prompt in enumerate(prompts)]
    write_iteration(tmp_path / "record", 1, table(rows), META)
    iteration = Iteration(iteration_path(tmp_path, 1))
    assert [one["prompt"] for one in iteration.page().rows] == prompts
    assert iteration.answer(0)["prompt"] == CHAT


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    assert Iteration(made(tmp_path, n=5)).page().total == 5
    assert Iteration(made(tmp_path, n=7)).page().total == 7


def test_some_columns_of_all_answers(iteration: Iteration) -> None:
    found = iteration.columns("prompt_id", "row")
    assert sorted(found.column_names) == ["prompt_id", "row"]
    assert found.num_rows == 150


def with_metadata(path: Path, text: str) -> None:
    """The same answers, with other metadata."""
    found = pq.read_table(path)
    pq.write_table(found.replace_schema_metadata({b"clearppo": text.encode()}), path)


def with_column(path: Path, name: str, values: pa.Array | None) -> None:
    """The same answers, with another column, or without it."""
    found = pq.read_table(path)
    place = found.column_names.index(name)
    pq.write_table(found.remove_column(place) if values is None else found.set_column(place, name, values), path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "no parquet": (lambda path: path.write_bytes(b"PAR1" + b"x" * 1000 + b"PAR1"), "cannot be read"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "it is no file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "it is no file"),
    "gone": (lambda path: path.unlink(), "is not there"),
    "another table": (lambda path: pq.write_table(pa.table({"a": [1]}), path), "no record"),
    "newer": (lambda path: made(path.parent.parent, version=2), "newer ClearPPO"),
    "no json": (lambda path: with_metadata(path, "{"), "cannot be read"),
    "endless json": (lambda path: with_metadata(path, "[" * 100_000), "cannot be read"),
    "no object": (lambda path: with_metadata(path, "[]"), "no version"),
    "no version": (lambda path: made(path.parent.parent, version="1"), "no version"),
    "a group of none": (lambda path: made(path.parent.parent, group_size=0), "group_size = 0"),
    "true is no number": (lambda path: made(path.parent.parent, gamma=True), "gamma = True"),
    "no infinity": (lambda path: with_metadata(path, json.dumps({**ALL, "lam": math.inf})), "lam = inf"),
    "no moments": (lambda path: made(path.parent.parent, score_scaling={"kind": "running"}), "score_scaling = "),
    "no objective": (lambda path: made(path.parent.parent, objective=None), "objective = None"),
    "no advantages": (lambda path: with_column(path, "advantages", None), "column advantages"),
    "scores of words": (lambda path: with_column(path, "score", pa.array(["x"] * 150)), "column score"),
    "no sources": (lambda path: with_column(path, "parts", pa.array(range(150))), "column parts"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_no_record_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path)
    damage, said = DAMAGES[kind]
    damage(path)
    with pytest.raises(RecordError, match=said) as caught:
        Iteration(path)
    assert "step-000003.parquet" in str(caught.value)


@pytest.mark.parametrize("wrong", [{"rewards": [1.0]}, {"ratios": [[1.0] * 3, [1.0]]}, {"tokens": ["a"] * 4}])
def test_lists_that_are_not_of_the_answers_length(tmp_path: Path, wrong: dict[str, Any]) -> None:
    write_iteration(tmp_path / "record", 1, table([row(0), row(1, **wrong)]), META)
    iteration = Iteration(iteration_path(tmp_path, 1))
    assert iteration.answer(0)["row"] == 0
    with pytest.raises(RecordError, match=r"of answer 1 has \d values for 3 tokens"):
        iteration.answer(1)


def test_a_prompt_that_is_no_json_and_not_that_of_its_id(tmp_path: Path) -> None:
    write_iteration(tmp_path / "record", 1, table([row(0, prompt_id="0" * 12)]), META)
    with pytest.raises(RecordError, match="cannot be read"):
        Iteration(iteration_path(tmp_path, 1)).page()


def test_no_byte_that_fell_over_passes_for_an_answer(tmp_path: Path) -> None:
    """Pages have checksums; what stands between them is Parquet's own."""
    path = made(tmp_path, n=70)
    content = path.read_bytes()
    right = [Iteration(path).answer(i) for i in (0, 69)]
    errors = 0
    for place in range(3, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            iteration = Iteration(path)
            iteration.page("score", query="1")
            assert [iteration.answer(i) for i in (0, 69)] == right
        except RecordError:
            errors += 1
    assert errors > 20
