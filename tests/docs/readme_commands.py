"""Runs what README.md tells a newcomer to type, in its order, in an empty directory: `.ci/readme` calls this.

Which fenced block is what, its info string says (the text behind the opening fence):

    ```python        a first line `# file: NAME` writes the file NAME; without one the block is a program and is run
    ```yaml, ```json as python where they name a file (json: `file=NAME` in the info string); else they are left alone
    ```bash          is run, and every command of it must succeed
    ... no-ci        leaves a block alone, of any kind

Only the standard library, so that it runs before anything is installed.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```[ \t]*$", re.M | re.S)
FILE_LINE = re.compile(r"#[ \t]*file:[ \t]*(\S+)[ \t]*\n")
SECONDS_A_BLOCK = 600


@dataclass(frozen=True)
class Block:
    """A fenced block: the words of its info string, its text, and the line on which its fence opens."""

    info: tuple[str, ...]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def for_ci(self) -> bool:
        return "no-ci" not in self.info

    @property
    def file(self) -> str | None:
        """The file that the block is, or None."""
        for word in self.info:
            if word.startswith("file="):
                return word.removeprefix("file=")
        first = FILE_LINE.match(self.text)
        return first[1] if first else None

    @property
    def is_run(self) -> bool:
        return self.for_ci and self.file is None and self.language in ("bash", "python")

    @property
    def is_written(self) -> bool:
        return self.for_ci and self.file is not None


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks of a text, in order. Raises ValueError for a fence that is never closed."""
    found = [
        Block(
            info=tuple(match["info"].split()),
            text=match["text"],
            line=markdown.count("\n", 0, match.start()) + 1,
        )
        for match in FENCE.finditer(markdown)
    ]
    fences = len(re.findall(r"^```", markdown, re.M))
    if fences != 2 * len(found):
        raise ValueError(f"{fences} fences do not pair up into blocks")
    return found


def write(block: Block, directory: Path) -> None:
    """Write the file that a block is. Raises ValueError if it would lie outside `directory`."""
    assert block.file is not None
    target = (directory / block.file).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ValueError(f"line {block.line}: {block.file} lies outside the directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(block.text, encoding="utf-8")


def command(block: Block) -> list[str]:
    """How a block is run: bash that stops at the first failure, also within a pipe, or Python."""
    if block.language == "python":
        return [sys.executable, "-c", block.text]
    return ["bash", "-euo", "pipefail", "-c", block.text]


def environment() -> dict[str, str]:
    """This one, with the commands beside the running Python found first."""
    here = str(Path(sys.executable).parent)  # not resolved: in a virtual environment Python is a link
    return {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def run(block: Block, directory: Path) -> tuple[int, str]:
    """Exit status and all output. A block that hangs is ended, with all that it started, and fails with 124."""
    process = subprocess.Popen(
        command(block),
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=SECONDS_A_BLOCK)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, f"{output}\nended after {SECONDS_A_BLOCK} seconds"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def run_all(markdown: str, name: str, directory: Path) -> int:
    """Write and run the blocks of a text in order. The first failure is shown, and its exit status returned."""
    for block in blocks(markdown):
        where = f"{name}:{block.line}"
        if block.is_written:
            write(block, directory)
            print(f"{where}  wrote {block.file}", flush=True)
        elif block.is_run:
            began = time.monotonic()
            status, output = run(block, directory)
            print(f"{where}  {block.language}, exit {status}, {time.monotonic() - began:.1f} s", flush=True)
            if status:
                print(f"\nThis block failed:\n\n{block.text}\nIt printed:\n\n{output}", flush=True)
                return status
    return 0


def main(arguments: list[str]) -> int:
    """`readme_commands.py README.md ...`: each file in an empty directory of its own."""
    if not arguments:
        print("Usage: readme_commands.py README.md ...", file=sys.stderr)
        return 2
    for name in arguments:
        markdown = Path(name).read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="clearppo-readme-") as directory:
            if status := run_all(markdown, Path(name).name, Path(directory)):
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
