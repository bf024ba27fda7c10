"""What a run planned to take, and what it took: plan.json, a note at the start and one at the end."""

import json
from dataclasses import dataclass
from statistics import median

from clearppo.plan.result import Plan, an, duration, gib
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener
from clearppo.train.registry import SECONDS
from clearppo.train.stopwatch import Stopwatch

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Writes the plan of a run when it begins, and what was measured beside it when it ends; nothing without a plan."""

    plan: Plan | None
    run_dir: RunDir
    listener: Listener
    stopwatch: Stopwatch

    def begun(self) -> None:
        """The run's directory is its own. Raises RunDirError."""
        if self.plan is not None:
            self.listener.note(f"plan: {self.plan.sentence}")
            self._write(self.plan, {})

    def ended(self, history: list[dict[str, float]]) -> None:
        """All is done and saved; `history` are the numbers of every round. Raises RunDirError."""
        plan = self.plan
        if plan is None:
            return
        self.stopwatch.look()
        found: dict[str, float | str] = {}
        said: list[str] = []
        if (highest := self.stopwatch.highest) is not None:
            peak, phase = highest
            found |= {"peak_bytes": peak, "peak_phase": phase}
            said.append(f"peak memory {gib(peak)} in {phase}, planned {gib(plan.peak_bytes)}")
        taken = [sum(v for name, v in row.items() if name.startswith(SECONDS)) for row in history]
        # The first round is never typical, and rounds that were left out have no seconds.
        if seconds := [second for second in taken[1:] or taken if second]:
            found["seconds_per_iteration"] = each = median(seconds)
            said.append(f"{duration(each)} {an(plan.round)}, planned {duration(plan.seconds_per_iteration)}")
        if said:
            self.listener.note("; ".join(said))
            self._write(plan, {"measured": found})

    def _write(self, plan: Plan, more: dict[str, dict[str, float | str]]) -> None:
        text = json.dumps(plan.to_json() | more, indent=2, ensure_ascii=False)
        self.run_dir.write(PLAN, text + "\n")
