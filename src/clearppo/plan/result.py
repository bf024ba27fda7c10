"""A plan: what was found, as numbers, as sentences, and as the JSON of plan.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo.plan.advice import Change
from clearppo.plan.memory import GIB, ROLES, Table

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take. Bytes are of the device that computes, of one of them where there are several;
    `available_bytes` is what it has for this run, None if nobody knows.

    `largest` are the largest sizes that fit, by option; empty if nobody knows how much there is. `layout` says how a
    run over several GPUs is laid out, `flags` are the options for it, `host_bytes` what each machine's memory must hold
    for it. `each` says of what there are several: GPUs or processes. `assumptions` are what was taken for granted.
    """

    device: str
    rounds: int
    table: Table
    available_bytes: float | None
    seconds: Mapping[str, float]
    changes: Sequence[Change]
    largest: Mapping[str, int]
    facts: Sequence[tuple[str, str]]
    assumptions: Sequence[str]
    layout: Sequence[str] = ()
    flags: str = ""
    each: str = ""
    host_bytes: float = 0.0
    round: str = "iteration"

    @property
    def peak_bytes(self) -> float:
        """The most that is taken at any time."""
        return self.table.peak

    @property
    def peak_phase(self) -> str:
        """When that is."""
        return self.table.peak_phase

    @property
    def seconds_per_iteration(self) -> float:
        """Seconds of an iteration, or of a step of SFT or of a reward model."""
        return sum(self.seconds.values())

    @property
    def total_seconds(self) -> float:
        """Seconds of all of them."""
        return self.rounds * self.seconds_per_iteration

    @property
    def fits(self) -> bool:
        """Whether there is room for the peak; so it is said where nobody knows."""
        return self.available_bytes is None or self.peak_bytes <= self.available_bytes

    @property
    def sentence(self) -> str:
        """One line about memory and time."""
        there = "" if self.available_bytes is None else f", of {gib(self.available_bytes)}"
        fit = "" if self.fits else ", which does not fit"
        of_each = f" a {self.each}" if self.each else ""
        return (
            f"about {gib(self.peak_bytes)}{of_each} at the peak, in {self.peak_phase}{there}{fit}; about "
            f"{duration(self.seconds_per_iteration)} {an(self.round)}, {duration(self.total_seconds)} in all"
        )

    def to_json(self) -> dict[str, Any]:
        """What plan.json holds: bytes, seconds and words."""
        phases = {
            phase: {role: round(roles[role]) for role in ROLES if roles.get(role)}
            for phase, roles in self.table.phases.items()
        }
        return {
            "version": VERSION,
            "device": self.device,
            "round": self.round,
            "rounds": self.rounds,
            "peak_bytes": sum(phases[self.peak_phase].values()),  # to the byte what the parts below are
            "peak_phase": self.peak_phase,
            "available_bytes": None if self.available_bytes is None else round(self.available_bytes),
            "fits": self.fits,
            "seconds_per_iteration": self.seconds_per_iteration,
            "total_seconds": self.total_seconds,
            "seconds": dict(self.seconds),
            "bytes": phases,
            "largest": dict(self.largest),
            "changes": [
                {"flags": c.flags, "peak_bytes": round(c.peak), "seconds": c.seconds, "same_result": c.same}
                for c in self.changes
            ],
            "facts": dict(self.facts),
            "layout": list(self.layout),
            "flags": self.flags,
            "host_bytes": round(self.host_bytes),
            "assumptions": list(self.assumptions),
            "sentence": self.sentence,
        }


def gib(n: float) -> str:
    """Bytes for people."""
    return f"{n / GIB:.3g} GiB" if n < 1000 * GIB else f"{n / GIB:.0f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people: 0.031 s, 12 s, 4.5 min, 3.2 h, 2.1 days."""
    for limit, unit, word in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {word}"
    return f"{seconds / 86400:.2g} days"


def an(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
