"""How long an iteration of ClearPPO takes, by layout and precision, and how that grows. Run from the root:

    .venv/bin/python -m benchmarks.iteration                      # all layouts in the default precision
    .venv/bin/python -m benchmarks.iteration --layouts shared --precisions float32,autocast,bfloat16
    .venv/bin/python -m benchmarks.iteration --layouts shared --set old_log_probs=sampler
    .venv/bin/python -m benchmarks.iteration --grow batch         # also: response_length, model_size, epochs
    .venv/bin/python -m benchmarks.iteration --smoke              # a tiny model, to see that it runs

Every case runs in a process of its own. Model, prompts, lengths and numbers are those of the peer's script; FLOPs are
counted by benchmarks/flops.py. README.md beside this says how to measure.
"""

import argparse
import math
from dataclasses import replace
from typing import Any

from benchmarks.inputs import SIZES, SMOKE_SIZES
from benchmarks.output import table
from benchmarks.ppo_case import (
    EXPLAINED,
    HEADING,
    LAYOUTS,
    PHASES,
    PRECISIONS,
    Case,
    exponent,
    gibibytes,
    row,
    seconds,
)
from benchmarks.ppo_runs import (
    Measured,
    Paths,
    case_of,
    checked,
    closing,
    common,
    measure_all,
    models,
    names,
    report,
    reward_of,
)

GROWTH: dict[str, list[int]] = {"batch": [8, 16, 32], "response_length": [32, 64, 128], "epochs": [1, 2, 4]}
SMOKE_GROWTH: dict[str, list[int]] = {"batch": [2, 4, 8], "response_length": [4, 8, 16], "epochs": [1, 2, 4]}
AXES = (*GROWTH, "model_size")


def main() -> None:
    chosen = checked(arguments().parse_args())
    measured = run(chosen)
    report(measured, shown(measured, chosen.grow), chosen.output)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    common(options, name="iteration")
    options.add_argument("--layouts", default=",".join(LAYOUTS), help="some of these, with commas (default: all)")
    options.add_argument("--precisions", default="auto", help=f"some of {', '.join(PRECISIONS)}, with commas")
    options.add_argument("--micro", type=int, default=None, help="micro_batch_size; default: ClearPPO's")
    options.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of clearppo ppo; may be repeated"
    )
    options.add_argument("--grow", choices=AXES, default=None, help="vary this over three points")
    return options


def run(chosen: argparse.Namespace) -> Measured:
    """Measure every case that was asked for, and how the costs grow along the axis of --grow."""
    layouts, precisions = names(chosen.layouts, LAYOUTS), names(chosen.precisions, PRECISIONS)
    sizes = list(SMOKE_SIZES if chosen.smoke else SIZES) if chosen.grow == "model_size" else [chosen.model]
    more = dict(given.split("=", 1) for given in chosen.set)
    with models(chosen, sizes, layouts) as paths:
        starts = [
            case_of(chosen, layout, paths[sizes[0]], precision=precision, micro=chosen.micro, options=more)
            for layout in layouts
            for precision in precisions
        ]
        measured = measure_all([point for case in starts for point in points(case, chosen, paths)])
    return measured | {"growth": growth(measured, chosen.grow)}


def points(case: Case, chosen: argparse.Namespace, paths: dict[str, Paths]) -> list[tuple[str, Case]]:
    """The case itself, or three of it along the axis of --grow, by name."""
    name = case.layout if case.precision == "auto" else f"{case.layout}, {case.precision}"
    if chosen.grow is None:
        return [(name, case)]
    if chosen.grow == "model_size":
        return [
            (f"{name}, {size}", replace(case, model=found["model"], reward=reward_of(case.layout, found)))
            for size, found in paths.items()
        ]
    axis = (SMOKE_GROWTH if chosen.smoke else GROWTH)[chosen.grow]
    return [(f"{name}, {chosen.grow} {value}", replace(case, **{chosen.grow: value})) for value in axis]


def growth(measured: Measured, axis: str | None) -> list[dict[str, Any]]:
    """For each layout and precision: the power of the axis that time and memory grow with, over its points.

    For the model's size the axis is the FLOPs of the reference's pass, which follow the weights that a token passes.
    """
    if axis is None:
        return []
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in measured["results"].values():
        case = result["case"]
        series.setdefault((case["layout"], case["precision"]), []).append(result)
    return [
        {"layout": layout, "precision": precision, "points": len(found), **_exponents(found, axis)}
        for (layout, precision), found in series.items()
    ]


def _exponents(found: list[dict[str, Any]], axis: str) -> dict[str, float]:
    sizes = [float(r["flop"]["reference"]) if axis == "model_size" else float(r["case"][axis]) for r in found]
    costs = {
        "iteration": [r["total_s"] for r in found],
        **{phase: [r["phases"][phase] for r in found] for phase in PHASES},
        "peak memory": [float(r["memory"]["peak_mb"]) for r in found],
    }
    return {name: exponent(sizes, values) for name, values in costs.items()}


def shown(measured: Measured, axis: str | None) -> str:
    """The tables, the growth and the machine."""
    rows = [HEADING, *(row(name, found) for name, found in measured["results"].items())]
    parts = [table("An iteration of PPO", rows), EXPLAINED, table("Where the time goes, s", _parts(measured))]
    if measured["growth"]:
        columns = ["iteration", *PHASES, "peak memory"]
        lines = [
            [f"{cell['layout']}, {cell['precision']}", str(cell["points"]), *(_power(cell[name]) for name in columns)]
            for cell in measured["growth"]
        ]
        parts.append(table(f"Grows with which power of {axis}", [["", "points", *columns], *lines]))
    return "\n\n".join([*parts, *closing(measured)])


def _power(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _parts(measured: Measured) -> list[list[str]]:
    """Sampling, feedback and learning split further, as far as it can be seen from outside."""
    rows = [
        [
            "",
            "generate",
            "old log-probs",
            "reference",
            "scores",
            "forward",
            "backward",
            "step",
            "new weights",
            "loop GiB",
        ]
    ]
    for name, found in measured["results"].items():
        parts, phases = found["parts"], found["phases"]
        seen = {part: parts.get(part, 0.0) for part in ("generate", "reference", "backward", "step", "weights")}
        cells = [
            seen["generate"],
            max(phases["sampling"] - seen["generate"], 0.0),
            seen["reference"],
            max(phases["feedback"] - seen["reference"], 0.0),
            max(phases["learning"] - seen["backward"] - seen["step"], 0.0),
            seen["backward"],
            seen["step"],
            seen["weights"],
        ]
        loop = found["memory"].get("loop_peak_mb")
        rows.append([name, *(seconds(cell) for cell in cells), gibibytes(loop)])
    return rows


if __name__ == "__main__":
    main()
