"""What a checkpoint's manifest says of its files, and whether it is still so."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from clearppo.train.state_file import SHARDS

MANIFEST, STATE = "manifest.json", "training_state"
FORMAT, SHARED_OUT = 1, 2
"""The layout of a checkpoint, and of one with shards. One with another number is not read."""
_HASHED_AT_ONCE = 2**22


def damage(path: Path, step: int | None = None) -> str | None:
    """What is wrong with the checkpoint in this directory, in words; None if every file is what was written.

    `step` is the one that the directory's name says. Files beside those of the manifest do not count.
    """
    try:
        manifest = manifest_of(path)
        if step is not None and manifest["step"] != step:
            return f"{MANIFEST} is that of step {manifest['step']}"
        for name, expected in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if (size := file.stat().st_size) != expected["size"]:
                return f"{name} has {size} bytes, and {expected['size']} were written"
            if _sha256(file) != expected["sha256"]:
                return f"{name} is not what was written (its checksum differs)"
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str) else "a file"
        return f"{name} is missing" if error.errno == errno.ENOENT else f"{name} cannot be read ({error.strerror})"
    except ManifestError as error:
        return str(error)
    return None


class ManifestError(Exception):
    """What is wrong with a manifest, in words."""


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises ManifestError; OSError if it cannot be read."""
    data = (path / MANIFEST).read_bytes()
    try:
        found = json.loads(data)
        layout, step, files = found["format"], found["step"], found["files"]
        whole = type(step) is int and data == _rendered(layout, step, files)
        inside = all(".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute() for name in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ManifestError(f"{MANIFEST} cannot be read") from None
    if not whole or not inside:
        raise ManifestError(f"{MANIFEST} is not what was written (its checksum differs)")
    if layout not in (FORMAT, SHARED_OUT):
        raise ManifestError(
            f"it has format {layout}, and this version of ClearPPO reads the formats {FORMAT} and {SHARED_OUT}"
        )
    return found


def _rendered(layout: int, step: int, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The bytes of a manifest; its own checksum is that of the same text without it."""
    content = {"format": layout, "step": step, "files": files}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1) + "\n").encode()


def seal_of(file: Path) -> dict[str, Any]:
    """What a manifest says of a file. Raises OSError."""
    return {"size": file.stat().st_size, "sha256": _sha256(file)}


def seal(directory: Path, step: int, sealed: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring every file to the disk and write the manifest, so that it speaks of nothing that is not there."""
    files = {(directory / STATE / SHARDS / name).relative_to(directory).as_posix(): of for name, of in sealed.items()}
    for file in _files(directory):
        if (name := file.relative_to(directory).as_posix()) not in files:
            sync(file)
            files[name] = seal_of(file)
    manifest = directory / MANIFEST
    manifest.write_bytes(_rendered(SHARED_OUT if sealed else FORMAT, step, dict(sorted(files.items()))))
    sync(manifest)
    for inner in [path for path in directory.rglob("*") if path.is_dir()]:
        sync(inner)
    sync(directory)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk. Raises OSError."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot, and needs not
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has nothing to wait for
            raise
    finally:
        os.close(handle)
