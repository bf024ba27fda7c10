"""Writing the record: one file an iteration, whole or not at all, and never more than a bound in all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clearppo.disk import whole_file
from clearppo.record.schema import METADATA_KEY, ROWS_A_GROUP, VERSION, file_name


def write_iteration(directory: Path, step: int, table: pa.Table, meta: Mapping[str, Any]) -> int:
    """Write an iteration's file: beside its place, brought to the disk, renamed. Returns its size in bytes.

    `table` has the columns of `schema.schema`, `meta` the fields of `schema.METADATA` without version and step.
    Raises OSError, or what pyarrow raises; no part of the file is there then.
    """
    about = json.dumps({"version": VERSION, "step": step, **meta}, ensure_ascii=False, allow_nan=False)
    table = table.replace_schema_metadata({METADATA_KEY: about.encode()})
    directory.mkdir(exist_ok=True)
    with whole_file(directory / file_name(step)) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=ROWS_A_GROUP, write_page_checksum=True)
        return stream.tell()


class Store:
    """The files of a run of `last` iterations: every `every`-th of them, the first and the last always; 0: none.

    When they are larger than `limit` bytes together, every second one goes, and from then on only every second comes;
    again and again, so that what is there always covers the whole course. Which files there are follows from their
    sizes alone, and these are in `state`: not from the disk, where a run that was killed may have left other ones.
    """

    def __init__(self, directory: Path, *, every: int, last: int, limit: int) -> None:
        self.directory = directory
        self.every = every
        self.last = last
        self.limit = limit
        self.stride = 1
        self.sizes: dict[int, int] = {}

    def due(self, step: int) -> bool:
        """Whether an iteration is to be written."""
        return self.every > 0 and (step in (1, self.last) or step % (self.every * self.stride) == 0)

    def write(self, step: int, table: pa.Table, meta: Mapping[str, Any]) -> None:
        """Write an iteration, and make room if that is needed. Raises what `write_iteration` raises."""
        self.sizes[step] = write_iteration(self.directory, step, table, meta)
        self._thin()

    def forget(self, after: int) -> None:
        """The files of later iterations than `after` are gone: the run went back."""
        self.sizes = {step: size for step, size in self.sizes.items() if step <= after}

    def state(self) -> dict[str, Any]:
        """What decides about later files."""
        return {"stride": self.stride, "steps": list(self.sizes), "sizes": list(self.sizes.values())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.stride = int(state["stride"])
        self.sizes = dict(zip(map(int, state["steps"]), map(int, state["sizes"]), strict=True))

    def _thin(self) -> None:
        """Take every second file away until the rest fits, or only the first and the last are left."""
        while sum(self.sizes.values()) > self.limit and any(step not in (1, self.last) for step in self.sizes):
            self.stride *= 2
            for step in [step for step in self.sizes if not self.due(step)]:
                (self.directory / file_name(step)).unlink(missing_ok=True)
                del self.sizes[step]
