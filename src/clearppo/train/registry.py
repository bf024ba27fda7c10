"""A register of numbers: each has its name, its unit, and a function whose docstring is its formula."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

SECONDS = "time/"
"""What the name of a phase's seconds begins with."""
MEMORY = "memory/"
"""What the name of a phase's peak memory, in GiB, begins with."""
COMMUNICATION = "communication/"
"""What the name of a phase's seconds with other processes begins with."""
MeasuredT = TypeVar("MeasuredT")
FunctionT = TypeVar("FunctionT", bound=Callable[[Any], float | None])


@dataclass(frozen=True)
class Metric(Generic[MeasuredT]):
    """A registered metric: its name, its unit, and the function whose docstring is its formula.

    `clock` says that it depends on how fast the run was, and not only on what it learned.
    """

    name: str
    unit: str
    compute: Callable[[MeasuredT], float | None]
    clock: bool = False

    @property
    def formula(self) -> str:
        return (self.compute.__doc__ or "").strip()


class Registry(dict[str, Metric[MeasuredT]]):
    """The metrics of one kind of run, by name, in the order of their registration."""

    def metric(self, name: str, unit: str, *, clock: bool = False) -> Callable[[FunctionT], FunctionT]:
        """Register a metric. A function returns None where its number does not exist in this run."""

        def register(function: FunctionT) -> FunctionT:
            self[name] = Metric(name, unit, function, clock)
            return function

        return register

    def measure(self, measured: MeasuredT) -> dict[str, float]:
        """Every metric that exists of this step or iteration."""
        values = {name: entry.compute(measured) for name, entry in self.items()}
        return {name: float(value) for name, value in values.items() if value is not None}

    def kept(self, row: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """A round's numbers in two: those that configuration, data and seed determine, and those of the machine."""
        clock = {
            name
            for name in row
            if name.startswith((SECONDS, MEMORY, COMMUNICATION)) or (name in self and self[name].clock)
        }
        return {n: v for n, v in row.items() if n not in clock}, {n: v for n, v in row.items() if n in clock}
