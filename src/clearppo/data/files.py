"""Rows from files: JSON lines, JSON (both may be gzipped), CSV, Parquet, Arrow. What is wrong becomes a DataError."""

import csv
import difflib
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearppo.errors import DataError

Located = tuple[str, Any]
"""Where a row stands in its file, for messages ("line 3", "row 2"), and the row."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is read from a file, in words for messages, and which of its columns are text.

    `noun` is a plural ("prompts") and `example` one row. A CSV file's header must name one of `columns`; cells of
    `texts` stay text even if all are written like numbers. `flag` is the option that named the file, without dashes.
    """

    noun: str
    example: str
    columns: tuple[str, ...]
    texts: frozenset[str]
    flag: str = "dataset_name"


def read_file(path: Path, wanted: Wanted) -> list[Located]:
    """Every row of a file, with the place where it stands. The file's ending says how to read it.

    Raises DataError if the path is a directory, has an unknown ending, cannot be read or is malformed (with the line).
    """
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if is_readable(ending(entry)))[:5]
        instead = f"{path / inside[0]}" if inside else "a file in it"
        held = f"It holds {', '.join(inside)}." if inside else f"It holds no file that ends in {_endings()}."
        raise DataError(f"{path} is a directory, not a file of {wanted.noun}. {held} Use --{wanted.flag} {instead}.")
    if not is_readable(ending(path)):
        raise DataError(
            f"{path} ends in {ending(path) or 'nothing'}; the ending says how a file is read and must be one of "
            f"{_endings()}. Rename or convert it."
        )
    try:
        return _read_csv(path, wanted) if ending(path) == ".csv" else READERS[ending(path)](path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {brief(error)}. Check that it is whole, or unpack it.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or brief(error)}. Check that it is whole and yours to read."
        ) from error


def ending(path: Path) -> str:
    """The ending that says how a file is read, in small letters: ".json", ".jsonl.gz"."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_readable(file_ending: str) -> bool:
    """Whether files of this ending are read."""
    return file_ending == ".csv" or file_ending in READERS


def missing_file(path: Path, wanted: Wanted) -> DataError:
    """The error for a path where nothing is, with the nearest name in the same directory."""
    folder = path.parent
    if not folder.is_dir():
        return DataError(f"there is no file {path}: the directory {folder} does not exist. Check --{wanted.flag}.")
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"Did you mean {folder / near[0]}?" if near else f"Looked in {folder.resolve()}. Check --{wanted.flag}."
    return DataError(f"there is no file {path}. {hint}")


def brief(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message (its type's name if it has none), at most `limit` characters of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].strip().rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def kind_and_message(error: BaseException) -> str:
    """ "ValueError: what it says", or "MemoryError" alone if it says nothing."""
    return f"{type(error).__name__}: {brief(error)}" if str(error).strip() else type(error).__name__


def _read_text(path: Path) -> str:
    """A UTF-8 file as text, a byte order mark removed. Raises DataError with the line of the first byte that is not."""
    raw = path.read_bytes()
    if path.suffix.lower() == ".gz":
        raw = gzip.decompress(raw)
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path} line {line}: a NUL byte, so this is no UTF-8 text (is it UTF-16?). Save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line}: byte {raw[error.start]:#04x} is not UTF-8. Save it as UTF-8.") from error


def _read_json_lines(path: Path) -> list[Located]:
    return _json_lines(path, _read_text(path))


def _json_lines(path: Path, text: str) -> list[Located]:
    # Split at "\n" only: str.splitlines would also cut a string at U+2028 or U+0085, which JSON allows inside one.
    lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [(where, _parse_json(line, f"{path} {where}")) for where, line in lines]


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which json would let the last of two values for a key win without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno}). Mend the line.") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits; brackets 10,000 deep
        raise DataError(f"{place}: JSON that cannot be read ({brief(error)}). Mend the line.") from error


def _read_json(path: Path) -> list[Located]:
    """A JSON array of objects. JSON lines in a .json file, as many data sets have them, are read too."""
    text = _read_text(path)
    start = text.lstrip()[:1]
    if start == "{":
        return _json_lines(path, text) if _first_line_is_whole(text) else [("row 1", _whole_json(path, text))]
    if not start:
        return []
    content = _whole_json(path, text)
    if not isinstance(content, list):
        raise DataError(
            f"{path} holds {article(content)}, not a list of rows. "
            'Write [{"prompt": ...}, ...], or one object a line in a .jsonl file.'
        )
    return [(f"row {number}", row) for number, row in enumerate(content, start=1)]


def _first_line_is_whole(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        return len(lines) == 1  # then its own line's error is the better message
    return True


def _whole_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno}: not JSON ({error.msg} at column {error.colno}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: JSON that cannot be read ({brief(error)}).") from error


def article(value: Any) -> str:
    """What a JSON value is, in words: "a list", "a string", "nothing"."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "nothing (null)" if value is None else names.get(type(value), f"a {type(value).__name__}")


@contextmanager
def _long_cells() -> Iterator[None]:
    """A prompt may be longer than csv's 131,072 characters a cell; the limit is global, so it is put back."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_csv(path: Path, wanted: Wanted) -> list[Located]:
    """Comma-separated cells under a header line. A column of numbers becomes numbers, its empty cells None."""
    text = _read_text(path)
    if not text.strip():
        return []
    rows: list[tuple[str, list[str]]] = []
    # Lines keep their ends and are cut at "\n" only: a quoted cell may hold line breaks and U+2028.
    reader = csv.reader(re.findall(r"[^\n]*\n|[^\n]+", text), strict=True)
    with _long_cells():
        try:
            header = next(reader)
            start = reader.line_num + 1
            for cells in reader:
                if cells:
                    rows.append((f"line {start}", cells))
                start = reader.line_num + 1
        except csv.Error as error:
            line = reader.line_num
            raise DataError(f'{path} line {line}: not CSV ({brief(error)}). Quote cells as in "a, b".') from error
    _check_header(path, header, wanted)
    for where, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path} {where}: {len(cells)} cells under a header of {len(header)}. Quote cells that hold a comma."
            )
    columns = {name: [cells[index] for _, cells in rows] for index, name in enumerate(header)}
    typed = {name: cells if name in wanted.texts else _numbers(cells) for name, cells in columns.items()}
    return [(where, {name: typed[name][index] for name in header}) for index, (where, _) in enumerate(rows)]


def _check_header(path: Path, header: list[str], wanted: Wanted) -> None:
    if not set(wanted.columns) & set(header):
        one_of = " or ".join(f"`{name}`" for name in wanted.columns)
        separator = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
        if separator is not None:
            mend = f"Separate the cells with commas (here they seem to be separated by {separator!r})."
        else:
            mend = f"The first line must name the columns, one of them {' or '.join(wanted.columns)}."
        raise DataError(f"{path} line 1: no column {one_of} in the header ({_quoted(header)}). {mend}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path} line 1: the header names {_quoted(twice)} twice. Give every column its own name.")


def _quoted(names: list[str]) -> str:
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:8])
    return f"{shown}, … {len(names)} in all" if len(names) > 8 else shown


_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def _numbers(cells: list[str]) -> list[Any]:
    """The cells as ints or floats if every one that is not empty is written like one ("007" is not), else unchanged."""
    filled = [cell for cell in cells if cell]
    for pattern, kind in ((_INTEGER, int), (_DECIMAL, float)):
        if filled and all(pattern.fullmatch(cell) for cell in filled):
            return [kind(cell) if cell else None for cell in cells]
    return list(cells)


def _read_parquet(path: Path) -> list[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        # A file handle, not the path: pyarrow would read a path's folder names as columns (label=1/train.parquet).
        with path.open("rb") as file:
            return _located(pyarrow.parquet.read_table(file))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {brief(error)}. Write it again.") from error


def _read_arrow(path: Path) -> list[Located]:
    """Arrow IPC: the stream format, which `datasets` writes, or the file format."""
    import pyarrow
    import pyarrow.ipc

    try:
        with path.open("rb") as file:
            is_file_format = file.read(6) == b"ARROW1"
            file.seek(0)
            open_as = pyarrow.ipc.open_file if is_file_format else pyarrow.ipc.open_stream
            return _located(open_as(file).read_all())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Arrow: {brief(error)}. Write it again.") from error


def _located(table: Any) -> list[Located]:
    table.validate(full=True)  # pyarrow trusts a damaged file's offsets otherwise, and reads beyond its memory
    return [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]


READERS: dict[str, Callable[[Path], list[Located]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".jsonl.gz": _read_json_lines,
    ".json.gz": _read_json,
}
"""By ending; CSV stands apart, because it must know which columns are text."""


def _endings() -> str:
    return ", ".join([*list(READERS)[:2], ".csv", *list(READERS)[2:]])
