"""Reading rows: every format gives the same rows, and whatever is wrong is one sentence with file and line."""

import csv
import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from clearppo.data import load_rows
from clearppo.errors import ConfigError, DataError

ROWS = [{"prompt": "The film was", "label": 3}, {"prompt": "Say: «a, b»\nc", "label": 4}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refused(name: str, kind: type[Exception] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_rows(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


# --------------------------------------------------------------------------------------------- what is read


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name, opened in (("stream.arrow", pyarrow.ipc.new_stream), ("file.arrow", pyarrow.ipc.new_file)):
        with (tmp_path / name).open("wb") as sink, opened(sink, table.schema) as writer:
            writer.write_table(table)
    files = [
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "no_end_of_line.jsonl", lines.rstrip("\n")),
        write(tmp_path / "blank_lines.jsonl", "\n" + lines.replace("\n", "\n\n")),
        write(tmp_path / "windows.jsonl", lines.replace("\n", "\r\n")),
        write(tmp_path / "mark.jsonl", b"\xef\xbb\xbf" + lines.encode()),
        write(tmp_path / "UPPER.JSONL", lines),
        write(tmp_path / "a.json", json.dumps(ROWS, indent=1)),
        write(tmp_path / "lines.json", lines),
        write(tmp_path / "a.csv", 'prompt,label\nThe film was,3\n"Say: «a, b»\nc",4\n'),
        write(tmp_path / "a.jsonl.gz", gzip.compress(lines.encode())),
        write(tmp_path / "a.JSON.gz", gzip.compress(json.dumps(ROWS).encode())),
        *(str(tmp_path / name) for name in ("a.parquet", "stream.arrow", "file.arrow")),
    ]
    for file in files:
        assert load_rows(file) == ROWS, file


def test_messages_are_read(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
    assert load_rows(write(tmp_path / "a.jsonl", json.dumps({"prompt": messages}))) == [{"prompt": messages}]


def test_json_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    prompt = "a\u2028b\u0085c"  # str.splitlines would cut at each of these
    rows = [{"prompt": prompt}, {"prompt": "e"}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert load_rows(write(tmp_path / "a.jsonl", text)) == rows
    assert load_rows(write(tmp_path / "a.csv", "prompt\na\u2028b\n")) == [{"prompt": "a\u2028b"}]


def test_a_single_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    assert load_rows(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=2))) == [ROWS[0]]


def test_csv_columns_of_numbers_become_numbers_and_prompts_never_do(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "prompt,whole,broken,zip,mixed\n12,1,0.5,007,x\n13,,-2e3,008,3\n")
    assert load_rows(file) == [
        {"prompt": "12", "whole": 1, "broken": 0.5, "zip": "007", "mixed": "x"},
        {"prompt": "13", "whole": None, "broken": -2000.0, "zip": "008", "mixed": "3"},
    ]


def test_csv_cells_may_be_long_and_the_global_limit_is_put_back(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)
    assert load_rows(write(tmp_path / "a.csv", "prompt\n" + "x" * 200_000))[0]["prompt"] == "x" * 200_000
    assert csv.field_size_limit() == 131_072


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", '{"prompt": "x"}')
    assert load_rows("~/a.jsonl") == [{"prompt": "x"}]


# --------------------------------------------------------------------------------------------- files that are not there


def test_missing_file_and_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", '{"prompt": "x"}')
    message = refused(str(tmp_path / "promts.jsonl"))
    assert f"there is no file {tmp_path / 'promts.jsonl'}" in message
    assert message.endswith(f"Did you mean {tmp_path / 'prompts.jsonl'}?")
    assert "--dataset_name" in refused(str(tmp_path / "zzz.csv"))
    assert "the directory nowhere/at does not exist" in refused("nowhere/at/all.jsonl")
    assert "is empty" in refused("")
    assert "~nobody" in refused("~nobody-of-that-name/a.jsonl")


def test_a_directory(tmp_path: Path) -> None:
    assert "holds no file that ends in .jsonl" in refused(str(tmp_path))
    write(tmp_path / "train.jsonl", '{"prompt": "x"}')
    message = refused(str(tmp_path))
    assert "is a directory" in message
    assert f"--dataset_name {tmp_path / 'train.jsonl'}" in message


def test_unknown_ending(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "a.txt", "x"))
    assert "ends in .txt" in message
    assert ".jsonl, .json, .csv, .parquet, .arrow" in message
    assert "ends in nothing" in refused(write(tmp_path / "noending", "x"))


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.jsonl", '{"prompt": "x"}')

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)  # the tests may run as root, whom no mode keeps out
    assert f"{file} cannot be read: Permission denied" in refused(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("content", ["", "  \n \n"])
def test_empty_file(tmp_path: Path, name: str, content: str) -> None:
    assert "holds no prompts" in refused(write(tmp_path / name, content))


def test_files_without_rows(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string")}), tmp_path / "a.parquet")
    for file in (
        write(tmp_path / "a.json", "[]"),
        write(tmp_path / "a.csv", "prompt,label\n"),
        str(tmp_path / "a.parquet"),
    ):
        assert "holds no prompts" in refused(file)


# --------------------------------------------------------------------------------------------- malformed


MALFORMED = {
    "half a line": ('{"prompt": "a"}\n{"prompt": "b', "line 2: not JSON", "column"),
    "a key twice": ('{"prompt": "a", "prompt": "b"}', "line 1: JSON that cannot be read", "key 'prompt' stands twice"),
    "two objects in a line": ('{"prompt": "a"} {"prompt": "b"}', "line 1: not JSON (Extra data", "column 17"),
    "after blank lines": ('\n\n{"prompt": "a"}\n\nnonsense\n', "line 5: not JSON", "column 1"),
    "a list": ('{"prompt": "a"}\n["b"]', "line 2: a list, not an object", '{"prompt": "..."}'),
    "a string": ('"b"', "line 1: a string, not an object", "Write"),
    "null": ('{"prompt": "a"}\nnull', "line 2: nothing (null), not an object", "Write"),
    "no prompt": ('{"prompt": "a"}\n{"query": "b", "x": 1}', "line 2: no `prompt`", "columns seen: query, x"),
    "no column": ("{}", "line 1: no `prompt`", "columns seen: none"),
    "a number as prompt": ('{"prompt": 3}', "line 1: `prompt` is a number", "string or a list of messages"),
    "null as prompt": ('{"prompt": null}', "line 1: `prompt` is nothing (null)", "string"),
    "an object as prompt": ('{"prompt": {"role": "user"}}', "line 1: `prompt` is an object", "list of messages"),
    "empty prompt": ('{"prompt": "a"}\n{"prompt": ""}', "line 2: `prompt` is an empty string", "remove the row"),
    "no messages": ('{"prompt": []}', "line 1: `prompt` is an empty list", "Write a message"),
    "a string as message": ('{"prompt": ["hi"]}', "line 1, message 1: a string, not an object", '"role"'),
    "no role": ('{"prompt": [{"content": "a"}]}', "message 1: no `role`", "keys seen: content"),
    "no content": (
        '{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "text": "b"}]}',
        "line 1, message 2: no `content`",
        "keys seen: role, text",
    ),
    "content in parts": (
        '{"prompt": [{"role": "user", "content": [{"type": "text"}]}]}',
        "message 1: `content` is a list",
        "must be a string",
    ),
    "half a character": (r'{"prompt": "a\ud83d"}', r"line 1: \ud83d is half a character", "Write the other half"),
    "a number without end": ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "line 1: JSON that cannot be read", "Mend"),
    "brackets without end": ("[" * 100_000, "line 1: JSON that cannot be read", "Mend"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_json_lines(tmp_path: Path, case: str) -> None:
    content, problem, help_given = MALFORMED[case]
    file = write(tmp_path / "p.jsonl", content)
    message = refused(file)
    assert message.startswith(f"{file} line ")
    assert problem in message
    assert help_given in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"prompt": "a"},\n {"prompt" "b"}]', "line 2: not JSON"),
        ('[{"prompt": "a", "prompt": "a"}]', "the key 'prompt' stands twice in one object"),
        ('[{"prompt": "a"}, {"query": "b"}]', "row 2: no `prompt`"),
        ('"text"', "holds a string, not a list of rows"),
        ('{"data": [{"prompt": "a"}]}', "columns seen: data"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ('{"prompt": \n\n', "line 1: not JSON"),
        ("[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_malformed_json(tmp_path: Path, content: str, problem: str) -> None:
    file = write(tmp_path / "p.json", content)
    message = refused(file)
    assert message.startswith(file)
    assert problem in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("The film was\nThe book was\n", "line 1: no column `prompt` in the header (The film was)"),
        ("prompt;label\na;1\n", "seem to be separated by ';'"),
        ("prompt\tlabel\na\t1\n", r"seem to be separated by '\t'"),
        ("prompt,prompt\na,b\n", "names prompt twice"),
        ("prompt,label\na,1\nb,c,2\n", "line 3: 3 cells under a header of 2"),
        ("prompt,label\na\n", "line 2: 1 cells under a header of 2"),
        ('prompt,label\n"a\nb",1\n"c,2\nd,3\n', "not CSV (unexpected end of data)"),
        ('prompt,label\n"a\nb",1\n,2\n', "line 4: `prompt` is an empty string"),
    ],
)
def test_malformed_csv(tmp_path: Path, content: str, problem: str) -> None:
    file = write(tmp_path / "p.csv", content)
    message = refused(file)
    assert message.startswith(f"{file} line ")
    assert problem in message


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv"])
def test_not_utf8_text(tmp_path: Path, name: str) -> None:
    latin = write(tmp_path / name, '{"prompt": "a"}\n{"prompt": "café"}'.encode("latin-1"))
    assert f"{latin} line 2: byte 0xe9 is not UTF-8" in refused(latin)
    nul = write(tmp_path / name, b'{"prompt": "a"}\n\n{"prompt": "b\0"}')
    assert f"{nul} line 3: a NUL byte" in refused(nul)
    assert "UTF-16" in refused(write(tmp_path / name, '{"prompt": "a"}'.encode("utf-16")))


@pytest.mark.parametrize("content", [b"", b"plain", gzip.compress(b'{"prompt": "a"}')[:-9], b"\x1f\x8b\x08rubbish"])
def test_corrupt_gzip(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "p.jsonl.gz", content)
    assert ("holds no prompts" if not content else f"{file} cannot be unpacked") in refused(file)
    assert "ends in .gz;" in refused(write(tmp_path / "p.gz", content))
    assert "ends in .csv.gz;" in refused(write(tmp_path / "p.csv.gz", content))


@pytest.mark.parametrize("name", ["p.parquet", "p.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1", b"ARROW1 nonsense", b"\xff\xff\xff\xff\x40\0\0\0x"])
def test_corrupt_tables(tmp_path: Path, name: str, content: bytes) -> None:
    file = write(tmp_path / name, content)
    assert f"{file} cannot be read" in refused(file)


def test_a_table_without_prompts(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "p.parquet")
    assert "row 1: no `prompt` (columns seen: text)" in refused(str(tmp_path / "p.parquet"))


# --------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the optional package `datasets`, which records what it is asked for."""

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        fake.asked = (name, config, split)
        if fake.error is not None:
            raise fake.error
        return fake.rows

    fake = SimpleNamespace(load_dataset=load_dataset, rows=[{"prompt": "a", "x": 1}], error=None, asked=None)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_hub_data_set(hub: SimpleNamespace) -> None:
    assert load_rows("someone/prompts", config="small", split="test") == [{"prompt": "a", "x": 1}]
    assert hub.asked == ("someone/prompts", "small", "test")


def test_hub_errors_say_what_was_tried(hub: SimpleNamespace) -> None:
    hub.error = ConnectionError("no route to host.\nmore")
    message = refused("someone/prompts", split="test")
    assert "there is no local file someone/prompts" in message
    assert "(split test) gave ConnectionError: no route to host. Check" in message
    hub.error = None
    hub.rows = [{"prompt": "a"}, {"text": "b"}]
    assert "someone/prompts (train) row 2: no `prompt` (columns seen: text)" in refused("someone/prompts")
    hub.rows = []
    assert "holds no prompts" in refused("someone/prompts")


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("someone/prompts")
    assert "there is no local file someone/prompts" in message
    assert "`datasets`, which is not installed" in message
    assert "pip install" in message


def test_hub_options_have_no_effect_on_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"prompt": "x"}')
    assert "dataset_config = small has no effect" in refused(file, ConfigError, config="small")
    message = refused(file, ConfigError, split="test")
    assert "dataset_train_split = test has no effect" in message
    assert "Leave out --dataset_train_split" in message
