"""Reading the record, page by page: an iteration's answers sorted and filtered, and one answer with all its tokens."""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from clearppo.errors import RecordError
from clearppo.record.schema import (
    DIRECTORY,
    METADATA,
    METADATA_KEY,
    SCALARS,
    TOKENS,
    VERSION,
    file_name,
    prompt_of,
    schema,
    step_of,
)

RANGES = ("score", "raw_score", "kl", "length", "advantage", "reward")
"""The columns that a filter may bound: `min_score`, `max_score` and so on."""
FILTERS = ("finish", "learned", "prompt_id", *(f"{end}_{name}" for name in RANGES for end in ("min", "max")))
SORTS = ("row", "prompt", "completion", "finish_reason", "learned", *RANGES)
"""The columns to sort by; a source of the score is `parts.NAME`."""
_pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers know none of them
ALWAYS = ("token_ids", "tokens", "log_probs", "sampler_log_probs", "ref_log_probs", "kls", "rewards")
"""The lists that every answer has; the others are null where there is no critic, or where nothing was learned."""
KEPT_TABLES = 8
"""So many iterations' scalar columns are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of an iteration: of `total` answers `matching` pass the filters, and `rows` are some of them."""

    total: int
    matching: int
    rows: list[dict[str, Any]]


def steps(run_dir: Path) -> list[int]:
    """The iterations that were recorded, in their order."""
    found = (step_of(path) for path in (run_dir / DIRECTORY).glob("step-*.parquet") if path.is_file())
    return sorted(step for step in found if step is not None)


def iteration_path(run_dir: Path, step: int) -> Path:
    """Where an iteration's file is, or would be."""
    return run_dir / DIRECTORY / file_name(step)


class Iteration:
    """One file of the record. Raises RecordError, here and in every method, for one that is damaged, no record, or of a
    newer ClearPPO."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable():
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
                raise ValueError("it is no file")
            self._key = (str(path), found.st_mtime_ns, found.st_size)
            self._about, self.n_rows = _about(*self._key)
        self.meta: dict[str, Any] = json.loads(self._about)

    @cached_property
    def scalars(self) -> pa.Table:
        """The columns with one value an answer, without the token lists. Kept in memory for the last few files."""
        with self._readable():
            return _scalars(*self._key)

    def columns(self, *names: str) -> pa.Table:
        """Some columns of all answers, from the file."""
        with self._readable(), _opened(self.path) as file:
            return _valid(file.read(columns=list(names)))

    def answer(self, row: int) -> dict[str, Any]:
        """All columns of one answer; its prompt is a text or a list of messages. Reads one row group."""
        if not 0 <= row < self.n_rows:
            raise RecordError(
                f"answer {row} of iteration {self.meta['step']} is not recorded: there are answers 0 to "
                f"{self.n_rows - 1}. Use one of these."
            )
        with self._readable(), _opened(self.path) as file:
            group, before = 0, 0
            while before + (size := file.metadata.row_group(group).num_rows) <= row:
                group, before = group + 1, before + size
            # One row is cut out before anything is made into Python's lists.
            cells = _valid(file.read_row_group(group)).slice(row - before, 1).to_pylist()[0]
            _check_lengths(cells)
            return _told(cells)

    def page(
        self,
        sort: str | None = None,
        *,
        descending: bool = False,
        query: str = "",
        filters: Mapping[str, Any] | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> Page:
        """Some answers' scalar columns.

        `sort` is one of SORTS or `parts.NAME`; equal ones are in the batch's order, and null comes last. `query` is
        looked for in prompts and answers, whatever its case. `filters` are of FILTERS: `finish` = "stop", `learned` =
        True, `prompt_id`, and bounds as `min_score` = 0.5; a bound leaves null out.
        """
        table = self.scalars
        passing = table.filter(self._condition(query, filters or {})) if query or filters else table
        order = self._order(passing, sort, descending)
        rows = passing.take(order.slice(offset, limit)).to_pylist()
        with self._readable():
            return Page(total=table.num_rows, matching=passing.num_rows, rows=[_told(row) for row in rows])

    def neighbours(self, row: int) -> tuple[int | None, int | None]:
        """The answers before and after one, in the batch's order."""
        return (row - 1 if row > 0 else None, row + 1 if row + 1 < self.n_rows else None)

    def _condition(self, query: str, filters: Mapping[str, Any]) -> Any:
        condition = _pc.scalar(True)
        if query:
            found = [_pc.match_substring(_pc.field(name), query, ignore_case=True) for name in ("prompt", "completion")]
            condition &= found[0] | found[1]
        for name, value in filters.items():
            if name not in FILTERS:
                raise RecordError(f"filter = {name} is not known. Use one of {', '.join(FILTERS)}.")
            end, _, column = name.partition("_")
            if name in ("finish", "learned", "prompt_id"):
                condition &= _pc.field("finish_reason" if name == "finish" else name) == value
            else:
                condition &= _pc.field(column) >= value if end == "min" else _pc.field(column) <= value
        return condition

    def _order(self, table: pa.Table, sort: str | None, descending: bool) -> pa.Array:
        """The numbers of the rows, sorted."""
        name = sort or "row"
        if name in SORTS:
            column = table[name]
        elif name.startswith("parts.") and name.removeprefix("parts.") in self.sources:
            column = _pc.struct_field(table["parts"], name.removeprefix("parts."))
        else:
            known = [*SORTS, *(f"parts.{source}" for source in self.sources)]
            raise RecordError(f"sort = {name} is no column to sort by. Use one of {', '.join(known)}.")
        keys = pa.table({"key": column, "row": table["row"]})
        return _pc.sort_indices(
            keys, sort_keys=[("key", "descending" if descending else "ascending"), ("row", "ascending")]
        )

    @property
    def sources(self) -> list[str]:
        """The sources of the score, by name."""
        return [field.name for field in self.scalars.schema.field("parts").type]

    def _readable(self) -> "_Readable":
        return _Readable(self.path)


class _Readable:
    """Turns what a damaged file raises into one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise RecordError(f"{self.path} is not there: that iteration is not recorded.") from error
        if isinstance(error, OSError | ValueError | RecursionError | pa.ArrowException):
            raise RecordError(
                f"{self.path} cannot be read as a record ({str(error).splitlines()[0] if str(error) else 'damaged'}). "
                "Delete the file; the other iterations do not need it."
            ) from error


def _opened(path: Path | str) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


@lru_cache(maxsize=256)
def _about(path: str, mtime_ns: int, size: int) -> tuple[str, int]:
    """The metadata as text, and the number of answers. The time and the size are the cache's key: a run that was
    resumed writes its files again."""
    with _opened(path) as file:
        found = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
        n_rows, columns = file.metadata.num_rows, file.schema_arrow
    if found is None:
        raise RecordError(f"{path} is a Parquet file, and no record of ClearPPO.")
    meta = json.loads(found)
    version = meta.get("version") if isinstance(meta, dict) else None
    if not isinstance(version, int) or not METADATA["version"].holds(version):
        raise ValueError("its metadata have no version")
    if version > VERSION:
        raise RecordError(
            f"{path} was written by a newer ClearPPO (version {version} of the record; this one reads {VERSION}). "
            "Update with pip install -U clearppo."
        )
    _check(meta, columns)
    return found.decode(), n_rows


def _check(meta: Mapping[str, Any], columns: pa.Schema) -> None:
    """Raises ValueError unless the metadata and the columns are those of this version, so that whoever reads them need
    not look again."""
    wrong = next((name for name, field in METADATA.items() if not field.holds(meta.get(name))), None)
    if wrong is not None:
        raise ValueError(f"{wrong} = {str(meta.get(wrong))[:40]} in its metadata")
    types: dict[str, Any] = dict(zip(columns.names, columns.types, strict=True))
    parts: Any = types.get("parts")
    sources = [field.name for field in parts] if pa.types.is_struct(parts) else []
    for field in schema(sources, double=types.get("score") == pa.float64()):
        if types.get(field.name) != field.type:
            raise ValueError(f"its column {field.name} is missing, or no {field.type}")


def _check_lengths(answer: Mapping[str, Any]) -> None:
    """Raises ValueError unless each list of an answer has one value a token."""
    lists = {name: answer[name] for name in TOKENS}
    lists |= {f"ratios[{epoch}]": ratio for epoch, ratio in enumerate(answer["ratios"] or ())}
    for name, values in lists.items():
        if values is None and name in ALWAYS:
            raise ValueError(f"answer {answer['row']} has no {name}")
        if values is not None and len(values) != answer["length"]:
            raise ValueError(f"{name} of answer {answer['row']} has {len(values)} values for {answer['length']} tokens")


@lru_cache(maxsize=KEPT_TABLES)
def _scalars(path: str, mtime_ns: int, size: int) -> pa.Table:
    with _opened(path) as file:
        return _valid(file.read(columns=list(SCALARS))).combine_chunks()


def _valid(table: pa.Table) -> pa.Table:
    """The table, if its offsets can be trusted: pyarrow would read beyond its memory."""
    table.validate(full=True)
    return table


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its prompt as it was: a text or a list of messages."""
    return {**row, "prompt": prompt_of(row["prompt"], row["prompt_id"])}
