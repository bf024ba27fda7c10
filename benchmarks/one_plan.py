"""One run beside its plan: `python -m benchmarks.one_plan JSON`, run by benchmarks/plan.py in a process of its own."""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.apart import argument
from benchmarks.host import host
from clearppo.build.plan import plan_run
from clearppo.build.ppo import build_ppo
from clearppo.build.steps import build_reward, build_sft
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, load_config
from clearppo.train.planned import PLAN

STEPS: dict[str, tuple[Any, Any]] = {
    "ppo": (PPOConfig, build_ppo),
    "sft": (SFTConfig, build_sft),
    "reward": (RewardModelConfig, build_reward),
}


def measured(step: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Train as `clearppo STEP` does. What was planned before and measured after, in bytes and seconds."""
    schema, build = STEPS[step]
    with tempfile.TemporaryDirectory(prefix="clearppo-plan-") as name:
        run = build(load_config(schema, flags={**flags, "output_dir": f"{name}/run"}))
        run.train()
        plan = json.loads((Path(run.run_dir.path) / PLAN).read_text(encoding="utf-8"))
    return {
        "planned_bytes": plan["peak_bytes"],
        "planned_phase": plan["peak_phase"],
        "measured_bytes": plan["measured"]["peak_bytes"],
        "measured_phase": plan["measured"]["peak_phase"],
        "planned_s": plan["seconds_per_iteration"],
        "measured_s": plan["measured"]["seconds_per_iteration"],
        "host": host(),
    }


def planned(step: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The same of the plan alone."""
    plan = plan_run(load_config(STEPS[step][0], flags={**flags, "output_dir": "nowhere"}))
    return {
        "planned_bytes": plan.peak_bytes,
        "planned_phase": plan.peak_phase,
        "planned_s": plan.seconds_per_iteration,
    }


if __name__ == "__main__":
    given = argument()
    print(json.dumps((measured if given["train"] else planned)(given["step"], given["flags"])))
