"""`clearppo plan`: what a run will take, before it runs; and beside that, what it took."""

import json
import re
from pathlib import Path
from typing import Any

import click

from clearppo.cli.json_file import writable, write_json
from clearppo.cli.step_command import step_command
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, load_one_step
from clearppo.errors import ConfigError, RunDirError

HERE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")
FILE = "plan.json"


def run(step: str, recipe: str | None, config: Path | None, flags: dict[str, Any], own: dict[str, Any]) -> None:
    """Plan, and show it; or show a run's plan beside what was measured."""
    file = writable(own["json"], "json")
    if config is not None and config.is_dir():
        others = [f"--{name}" for name in [*flags, *(n for n, value in own.items() if value and n != "json")]]
        if others or recipe:
            first = others[0] if others else "--recipe"
            raise ConfigError(f"{config} is the directory of a run, whose plan is made: leave out {first}.")
        show_run(config, file)
        return
    asked: str = own["device"] or ""
    node: int | None = own["gpus_per_node"]
    processes: int | None = own["processes"]
    here = not asked or HERE.fullmatch(asked) is not None
    if not here and processes is not None:
        raise ConfigError(
            f"--processes {processes} is for this machine; of GPUs each has one. Leave it out, or write --device "
            f"{asked.partition(':')[0]}:{processes}."
        )
    if here and node is not None:
        raise ConfigError(f"--gpus_per_node {node} has no effect without GPUs to lay out. Add --device h100:16.")
    if here and asked:
        flags = {**flags, "device": asked}
    loaded = load_one_step(step, recipe=recipe, config_path=config, flags=flags)
    assert isinstance(loaded, PPOConfig | SFTConfig | RewardModelConfig)
    if here and processes in (None, 1) and loaded.run.sharding == "full":
        raise ConfigError(
            "sharding = full shares weights out over processes, and there is one. Say how many with --processes 2, or "
            "leave out --sharding."
        )
    from clearppo.plan.devices import place

    where = None if here else place(asked, node)

    from clearppo.build.plan import plan_run  # torch comes with it: only now, when all is known to be good

    plan = plan_run(loaded, place=where, processes=processes or 1)
    write_json(file, plan.to_json(), "json")
    from clearppo.cli.plan_tables import show_plan

    show_plan(plan)


def show_run(directory: Path, file: Path | None) -> None:
    """The plan of a run beside what was measured so far. Raises RunDirError."""
    from clearppo.cli.plan_tables import show_beside
    from clearppo.plan.after import beside

    try:
        plan = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if not isinstance(plan, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise RunDirError(
            f"{directory} holds no {FILE}: it is no run, or one of an earlier version of ClearPPO. Give the output_dir "
            f"of a run, or plan one anew with clearppo plan {directory}/config.yaml."
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirError(
            f"{directory / FILE} cannot be read: {error}. Plan anew from the run's config.yaml."
        ) from None
    rows = beside(plan, _rows(directory / "timings.jsonl"))
    write_json(file, {"plan": plan, "beside": [vars(row) for row in rows]}, "json")
    show_beside(plan, rows)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The lines that can be read: a run that goes on may be writing one."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


plan = step_command(
    "plan",
    run,
    summary="What the run of CONFIG will take: memory by role and phase, the peak and when it is, the largest batch "
    "that fits, seconds an iteration, and which change would save most. Nothing is loaded but configs and texts. Of "
    "the directory of a run: what was planned beside what was measured.",
    own=[
        click.Option(
            ["--device", "device"],
            metavar="NAME[:N]",
            help="Where: auto, cpu, cuda, or GPUs that are not here, such as l4, h100:8 or h100:64.",
        ),
        click.Option(
            ["--gpus_per_node", "--gpus-per-node", "gpus_per_node"], type=int, metavar="N", help="GPUs in a machine."
        ),
        click.Option(
            ["--processes", "processes"],
            type=click.IntRange(min=1, max=1024),
            metavar="N",
            help="So many processes on this machine (torchrun --nproc-per-node N).",
        ),
        click.Option(["--json", "json"], type=click.Path(path_type=Path), metavar="FILE", help="Write it as JSON too."),
    ],
    epilog="\b\nExamples:\n  clearppo plan ppo.yaml\n  clearppo plan ppo.yaml --device h100:8\n"
    "  clearppo plan ppo.yaml --processes 2 --sharding full\n"
    "  clearppo plan ppo.yaml --use_peft true --response_length 512\n  clearppo plan runs/first",
)
