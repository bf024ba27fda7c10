"""The record: what every token of every answer earned, kept as Parquet files that outlive this library.

Nothing of torch, so that whoever reads a run (the page, the report) is light.
"""

from clearppo.record.read import Iteration, iteration_path, steps
from clearppo.record.store import Store

__all__ = ["Iteration", "Store", "iteration_path", "steps"]
