"""The file into which a command writes what it found, where the user names one."""

import json
from pathlib import Path

import click

from clearppo.errors import RunDirError


def writable(file: Path | None, option: str) -> Path | None:
    """The file that --`option` names, if it can be one; asked before any work is done. None: none was named.

    Raises RunDirError for a directory, and for a file in one that is not there.
    """
    if file is None:
        return None
    file = file.expanduser()
    if file.is_dir():
        raise RunDirError(f"--{option} {file} is a directory. Name a file, such as {file / 'found.json'}.")
    if not file.absolute().parent.is_dir():
        raise RunDirError(f"--{option} {file}: there is no directory {file.parent}. Make it, or name another file.")
    return file


def write_json(file: Path | None, found: object, option: str) -> None:
    """Write it whole, with null for what JSON has no number for, and say so; nothing without a file.

    Raises RunDirError where the disk refuses.
    """
    if file is None:
        return
    from clearppo.disk import replace_whole
    from clearppo.rundir import disk_errors

    text = json.dumps(_finite(found), ensure_ascii=False, indent=2, allow_nan=False)
    with disk_errors(file, option, any_cause=True):
        replace_whole(file, (text + "\n").encode())
    click.echo(f"wrote {click.format_filename(file)}")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
