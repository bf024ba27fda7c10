"""Measurements in processes of their own: each starts with an empty heap, and its peak memory is its own.

A module that is run this way takes one argument, a JSON object, and prints another as its last line.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TAIL = 12  # lines of a failed process that are shown


class RunFailedError(RuntimeError):
    """A measurement did not come to its end; the message holds the last lines that it said."""


def apart(module: str, argument: Mapping[str, Any]) -> dict[str, Any]:
    """What `python -m module JSON` printed in its last line. Raises RunFailedError if it failed."""
    return last_line([sys.executable, "-m", module, json.dumps(argument)], module)


def last_line(command: list[str], name: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command from the repository's root, and read the last line of its output as JSON.

    Raises RunFailedError, with its last words, if it failed or printed no such line.
    """
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        try:
            return json.loads(lines[-1])
        except ValueError:
            pass
    words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-TAIL:]
    raise RunFailedError(f"{name} failed with exit code {done.returncode}:\n" + "\n".join(words))


def argument() -> dict[str, Any]:
    """The JSON object that this process was given."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} JSON (it is run by the other benchmarks)")
    return json.loads(sys.argv[1])


def progress(text: str) -> None:
    """A line for whoever waits; the results go to standard output."""
    print(text, file=sys.stderr, flush=True)
