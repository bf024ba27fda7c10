"""The output directory as it is to a process that trains with others and is not the one that writes."""

import contextlib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from clearppo.rundir import RunDir


class Onlooker(RunDir):
    """Knows where the run is, and writes nothing. What it would read is told by the process that writes."""

    def release(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def rewind(self, step: int, sizes: Mapping[str, int] | None = None, *, of: Path | None = None) -> None:
        pass

    def sizes(self) -> dict[str, int]:
        """None: only checkpoints ask for them, and those are written elsewhere."""
        return {}

    def sync(self) -> None:
        pass

    def tidy(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def require_space(self, needed: int, mend: str = "") -> None:
        pass

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def write(self, name: str, text: str) -> None:
        pass

    def remove(self, name: str) -> None:
        pass

    @contextlib.contextmanager
    def whole(self, name: str = ".") -> Generator[Path]:
        """A place that is never there: whoever has files to write asks first whether it is to."""
        yield self.path / name
