"""A file of JSON lines that is there whole or not at all; while it grows it has another name.

name.jsonl               the finished file
.name.jsonl.part         the rows so far
name.interrupted.jsonl   the rows so far, if the run ended early
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clearppo.disk import absent_directories, append_whole, make_writable, remove_empty
from clearppo.errors import ConfigError, RunDirError
from clearppo.rundir import disk_errors

ENDING = ".jsonl"
OPTION = "output_file"

_disk_errors = partial(disk_errors, option=OPTION, any_cause=True)


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
    def create(cls, output_file: str | Path, *, overwrite: bool = False) -> "PartFile":
        """Make the directory and see that it can be written.

        Raises ConfigError for another ending than .jsonl, which says how a file is read; RunDirError if the path is a
        directory or cannot be written, or, without `overwrite`, if there is such a file or what an earlier run left.
        """
        path = Path(os.path.expanduser(output_file))
        if path.suffix != ENDING:
            raise ConfigError(f"{OPTION} = {path} must end in {ENDING}. Use --{OPTION} {path.with_suffix(ENDING)}.")
        if path.is_dir():
            raise RunDirError(f"{OPTION} = {path} is a directory. Give the name of a file that ends in {ENDING}.")
        made = absent_directories(path.parent)
        file = cls(path, overwrite=overwrite, made=made)
        if not overwrite:
            file._refuse_earlier()
        with _disk_errors(path):
            make_writable(path.parent)
        return file

    def begin(self) -> None:
        """Open an empty part."""
        with _disk_errors(self.part):
            try:
                self.part.open("w" if self._overwrite else "x").close()
            except FileExistsError as error:  # since `create`: another run has the same output
                raise RunDirError(f"{self.part} is there: another run writes {self.path}. Use another file.") from error
        self.n_rows = 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, each on a line of its own; all of them or, if the disk refuses, none."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        with _disk_errors(self.path):
            self.part.stat()  # if somebody took it away, a new one must not pass for the whole
            append_whole(self.part, "".join(lines))
        self.n_rows += len(lines)

    def finish(self) -> None:
        """The part takes its final name; what an earlier run left unfinished goes."""
        with _disk_errors(self.path):
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

    def _refuse_earlier(self) -> None:
        mend = f"Use another --{OPTION}, or --overwrite_{OPTION} true."
        if self.path.exists():
            raise RunDirError(f"{OPTION} = {self.path} is there already. {mend}")
        if self.interrupted.exists():
            raise RunDirError(f"{self.interrupted} holds what an earlier run had finished. {mend}")
        if self.part.exists():
            raise RunDirError(f"{self.part} holds the rows of a run that still goes on or was killed. {mend}")
