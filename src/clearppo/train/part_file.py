"""A file of JSON lines that is there whole or not at all; while it grows it has another name.

name.jsonl               the finished file
.name.jsonl.part         the rows so far
name.interrupted.jsonl   the rows so far, if the run ended early
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.errors import ConfigError, RunDirError
from clearppo.rundir import absent_directories, remove_empty

ENDING = ".jsonl"


class PartFile:
    """The output file of a run. Whatever the disk refuses is a RunDirError of one sentence.

    `create` checks, `begin` opens the part, `append` adds rows that are on the disk when it returns, and either
    `finish` or `keep` gives the part its name. An earlier file stays until `finish`.
    """

    def __init__(self, path: Path, *, overwrite: bool, made: Sequence[Path]) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        self.interrupted = path.with_name(f"{path.stem}.interrupted{ENDING}")
        self.n_rows = 0
        self._overwrite = overwrite
        self._made = made

    @classmethod
    def create(cls, output_file: str | Path, *, overwrite: bool = False, option: str = "output_file") -> "PartFile":
        """Make the directory and see that it can be written. `option` is what the user gave the path as.

        Raises ConfigError for another ending than .jsonl, which says how a file is read; RunDirError if the path is a
        directory or cannot be written, or, without `overwrite`, if there is such a file or what an earlier run left.
        """
        path = Path(os.path.expanduser(output_file))
        if path.suffix != ENDING:
            raise ConfigError(f"{option} = {path} must end in {ENDING}. Use --{option} {path.with_suffix(ENDING)}.")
        if path.is_dir():
            raise RunDirError(f"{option} = {path} is a directory. Give the name of a file that ends in {ENDING}.")
        made = absent_directories(path.parent)
        file = cls(path, overwrite=overwrite, made=made)
        if not overwrite:
            file._refuse_earlier(option)
        with _one_sentence(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent) as probe:
                probe.write(b"x")
        return file

    def begin(self) -> None:
        """Open an empty part."""
        with _one_sentence(self.part):
            try:
                self.part.open("w" if self._overwrite else "x").close()
            except FileExistsError as error:  # since `create`: another run has the same output
                raise RunDirError(f"{self.part} is there: another run writes {self.path}. Use another file.") from error
        self.n_rows = 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, each on a line of its own; all of them or, if the disk refuses, none."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        with _one_sentence(self.path):
            before = self.part.stat().st_size
            try:
                with self.part.open("a", encoding="utf-8") as stream:
                    stream.writelines(lines)
            except BaseException:  # Ctrl-C too: no half line stays behind
                with contextlib.suppress(OSError):
                    os.truncate(self.part, before)
                raise
        self.n_rows += len(lines)

    def finish(self) -> None:
        """The part takes its final name; what an earlier run left unfinished goes."""
        with _one_sentence(self.path):
            self.part.replace(self.path)
            self.interrupted.unlink(missing_ok=True)

    def keep(self) -> Path | None:
        """The run ended early: where its rows are now, or None if there are none. Never raises."""
        try:
            if self.n_rows == 0:
                self.part.unlink(missing_ok=True)
                self.discard()
                return None
            self.part.replace(self.interrupted)
        except OSError:
            return self.part
        return self.interrupted

    def discard(self) -> None:
        """Take away the directories that were made here and are still empty: a start that failed leaves nothing."""
        remove_empty(self._made)

    def _refuse_earlier(self, option: str) -> None:
        mend = f"Use another --{option}, or --overwrite_{option} true."
        if self.path.exists():
            raise RunDirError(f"{option} = {self.path} is there already. {mend}")
        if self.interrupted.exists():
            raise RunDirError(f"{self.interrupted} holds what an earlier run had finished. {mend}")
        if self.part.exists():
            raise RunDirError(f"{self.part} holds the rows of a run that still goes on or was killed. {mend}")


@contextlib.contextmanager
def _one_sentence(file: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunDirError(f"no space left to write {file}. Make room, or write to another disk.") from error
        raise RunDirError(f"cannot write {file} ({error.strerror}). Choose a place where you may write.") from error
