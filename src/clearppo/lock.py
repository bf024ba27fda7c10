"""Locking a directory against other processes. The lock leaves nothing on the disk and ends with the process."""

import os
import sys
from pathlib import Path

_HELD: dict[Path, tuple[int, int]] = {}
"""The directories that this process has locked: the handle, and how many hold it."""


def lock(path: Path) -> Path:
    """Lock a directory; returns what `unlock` wants. Within one process any number may hold it.

    Raises BlockingIOError if another process has locked it. The system lets go when a process ends, however it ends.
    File systems that know no locks, and Windows, do without.
    """
    key = path.resolve()
    handle, holders = _HELD.get(key, (-1, 0))
    if not holders and sys.platform != "win32":
        import fcntl  # Windows has none

        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            pass
    _HELD[key] = (handle, holders + 1)
    return key


def unlock(key: Path) -> None:
    """Let go of what `lock` returned; others in this process may still hold it."""
    handle, holders = _HELD.pop(key)
    if holders > 1:
        _HELD[key] = (handle, holders - 1)
    elif handle >= 0:
        os.close(handle)
