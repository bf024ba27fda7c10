"""Locking a directory or a file against other processes. It leaves nothing on the disk and ends with the process."""

import os
import sys
import time
from pathlib import Path

_HELD: dict[Path, tuple[int, int]] = {}
"""What this process has locked: the handle, and how many hold it."""
PATIENCE = 0.1
"""Seconds for which a lock is waited for: `is_locked` of another process holds one for a moment."""


def lock(path: Path) -> Path:
    """Lock a directory or a file that is there; returns what `unlock` wants. Within a process any number may hold it.

    Raises BlockingIOError if another process has locked it. The system lets go when a process ends, however it ends.
    File systems that know no locks, and Windows, do without.
    """
    key = path.resolve()
    handle, holders = _HELD.get(key, (-1, 0))
    if not holders and sys.platform != "win32":
        import fcntl  # Windows has none

        handle = os.open(path, os.O_RDONLY)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(PATIENCE / 10)
                    continue
                os.close(handle)
                raise
            except OSError:
                pass
            break
    _HELD[key] = (handle, holders + 1)
    return key


def is_locked(path: Path) -> bool:
    """Whether a process, this one or another, holds the lock of a directory; False where that cannot be told."""
    if sys.platform == "win32":
        return path.resolve() in _HELD
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back by closing
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def unlock(key: Path) -> None:
    """Let go of what `lock` returned; others in this process may still hold it."""
    handle, holders = _HELD.pop(key)
    if holders > 1:
        _HELD[key] = (handle, holders - 1)
    elif handle >= 0:
        os.close(handle)
