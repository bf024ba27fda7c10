"""Where a report goes: its page, and figures beside it. No file that is none of a report is ever replaced."""

import re
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clearppo.disk import replace_whole
from clearppo.errors import RunDirError
from clearppo.rundir import disk_errors

PAGE_MARK = b'<meta name="generator" content="clearppo report">'
"""By this in its head a page is known as a report."""
FIGURE_MARK = "clearppo report"
"""A figure is known by this in the PNG's Software field."""
HEAD = 4096  # bytes of a file in which its mark stands
_UNSAID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def check_page(target: Path) -> None:
    """Raises RunDirError if a page must not be written there: by its name, or by what is there already."""
    if target.suffix.lower() != ".html":
        raise RunDirError(
            f"a report is an HTML page, and the name {str(target)!r} does not end in .html. Give --output a file's "
            "name such as report.html."
        )
    _require_own(target, PAGE_MARK)


def check_figures(directory: Path, names: Mapping[str, bytes]) -> None:
    """The same of figures by these names in a directory."""
    with disk_errors(directory, "output", any_cause=True):
        taken = (directory.exists() or directory.is_symlink()) and not directory.is_dir()
    if taken:
        raise RunDirError(
            f"{directory} is a file, and the figures of --png go into a directory of that name. Move it away, or use "
            "an --output in another directory."
        )
    for name in names:
        _require_own(directory / name, f"Software\0{FIGURE_MARK}".encode())


def write_page(target: Path, text: str) -> None:
    """Write the page whole, whatever its text. Raises RunDirError."""
    with disk_errors(target, "output", any_cause=True):
        replace_whole(target, clean(text).encode())


def write_figures(directory: Path, pictures: Mapping[str, bytes]) -> list[Path]:
    """Write figures, each whole. Raises RunDirError."""
    files = [directory / name for name in pictures]
    with disk_errors(directory, "output", any_cause=True):
        directory.mkdir(exist_ok=True)
        for file, content in zip(files, pictures.values(), strict=True):
            replace_whole(file, content)
    return files


@contextmanager
def reading_errors(why: str = "A report is made from the run's files") -> Generator[None]:
    """Turn what the disk says while a run's files are read into a RunDirError of one sentence, which says `why`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise RunDirError(
            f"cannot read {error.filename} ({error.strerror}). {why}: ask for the permission to read them all, or have "
            "their owner write it."
        ) from error


def clean(text: str) -> str:
    """The text with a mark for each character that no page and no figure can show: control characters, and halves of
    characters, which UTF-8 cannot write either."""
    return _UNSAID.sub("\ufffd", text)


def _require_own(target: Path, mark: bytes) -> None:
    """Raises RunDirError if something is there that is no file with this mark, a link among it."""
    with disk_errors(target, "output", any_cause=True):
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISREG(mode):
            with target.open("rb") as stream:
                if mark in stream.read(HEAD):
                    return
    what = "a link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "no report of ClearPPO's"
    raise RunDirError(
        f"{target} is there already and is {what}, so it is not replaced. Use another --output, or move it away."
    )
