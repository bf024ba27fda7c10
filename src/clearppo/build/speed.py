"""How fast this machine is at the products of a run: a few of them, timed."""

import time
from collections.abc import Callable

import torch

from clearppo.plan.job import Job
from clearppo.plan.time import Speed
from clearppo.rollout.decoder.linear import Linear, can_pack

ROWS = 1024  # more at once make no product faster
TABLE = 2**24  # entries, at most, of the matrix that a decode step is timed with: more than most caches hold
OF_PASS = 0.6  # share of a pass's time in which products run (docs/performance.md)
ON_CPU = {"step": 1.5e-4, "layer": 1e-3}
ON_GPU = {"step": 1e-5, "layer": 5e-4}


@torch.no_grad()
def measured_speed(job: Job, device: torch.device) -> Speed:
    """The speed of products as large as the run's, in a quarter of a second or so. Draws no random number."""
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[job.work]
    shape = job.policy
    x = torch.full((min(job.tokens, ROWS), shape.hidden), 0.01, dtype=dtype, device=device)
    w = torch.full((shape.hidden, 2 * shape.wide), 0.01, dtype=dtype, device=device)
    out = torch.empty(len(x), 2 * shape.wide, dtype=dtype, device=device)
    products = 2 * x.numel() * w.shape[1] / _best(lambda: torch.mm(x, w, out=out), device)

    rows = max(min(job.rows_at_once, ROWS), 1)
    height = max(min(TABLE, shape.matrices + shape.head) // shape.hidden, 1)
    table = torch.full((height, shape.hidden), 0.01, dtype=dtype, device=device)
    few = torch.full((rows, shape.hidden), 0.01, dtype=dtype, device=device)
    linear = Linear(dtype, device, packed=can_pack(dtype, device))
    linear.take([table], [None])
    step = _best(lambda: linear(few), device)
    copy = torch.empty_like(table)
    copied = _best(lambda: copy.copy_(table), device)
    entries = table.numel()
    overhead = ON_GPU if device.type == "cuda" else ON_CPU
    return Speed(
        products=OF_PASS * products,
        steps=2 * rows * entries / step,
        reads=entries * job.work / step,
        copies=2 * entries * job.work / copied,
        **overhead,
    )


def _best(run: Callable[[], object], device: torch.device, times: int = 4) -> float:
    """Seconds of the fastest of a few."""
    run()
    found = float("inf")
    for _ in range(times):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        found = min(found, time.perf_counter() - start)
    return max(found, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
