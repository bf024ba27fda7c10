"""Peak memory of a PPO run by layout, and what each way of saving some is worth. Run it from the root:

    .venv/bin/python -m benchmarks.memory
    .venv/bin/python -m benchmarks.memory --layouts lora --response_length 128
    .venv/bin/python -m benchmarks.memory --smoke

Every case runs in a process of its own. Without a GPU it is resident memory, in which torch and transformers themselves
take their part (the column "imported").
"""

import argparse
from dataclasses import replace

from benchmarks.output import table
from benchmarks.ppo_case import LAYOUTS, Case, gibibytes, seconds
from benchmarks.ppo_runs import Measured, case_of, checked, closing, common, measure_all, models, names, report

COLUMNS = {
    "imported_mb": "imported",
    "loaded_mb": "models loaded",
    "loading_peak_mb": "peak of loading",
    "loop_peak_mb": "peak of the loop",
    "peak_mb": "peak",
    "gpu_peak_mb": "GPU peak",
}


def main() -> None:
    chosen = checked(arguments().parse_args())
    measured = run(chosen)
    report(measured, shown(measured), chosen.output)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    common(options, name="memory")
    options.add_argument("--layouts", default=",".join(LAYOUTS), help="some of these, with commas (default: all)")
    return options


def ways(case: Case) -> list[tuple[str, Case]]:
    """The case as it is, and with each way of saving memory."""
    quarter = max(case.batch // 4, 1)
    return [
        (case.layout, case),
        (f"{case.layout}, micro-batches of {quarter}", replace(case, micro=quarter)),
        (f"{case.layout}, checkpointing", replace(case, gradient_checkpointing=True)),
        (f"{case.layout}, both", replace(case, micro=quarter, gradient_checkpointing=True)),
    ]


def run(chosen: argparse.Namespace) -> Measured:
    """Measure every layout with the batch as one micro-batch, and of the first one every way of saving."""
    layouts = names(chosen.layouts, LAYOUTS)
    with models(chosen, [chosen.model], layouts) as made:
        first, *others = (case_of(chosen, layout, made[chosen.model], micro=chosen.batch) for layout in layouts)
        return measure_all([*ways(first), *((case.layout, case) for case in others)])


def shown(measured: Measured) -> str:
    """The table in GiB, with the share of the first row's peak."""
    found = measured["results"]
    if not found:
        return "\n\n".join(closing(measured))
    first = next(iter(found.values()))["memory"]
    columns = {key: name for key, name in COLUMNS.items() if first.get(key) is not None}
    rows = [["GiB", *columns.values(), "of the first", "iteration s"]]
    for name, result in found.items():
        memory = result["memory"]
        share = f"{memory['peak_mb'] / first['peak_mb']:.0%}"
        rows.append([name, *(gibibytes(memory.get(key)) for key in columns), share, seconds(result["total_s"])])
    return "\n\n".join([table("Memory of a PPO run", rows), *closing(measured)])


if __name__ == "__main__":
    main()
