"""The file of decisions: lines are added and never changed, each on the disk before its labeller is told so."""

import json
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clearppo.data.labels import UNDONE, Decision, read_decision
from clearppo.disk import absent_directories, make_writable, remove_empty
from clearppo.errors import DataError, RunDirError
from clearppo.lock import lock, unlock
from clearppo.rundir import disk_errors

OPTION = "output"
_disk_errors = partial(disk_errors, option=OPTION, any_cause=True)


class LabelStore:
    """One process has a file open at a time; within it any number of threads may add.

    `notes` are what was found and mended when it was opened. Whatever the disk refuses is a RunDirError of one
    sentence, and the file is then as it was.
    """

    def __init__(self, path: Path, *, key: Path, made: Sequence[Path], fresh: bool) -> None:
        self.path = path
        self.notes: list[str] = []
        self._key = key
        self._made = made
        self._fresh = fresh
        self._mutex = threading.RLock()
        self._standing: dict[tuple[str, str], Decision] = {}
        self._nonces: set[str] = set()
        self._handle = -1
        self._size = 0

    @classmethod
    def open(cls, output: str | Path) -> "LabelStore":
        """Open or make the file, and mend a last line that a crash cut short: what is there of it moves to a file
        beside. Raises RunDirError, also if another process has it open, and DataError for a line that is no decision.
        """
        path = Path(os.path.expanduser(output))
        if path.suffix != ".jsonl":
            raise RunDirError(f"{OPTION} = {path} must end in .jsonl. Use --{OPTION} {path.with_suffix('.jsonl')}.")
        if path.is_dir():
            raise RunDirError(f"{OPTION} = {path} is a directory. Give the name of a file that ends in .jsonl.")
        made, fresh = absent_directories(path.parent), not path.exists()
        with _disk_errors(path):
            make_writable(path.parent)
            path.open("ab").close()
            try:
                key = lock(path)
            except BlockingIOError:
                raise RunDirError(
                    f"another clearppo label has {path} open. End that one, label in its page (several labellers can), "
                    f"or use another --{OPTION}."
                ) from None
        store = cls(path, key=key, made=made, fresh=fresh)
        try:
            store._read()
            with _disk_errors(path):
                store._handle = os.open(path, os.O_WRONLY | os.O_APPEND)
                store._size = os.fstat(store._handle).st_size
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Let others have the file. One that was made here and is still empty goes."""
        with self._mutex:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
            if self._fresh and self.path.exists() and not self.path.stat().st_size:
                self.path.unlink()
                remove_empty(self._made)
            unlock(self._key)

    def add(self, decision: Decision) -> bool:
        """Write a decision, unless it is there: one of the same `nonce`, or the labeller's standing one says the same.

        It is on the disk when this returns; True if a line was written. Raises RunDirError, with nothing written.
        """
        with self._mutex:
            before = self._standing.get((decision.item, decision.labeller))
            said = before is None if decision.verdict == UNDONE else before is not None and before.same_as(decision)
            if said or self.seen(decision.nonce):
                return False
            with _disk_errors(self.path):
                self._append(decision.line().encode())
            self._take(decision)
            return True

    def standing(self) -> list[Decision]:
        """The decisions that stand, in the order in which they were made."""
        with self._mutex:
            return list(self._standing.values())

    def seen(self, nonce: str) -> bool:
        """Whether a line of this nonce is in the file."""
        with self._mutex:
            return bool(nonce) and nonce in self._nonces

    def decided(self, item: str, labeller: str) -> Decision | None:
        """What this labeller thinks of this item."""
        with self._mutex:
            return self._standing.get((item, labeller))

    def _take(self, decision: Decision) -> None:
        self._standing.pop((decision.item, decision.labeller), None)
        if decision.verdict != UNDONE:
            self._standing[decision.item, decision.labeller] = decision
        if decision.nonce:
            self._nonces.add(decision.nonce)

    def _append(self, line: bytes) -> None:
        """All of the line or nothing, and on the disk."""
        here = os.fstat(self._handle)
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != (here.st_dev, here.st_ino):
            raise RunDirError(f"{self.path} was moved or removed while it is written. Put it back and start again.")
        if here.st_size != self._size:
            raise RunDirError(
                f"{self.path} was changed by another program while it is open: it has {here.st_size} bytes, and "
                f"{self._size} were left there. Nothing was written; start again."
            )
        try:
            done = 0
            while done < len(line):
                done += os.write(self._handle, line[done:])
            os.fsync(self._handle)
            self._size += len(line)
        except BaseException:
            os.ftruncate(self._handle, here.st_size)
            raise

    def _read(self) -> None:
        with _disk_errors(self.path):
            content = self.path.read_bytes()
        whole, end, rest = content.rpartition(b"\n")
        if rest:
            self._mend(len(whole + end), rest)
        lines = (whole + end).split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{self.path} line {number}"
                self._take(read_decision(_parsed(line, place), place))
        if rest and self._is_whole(rest):
            self._take(read_decision(json.loads(rest), f"{self.path} line {len(lines) + 1}"))

    def _mend(self, size: int, rest: bytes) -> None:
        """The file's last line has no end. A whole one is given it; half of one moves aside."""
        with _disk_errors(self.path), self.path.open("r+b") as file:
            if self._is_whole(rest):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                aside = self.path.with_name(f"{self.path.name}.torn")
                with aside.open("ab") as kept:
                    kept.write(rest + b"\n")
                    kept.flush()
                    os.fsync(kept.fileno())
                file.truncate(size)
                self.notes.append(
                    f"the last line of {self.path} was cut short by a crash; its {len(rest)} bytes moved to {aside}. "
                    "That decision is asked for again."
                )
            file.flush()
            os.fsync(file.fileno())

    def _is_whole(self, rest: bytes) -> bool:
        try:
            read_decision(json.loads(rest), str(self.path))
        except (ValueError, RecursionError, DataError):
            return False
        return True


def _parsed(line: bytes, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON. Mend or delete the line.") from error
