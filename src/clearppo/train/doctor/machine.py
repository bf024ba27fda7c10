"""memory, time, disk: what a run takes, beside what there is."""

from typing import Protocol, runtime_checkable

from clearppo.train.doctor.finding import Finding, Problem, finding

GIB = 2**30
NEARLY = 0.9
DAYS = 86400.0


@runtime_checkable
class Planned(Protocol):
    """What `clearppo plan` says of a run, as far as it is needed here."""

    @property
    def peak_bytes(self) -> int | float: ...
    @property
    def peak_phase(self) -> str: ...
    @property
    def available_bytes(self) -> int | float | None: ...
    @property
    def seconds_per_iteration(self) -> float | None: ...
    @property
    def total_seconds(self) -> float | None: ...


def memory(plan: Planned) -> Finding:
    """The planned peak beside what is free."""
    peak, free = plan.peak_bytes, plan.available_bytes
    measured = f"peak {peak / GIB:.1f} GiB in {plan.peak_phase}"
    measured += f" of {free / GIB:.1f} GiB" if free is not None else ""
    problems = []
    mend = "See clearppo plan for what saves most: a smaller --micro_batch_size, --use_peft true, --freeze_layers."
    if free is not None and peak > free:
        problems.append(Problem("stop", "The run will not fit into memory.", mend))
    elif free is not None and peak > NEARLY * free:
        problems.append(Problem("look", "The run will nearly fill the memory.", mend))
    return finding("memory", measured, problems, "It fits." if free is not None else "Nobody knows how much is free.")


def duration(plan: Planned, rounds: int, noun: str) -> Finding:
    """How long the run will take."""
    each, total = plan.seconds_per_iteration, plan.total_seconds
    if each is None or total is None:
        return finding("time", f"{rounds:,} {noun}s", [], "Nobody knows how fast this device is.")
    problems = []
    if total > DAYS:
        mend = "See clearppo plan for what saves most time."
        problems.append(Problem("look", "It will take more than a day.", mend))
    measured = f"about {said(total)}: {rounds:,} {noun}s of {each:.3g} s"
    return finding("time", measured, problems, "An estimate, from this machine's speed.")


def said(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("days", DAYS), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a second"


def disk(
    needed: int, free: int, place: str, *, held: str = "", refused: bool = False, checkpoints: bool = True
) -> Finding:
    """Room for the result and the checkpoints. `held` says what `place` holds already, if that is in the way; `refused`
    that nothing can be written there."""
    measured = f"{needed / GIB:.2f} GiB needed, {free / GIB:.1f} GiB free at {place}"
    problems = []
    if refused:
        problems.append(Problem("stop", f"{place} cannot be written.", "Use an --output_dir that you may write."))
    if needed > free:
        mend = "Make room, or use an --output_dir on another disk"
        mend += ", or --save_steps 0, which writes no checkpoints." if checkpoints else "."
        problems.append(Problem("stop", "There is no room for the result.", mend))
    if held:
        mend = "Use another --output_dir, --resume_from_checkpoint auto or --overwrite_output_dir true."
        problems.append(Problem("look", held, mend))
    return finding("disk", measured, problems, "There is room for the result and its checkpoints.")
