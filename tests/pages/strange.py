"""Runs whose files somebody has spoilt, each in one way, for the server and the pages to survive."""

import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clearppo.record.schema import METADATA_KEY, file_name
from tests.pages import made

SECRET = "nobody may read this"
"""What stands in files outside the runs, to which links lead."""

SCALARS = ("score", "raw_score", "kl", "reward", "advantage", "parts")


def make_strange(directory: Path) -> Path:
    """The folder of these runs, and beside it what they must not lead to."""
    secret = directory / "secret"
    secret.mkdir(parents=True)
    (secret / "step-000001.parquet").write_text(SECRET)
    (secret / "rows.jsonl").write_text(json.dumps({"step": 1, SECRET: 1}) + "\n")
    whole = directory / "whole"
    made.make_ppo(whole, made.A, steps=4, evaluated=True)
    for spoil in (links, rows, records, kinds, values, holes, settings):
        run = directory / "runs" / spoil.__name__
        shutil.copytree(whole, run)
        spoil(run, secret)
    shutil.copytree(whole, directory / "runs" / "<b>a&amp;\"'%2F..~?#\n x")
    (directory / "runs" / "linked").symlink_to(secret)
    return directory / "runs"


def links(run: Path, secret: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl", "alarms.jsonl", "plan.json"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(secret / "rows.jsonl")
    (run / "reward_report.json").symlink_to(secret / "rows.jsonl")
    (run / "record" / file_name(1)).unlink()
    (run / "record" / file_name(1)).symlink_to(secret / "step-000001.parquet")
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").symlink_to(secret)


def rows(run: Path, secret: Path) -> None:
    lines = [
        b"\xff\xfe", b"[]", b"null", b"3", b'{"step": "3"}', b'{"step": true}', b'{"step": 1e5}', b"not json",
        b'{"step": 1, "objective/kl": NaN, "objective/scores": "high"}', b'{"step": 2, "x": 1' + b"0" * 400 + b"}",
        b'{"step": 3, "<img src=x onerror=alert(1)>": 1, "__proto__": 2, "constructor": 3}', b"[" * 50_000,
        b'{"step": 4, "objective/scores": 0.5, "text": "\\ud83d"}', b"", b'{"step": ' + b"9" * 5000 + b"}",
        b'{"step": 5, "objective/scores": 0.7}', b'{"step": 6, "half',
    ]  # fmt: skip
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines))
    (run / "timings.jsonl").unlink()
    (run / "timings.jsonl").mkdir()
    (run / "best.json").write_text(
        '{"best": [{"step": 8, "metric": "<b>", "value": NaN}, {"step": "x"}, 3, {"step": 4}]}'
    )
    (run / "finished.json").write_text('{"rounds": "many"}')
    alarm = {"step": 2, "alarm": "<b>x</b>", "state": "on", "metric": "<img src=x onerror=alert(1)>", "value": "high"}
    spoilt = [
        alarm, alarm | {"alarm": "kl_runaway", "source": 3, "limit": 1e999, "sentence": {}, "action": "__proto__"},
        alarm | {"alarm": "constructor", "step": 4, "metric": "objective/scores", "limit": 0.6, "value": None},
    ]  # fmt: skip
    (run / "alarms.jsonl").write_text("[]\nnull\n" + "".join(json.dumps(it) + "\n" for it in spoilt) + '{"step": 5')
    (run / "plan.json").write_text('{"peak_bytes": 1e999, "peak_phase": "__proto__", "seconds_per_iteration": -0.0}')
    (run / "evaluation" / "step-0.jsonl").write_text('null\n[]\n{"prompt": 3}\n{"step": 0, "completion": null}\nhalf{')
    (run / "evaluation" / "step-4.jsonl").write_text(
        '{"prompt": ["x", 3, {"role": null}], "completion": 7, "score": "a", "kl": {}}\n'
        '{"prompt": {"a": 1}, "completion": "x", "score": NaN, "kl": 1e999}\n'
    )
    (run / "reward_report.json").write_text('{"schema": 3, "accuracy": "x"}')


def records(run: Path, secret: Path) -> None:
    """Bytes that are no Parquet, or have been one."""
    chance = random.Random(0)
    whole = (run / "record" / file_name(1)).read_bytes()
    place = run / "record"
    for step, content in enumerate([b"", b"PAR1 no PAR1", whole[: len(whole) // 2], whole[len(whole) // 2 :]], 1):
        (place / file_name(step)).write_bytes(content)
    for step in range(5, 25):
        bent = bytearray(whole)
        for _ in range(8):
            bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        (place / file_name(step)).write_bytes(bent)
    (place / file_name(30)).mkdir()
    os.mkfifo(place / file_name(31))
    (place / "step-1.parquet").write_bytes(b"x")
    (place / "step-²²²²²².parquet").write_bytes(b"x")


def _variants(run: Path, change: Callable[[pa.Table, dict[str, Any]], list[tuple[pa.Table, Any]]]) -> None:
    table = pq.read_table(run / "record" / file_name(2))
    about = json.loads(table.schema.metadata[METADATA_KEY])
    for step, (other, said) in enumerate(change(table, about), 1):
        metadata = {METADATA_KEY: json.dumps(said).encode()} if said is not None else {}
        pq.write_table(other.replace_schema_metadata(metadata), run / "record" / file_name(step), row_group_size=64)


def kinds(run: Path, secret: Path) -> None:
    """Whole Parquet files with the wrong columns or metadata."""

    def change(table: pa.Table, about: dict[str, Any]) -> list[tuple[pa.Table, Any]]:
        meta = [None, [], {}, 3, about | {"version": 99}, about | {"version": "x"}, {"version": 1, "step": 2},
                about | {"objective": None}, about | {"group_size": 0, "estimator": "rloo"}, about | {"gamma": None},
                about | {"estimator": "nobody"}, about | {"kl_estimator": 3}]  # fmt: skip
        n = table.num_rows
        columns = {"advantages": None, "score": pa.array(["a"] * n), "parts": pa.array([1] * n), "tokens": None,
                   "length": pa.array(["long"] * n), "learned": pa.array([2] * n), "row": None}  # fmt: skip
        spoilt = [
            table.drop_columns([name]) if column is None
            else table.set_column(table.schema.get_field_index(name), name, column)
            for name, column in columns.items()
        ]  # fmt: skip
        return [(table, said) for said in meta] + [(other, about) for other in spoilt]

    _variants(run, change)


def values(run: Path, secret: Path) -> None:
    """Whole files of the right columns, with values that no recorder writes."""

    def change(table: pa.Table, about: dict[str, Any]) -> list[tuple[pa.Table, Any]]:
        n, floats = table.num_rows, pa.float32()
        columns = {
            "length": pa.array([1000] * n, pa.int32()),
            "row": pa.array([7] * n, pa.int32()),
            "prompt_id": pa.array(["0" * 12] * n),
            "prompt": pa.array(["[1, 2"] * n),
            "score": pa.array([float("nan"), float("inf")] * (n // 2), floats),
            "ratios": pa.array([[[1.0]]] * n, pa.list_(pa.list_(floats))),
            "advantages": pa.array([[1.0]] * n, pa.list_(floats)),
            "values": pa.array([[None, 1.0]] * n, pa.list_(floats)),
            "log_probs": pa.array([None] * n, pa.list_(floats)),
            "tokens": pa.array([None] * n, pa.list_(pa.string())),
            "completion": pa.array([None] * n, pa.string()),
        }
        spoilt = [table.set_column(table.schema.get_field_index(name), name, it) for name, it in columns.items()]
        return [(other, about) for other in [*spoilt, table.slice(0, 0)]]

    _variants(run, change)


def holes(run: Path, secret: Path) -> None:
    """Null in the place of a number that was none, as a recorder writes it."""

    def change(table: pa.Table, about: dict[str, Any]) -> list[tuple[pa.Table, Any]]:
        spoilt: list[pa.Table] = []
        for name in ("log_probs", "ref_log_probs", "kls", "rewards", "values", "returns", "advantages", "ratios"):
            cells = table[name].to_pylist()
            for row in cells:
                for part in row if name == "ratios" else [row]:
                    part[0 if name == "ratios" else -1] = None
            column = table.schema.get_field_index(name)
            spoilt.append(table.set_column(column, name, pa.array(cells, table.schema.field(column).type)))
        empty = [pa.array([None] * table.num_rows, table.schema.field(name).type) for name in SCALARS]
        for name, column in zip(SCALARS, empty, strict=True):
            spoilt.append(table.set_column(table.schema.get_field_index(name), name, column))
        return [(other, about) for other in spoilt]

    _variants(run, change)


def settings(run: Path, secret: Path) -> None:
    """A configuration that refers to itself, many times over."""
    header = (run / "config.yaml").read_text().split("\n\n")[0]
    letters = "abcdefgh"
    lines = [f"a: &a [{', '.join('x' * 9)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(letters)]
    (run / "config.yaml").write_text("\n".join([header, "", *lines, "round: &r [*r]", "run: [1, 2]", ""]))
