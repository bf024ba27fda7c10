"""What would save memory or time: the same formulas on a changed run; and the largest batch that fits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from clearppo.plan.job import Job
from clearppo.plan.memory import Table
from clearppo.plan.time import Speed, seconds

RANK = 16
MOST = 1_000_000  # what batch_size may be
Memory = Callable[[Job], Table]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One option that is changed, as a user types it, and what the run would then take. `same`: what is learned stays
    the same, but for rounding."""

    flags: str
    peak: float
    seconds: float
    same: bool


def changes(job: Job, memory: Memory, speed: Speed, *, fast_half: bool) -> list[Change]:
    """Every change that could be made to this run, those first that save most memory. `fast_half`: bfloat16 is fast
    there."""
    found = [
        Change(flags=flags, peak=memory(other).peak, seconds=sum(seconds(other, speed).values()), same=same)
        for flags, other, same in _others(job, fast_half)
    ]
    return sorted(found, key=lambda change: change.peak)


def _others(job: Job, fast_half: bool) -> Iterator[tuple[str, Job, bool]]:
    if not job.lora_rank:
        yield "--use_peft true", replace(job, lora_rank=RANK), False
    if job.step == "ppo" and not job.frozen_layers and job.policy.layers > 2:
        layers = round(job.policy.layers * 2 / 3)
        yield f"--freeze_layers {layers}", replace(job, frozen_layers=layers), False
    if job.critic == "separate":
        yield "--critic shared", replace(job, critic="shared"), False
    if job.judge is not None and job.lora_rank and job.step == "ppo":
        yield "--share_trunk true", replace(job, judge=None, judge_on_trunk=True), True
    if not job.checkpointing:
        yield "--gradient_checkpointing true", replace(job, checkpointing=True), True
    if not job.autocast and job.stream == 4 and fast_half:
        yield "--bf16 true", replace(job, autocast=True), False
    if job.stream == 4:
        yield "--dtype bfloat16", replace(job, stream=2, autocast=False), False
    rows = job.rows
    if rows > 1:
        yield f"--micro_batch_size {max(rows // 4, 1)}", replace(job, micro_rows=max(rows // 4, 1)), True
    if rows < job.mini_batch:
        whole = replace(job, micro_rows=job.mini_batch, micro_tokens=None)
        yield f"--micro_batch_size {job.mini_batch} --max_tokens_per_microbatch none", whole, True
    if job.step == "ppo" and job.rows_at_once > 1:
        fewer = max(job.rows_at_once // 4, 1)
        yield f"--generation_batch_size {fewer}", replace(job, rows_at_once=fewer), True
    if job.epochs > 1 and job.step == "ppo":
        yield f"--num_ppo_epochs {job.epochs // 2}", replace(job, epochs=job.epochs // 2), False


def most(job: Job, memory: Memory, room: float, with_size: Callable[[Job, int], Job], start: int) -> int:
    """The largest size, in steps of a quarter of a power of two, for which the run takes at most `room` bytes; 0: not
    even `start`. `with_size` makes the run of a size."""

    def fits(size: int) -> bool:
        return memory(with_size(job, size)).peak <= room

    if not fits(start):
        return 0
    size = start
    while size * 2 <= MOST and fits(size * 2):
        size *= 2
    step = max(size // 4, start)
    while size + step <= MOST and fits(size + step):
        size += step
    return size


def sizes(job: Job, memory: Memory, room: float) -> Mapping[str, int]:
    """The largest batch_size that fits with micro-batches as they are, and the largest micro_batch_size with the batch
    as it is; 0: none fits."""
    unit = max(job.batch // max(job.distinct, 1), 1) * job.mini_batches if job.step == "ppo" else 1
    batch = most(job, memory, room, Job.with_batch, unit)
    unbound = replace(job, micro_tokens=None)
    rows = most(unbound, memory, room, lambda one, size: replace(one, micro_rows=size), 1)
    return {"batch_size": batch, "micro_batch_size": min(rows, job.mini_batch)}
