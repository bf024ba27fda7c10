"""Time and memory of an iteration over micro-batch sizes and token budgets. Run it from the root:

    .venv/bin/python -m benchmarks.microbatch
    .venv/bin/python -m benchmarks.microbatch --layout lora --micros 2,8,32 --budgets 512,2048,auto
    .venv/bin/python -m benchmarks.microbatch --smoke

The prompts are ragged on purpose (16 to 128 tokens): a fixed number of rows pads them to the longest of each
micro-batch, a budget of tokens puts rows of like length together and as many as fit. Neither changes what is learned.
"""

import argparse
from dataclasses import replace

from benchmarks.output import table
from benchmarks.ppo_case import EXPLAINED, HEADING, LAYOUTS, Case, row
from benchmarks.ppo_runs import Measured, case_of, checked, closing, common, measure_all, models, report

SMOKE = {"micros": "1,4", "budgets": "24,auto"}


def main() -> None:
    chosen = checked(arguments().parse_args())
    measured = run(chosen)
    report(measured, shown(measured, chosen.layout), chosen.output)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    common(options, name="microbatch")
    options.set_defaults(batch=32, prompt_max=128)
    options.add_argument("--layout", choices=LAYOUTS, default="shared")
    options.add_argument("--micros", default="1,2,4,8,16,32", help="values of micro_batch_size, with commas")
    options.add_argument("--budgets", default="256,512,1024,2048,auto", help="values of max_tokens_per_microbatch")
    return options


def cases(case: Case, micros: str, budgets: str) -> list[tuple[str, Case]]:
    """By rows, then by tokens with no bound on the rows but the batch."""
    by_rows = [(f"{n} rows", replace(case, micro=int(n))) for n in micros.split(",")]
    return by_rows + [
        (f"budget of {n}", replace(case, micro=case.batch, budget=n if n == "auto" else int(n)))
        for n in budgets.split(",")
    ]


def run(chosen: argparse.Namespace) -> Measured:
    """Measure every size and every budget."""
    given = SMOKE if chosen.smoke else {"micros": chosen.micros, "budgets": chosen.budgets}
    with models(chosen, [chosen.model], [chosen.layout]) as made:
        return measure_all(cases(case_of(chosen, chosen.layout, made[chosen.model]), **given))


def shown(measured: Measured, layout: str) -> str:
    rows = [HEADING, *(row(name, result) for name, result in measured["results"].items())]
    title = f"An iteration by micro-batch (rows, or tokens), layout {layout}"
    return "\n\n".join([table(title, rows), EXPLAINED, *closing(measured)])


if __name__ == "__main__":
    main()
