"""Reading back what wandb keeps offline: a log of records in LevelDB's form, each a protobuf message."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
"""Bytes of a block, and of a record's header: checksum (4), length (2), kind (1). The file begins with one as long."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(file: Path) -> Iterator[Any]:
    """The records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # what is left of a block is padding
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0:
            break
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(file: Path) -> list[dict[str, Any]]:
    """What was logged, a dict a step, with the step under "step"; parts of a value under its name, / and theirs."""
    rows: list[dict[str, Any]] = []
    for record in messages(file):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({**row, "step": record.history.step.num})
    return rows


def run_of(file: Path) -> Any:
    """The message that begins the run: its id, name, project and config."""
    return next(record.run for record in messages(file) if record.WhichOneof("record_type") == "run")


def config_of(file: Path) -> dict[str, Any]:
    """The options that the run was told of."""
    found = [record.config for record in messages(file) if record.WhichOneof("record_type") == "config"]
    return {item.key: json.loads(item.value_json) for config in found for item in config.update}
