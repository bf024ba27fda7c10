"""Files that are written whole or not at all, and directories that leave nothing behind. Raises OSError."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO


def part_of(file: Path) -> Path:
    """Where a file is written before it gets its name."""
    return file.with_name(f".{file.name}.part")


@contextlib.contextmanager
def whole_file(file: Path) -> Generator[IO[bytes]]:
    """Write a file beside its place, bring it to the disk, and rename it: no kill and no full disk leaves half."""
    beside = part_of(file)
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_whole(file: Path, content: bytes) -> None:
    """Write a file, or another content of it, whole."""
    with whole_file(file) as stream:
        stream.write(content)


def append_whole(file: Path, text: str) -> None:
    """Append `text` to a file; if that fails (OSError, or Ctrl-C in the middle) no part of it stays behind."""
    before = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except BaseException:
        with contextlib.suppress(OSError):
            os.truncate(file, before)
        raise


def free_name(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    names = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(name for name in itertools.chain([path], names) if not name.exists())


def absent_directories(path: Path) -> list[Path]:
    """The directories that would have to be made for `path` to be one, itself first."""
    return [directory for directory in (path, *path.parents) if not directory.exists()]


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove these directories, as far as they are there and empty."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def make_writable(directory: Path) -> None:
    """Make the directory if it is not there, and write something there. Raises OSError if either cannot be done."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as probe:
        probe.write(b"x")
