"""What a benchmark prints and leaves behind, and how it says that it cannot run. Standard library only."""

import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CANNOT_RUN = 2


def require(name: str) -> Path:
    """A file of ../shared/data. Where it is absent the benchmark says so in one sentence and ends with exit code 2."""
    path = DATA / name
    if not path.is_file():
        skip(f"this benchmark needs {name} in the folder ../shared/data beside the repository, which is not there.")
    return path


def skip(reason: str) -> NoReturn:
    """End with one sentence on standard error and exit code 2."""
    print(f"Skipped: {reason}", file=sys.stderr)
    raise SystemExit(CANNOT_RUN)


def table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text, the first row as heading; all columns but the first align right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([title, rule, line(rows[0]), rule, *map(line, rows[1:]), rule])


def interval(cell: Mapping[str, float], value: str, *, signed: bool = False) -> str:
    """`0.612 [0.557, 0.665]` from a dict of measures.py, its centre under the key `value`."""
    form = "+.3f" if signed else ".3f"
    return f"{cell[value]:{form}} [{cell['low']:{form}}, {cell['high']:{form}}]"


def machine(*packages: str) -> dict[str, Any]:
    """What timing depends on: threads, cores, peak memory of this process or one it ran in MB, versions of packages."""
    import torch

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),  # bytes there, KB elsewhere
        "versions": {name: _version(name) for name in ("torch", "transformers", *packages)},
    }


def in_words(known: Mapping[str, Any]) -> str:
    """One line about the machine, for below a table."""
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version)
    gpu = f", {known['gpu']}" if "gpu" in known else ""
    memory = f", {known['memory_gb']} GB" if known["memory_gb"] else ""
    commit = f", commit {known['commit']}" if known["commit"] else ""
    return (
        f"Machine: {known['cpu']}, {known['cores']} cores, {known['threads']} threads{memory}{gpu}; "
        f"Python {known['python']}, {versions}{commit}."
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
    print(f"Written: {path}")
