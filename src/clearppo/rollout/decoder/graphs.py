"""Steps as CUDA graphs: a step's hundreds of small kernels are recorded once and started by one call."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 2  # libraries choose their kernels and workspaces in the first calls, which a recording must not hold


class StepGraphs:
    """One recorded graph for each (rows, columns) that was asked for.

    `step` reads and writes tensors that stay where they are, and computes as if it had run now, at each call.
    """

    def __init__(self, step: Callable[[int, int], Tensor]) -> None:
        self._step = step
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, rows: int, columns: int) -> Tensor:
        """What step(rows, columns) returns; it holds until the next call."""
        if (rows, columns) not in self._recorded:
            self._recorded[rows, columns] = self._record(rows, columns)
        graph, out = self._recorded[rows, columns]
        graph.replay()
        return out

    def _record(self, rows: int, columns: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._step(rows, columns)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = self._step(rows, columns)
        return graph, out
