"""Files of prompts, demonstrations, comparisons and labels, and judgement.json: any bytes and any rows."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.data import (
    DEFAULT_TEMPLATE,
    JudgementTemplate,
    encode_comparisons,
    encode_demonstrations,
    encode_prompts,
    load_comparisons,
    load_demonstrations,
    load_rows,
    prompt_batches,
    split_comparisons,
    split_demonstrations,
    split_prompts,
)
from clearppo.data.candidates import read_candidates, read_source
from clearppo.data.judgement import FILE
from clearppo.errors import ModelError
from clearppo.ui.label_agreement import measure
from clearppo.ui.label_store import LabelStore
from tests.fuzz.mutation import ends_well, json_lines, mutated, mutated_bytes, seeds
from tests.tiny import tiny_tokenizer

USER, ASSISTANT = {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dog."}
TOKENIZER = tiny_tokenizer()
LABEL = {
    "item": "i", "prompt": "It", "completions": ["a", "b"], "choice": 0, "verdict": "better", "labeller": "ann",
    "note": "", "order": [1, 0], "seconds": 2.5, "time": "2026-01-31T14:05:09+00:00", "nonce": "0123456789ab",
}  # fmt: skip
ROWS: dict[str, list[list[Any]]] = {
    "prompts": [
        [{"prompt": "The film was", "tag": 1}, {"prompt": "I think", "tag": None}],
        [{"prompt": [USER]}, {"prompt": [{"role": "system", "content": "Be brief."}, USER]}],
    ],
    "demonstrations": [
        [{"prompt": "The film was", "completion": " a delight."}, {"prompt": "It", "completion": " is."}],
        [{"messages": [USER, ASSISTANT]}, {"messages": [USER, ASSISTANT, USER, ASSISTANT]}],
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}],
        [{"instruction": "Say it.", "input": "now", "output": "It."}],
        [{"subreddit": "r/a", "title": "b", "post": "c", "summary": "d"}],
        [{"text": "A whole text."}],
    ],
    "comparisons": [
        [{"prompt": "The film was", "chosen": " good.", "rejected": " bad.", "margin": 0.5}],
        [{"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "A cat."}]}],
        [{"prompt": "It", "completions": ["a", "b", "c"], "scores": [1, 2.5, 0], "pairs": [[1, 0], [1, 2]]}],
        [{"prompt": "It", "completions": [{"completion": "a", "rank": 1}, {"completion": "b", "rank": 2}]}],
        [{"query": "It", "sample0": "a", "sample1": "b", "best": 1}],
        [{"info": {"post": "p", "title": "t"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}],
    ],
    "labels": [
        [
            LABEL,
            {**LABEL, "item": "j", "verdict": "tie", "choice": None},
            {**LABEL, "item": "k", "prompt": "That", "labeller": "bob", "choice": 1},
            {**LABEL, "item": "j", "verdict": "undone", "choice": None},
        ],
        [{**LABEL, "prompt": [USER], "completions": ["a", "b", "c", "d"], "order": [2, 0, 3, 1], "choice": 3}],
    ],
}


def prompts(path: str) -> None:
    rows = load_rows(path)
    encoded = encode_prompts(rows, TOKENIZER, max_prompt_length=100, room=None, source=path)
    list(prompt_batches(encoded, 4, 2, 0, 0))
    split_prompts(rows, 0.5, 0)


def demonstrations(path: str) -> None:
    rows = load_demonstrations(path)
    split_demonstrations(rows, 0.5, 0)
    encode_demonstrations(rows, TOKENIZER, max_length=100, room=None, source=path)


def comparisons(path: str) -> None:
    rows = load_comparisons(path)
    split_comparisons(rows, 0.5, 0)
    encode_comparisons(rows, TOKENIZER, JudgementTemplate(DEFAULT_TEMPLATE), max_length=100, source=path)


def labels(path: str) -> None:
    """As `clearppo reward` reads them, and as `clearppo label` does: its own file, and answers to label."""
    if path.endswith(".jsonl"):
        store = LabelStore.open(path)
        measure(store.standing())
        store.close()
    read_candidates({path: read_source(path)})
    comparisons(path)


READ: dict[str, Callable[[str], None]] = {
    "prompts": prompts,
    "demonstrations": demonstrations,
    "comparisons": comparisons,
    "labels": labels,
}


@pytest.mark.parametrize("kind", READ)
def test_rows_with_one_thing_changed(kind: str, tmp_path: Path) -> None:
    file, refused, n = tmp_path / "rows.jsonl", 0, 0
    for chance in seeds(600):
        rows: Any = chance.choice(ROWS[kind])
        for _ in range(chance.choice((1, 1, 2, 4))):
            rows = mutated(chance, rows)
        file.write_bytes(json_lines(rows if isinstance(rows, list) else [rows]))
        refused += ends_well(lambda: READ[kind](str(file)), rows) is not None
        n += 1
    assert 0.2 * n < refused < n  # both ends are reached


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "jsonl.gz", "parquet", "arrow"])
@pytest.mark.parametrize("kind", READ)
def test_damaged_files(kind: str, ending: str, tmp_path: Path) -> None:
    whole = [written(tmp_path / f"{i}.{ending}", rows) for i, rows in enumerate(ROWS[kind])]
    whole = [raw for raw in whole if raw]
    if not whole:
        pytest.skip(f"{ending} cannot hold the lists of {kind}")
    file = tmp_path / f"rows.{ending}"
    for chance in seeds(60):
        raw = mutated_bytes(chance, chance.choice(whole))
        file.write_bytes(raw)
        ends_well(lambda: READ[kind](str(file)), raw)


def written(file: Path, rows: list[Any]) -> bytes:
    """Rows in the form that the file's ending says; nothing where CSV cannot hold them."""
    match file.suffix:
        case ".json":
            file.write_text(json.dumps(rows))
        case ".gz":
            file.write_bytes(gzip.compress(json_lines(rows), mtime=0))
        case ".csv":
            if any(isinstance(value, list | dict) for row in rows for value in row.values()):
                return b""
            file.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
        case ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        case ".arrow":
            import pyarrow

            table = pyarrow.Table.from_pylist(rows)
            with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        case _:
            file.write_bytes(json_lines(rows))
    return file.read_bytes()


def test_judgement_files(tmp_path: Path) -> None:
    JudgementTemplate("Read: {prompt}{answer} Is it good?").save(tmp_path)
    whole = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    raw = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_text('{"version": 1, "template": "\\ud800{answer}"}')  # found once, by more tries
    with pytest.raises(ModelError, match="half a character"):
        JudgementTemplate.load(tmp_path)
    for chance in seeds(400):
        changed: Any = mutated(chance, whole)
        content = json.dumps(changed).encode() if chance.random() < 0.5 else mutated_bytes(chance, raw)
        (tmp_path / FILE).write_bytes(content)

        def read() -> None:
            template = JudgementTemplate.load(tmp_path)
            assert template is not None
            template.ids(TOKENIZER, "The film was", "good")

        ends_well(read, content)
