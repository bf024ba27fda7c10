"""A register of numbers: each has its name, its unit, and a function whose docstring is its formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

MeasuredT = TypeVar("MeasuredT")
FunctionT = TypeVar("FunctionT", bound=Callable[[Any], float | None])


@dataclass(frozen=True)
class Metric(Generic[MeasuredT]):
    """A registered metric: its name, its unit, and the function whose docstring is its formula."""

    name: str
    unit: str
    compute: Callable[[MeasuredT], float | None]

    @property
    def formula(self) -> str:
        return (self.compute.__doc__ or "").strip()


class Registry(dict[str, Metric[MeasuredT]]):
    """The metrics of one kind of run, by name, in the order of their registration."""

    def metric(self, name: str, unit: str) -> Callable[[FunctionT], FunctionT]:
        """Register a metric. A function returns None where its number does not exist in this run."""

        def register(function: FunctionT) -> FunctionT:
            self[name] = Metric(name, unit, function)
            return function

        return register

    def measure(self, measured: MeasuredT) -> dict[str, float]:
        """Every metric that exists of this step or iteration."""
        values = {name: entry.compute(measured) for name, entry in self.items()}
        return {name: float(value) for name, value in values.items() if value is not None}
