"""How many rows a step, how many steps, how often something is saved or looked at."""

import math

from clearppo.foreign.together import is_file
from clearppo.foreign.work import Work


def times(work: Work, what: str) -> str:
    return f"{what} x {work.processes} processes" if work.processes > 1 else what


def batch_size(work: Work) -> int:
    """Rows a step: each device's, accumulated, on all processes."""
    each = work.count("per_device_train_batch_size") or 8
    steps = work.count("gradient_accumulation_steps") or 1
    names = ["per_device_train_batch_size"]
    names += ["gradient_accumulation_steps"] if work.given("gradient_accumulation_steps") else []
    what = times(work, f"per_device_train_batch_size {each} x gradient_accumulation_steps {steps}")
    work.put("batch_size", each * steps * work.processes, *names, why=what)
    work.put("micro_batch_size", each, "per_device_train_batch_size")
    return each * steps * work.processes


def mini_batches(work: Work) -> None:
    """Optimiser steps an epoch that PPO really took: it split the batch, and then accumulated over the parts.

    An epoch has n x ceil(a / n) micro-batches for n mini-batches and a accumulated ones, and a step after each a.
    """
    parts, steps = work.count("num_mini_batches") or 1, work.count("gradient_accumulation_steps") or 1
    taken = parts * math.ceil(steps / parts) / steps
    really = max(1, int(taken))
    if really == parts:
        work.put("num_mini_batches", parts, "num_mini_batches")
        return
    work.put("num_mini_batches", really, "num_mini_batches")
    work.nothing(
        "num_mini_batches",
        f"with gradient_accumulation_steps {steps} PPO took {taken:g} optimiser steps an epoch and not {parts}, "
        f"and divided its averages by it (trl issue 5645); write num_mini_batches: {parts} to have them now",
    )


def episodes_in_all(work: Work, batch: int) -> int | None:
    """How many answers in all, if the file says it."""
    total = work.count("total_episodes")
    if total is not None:
        why = "" if total >= batch else f"TRL rounded {total} up to one batch"
        work.put("total_episodes", max(total, batch), "total_episodes", why=why)
        if work.given("num_train_epochs"):
            work.nothing("num_train_epochs", "total_episodes says how long")
        return max(total, batch)
    epochs = work.number("num_train_epochs") or 3.0
    if work.given("num_train_epochs"):
        work.drop("num_train_epochs", "it counts passes over the prompts, and their number is not known here")
    work.notes.append(
        f"TRL would make {epochs:g} passes over the prompts: set --total_episodes to {epochs:g} x their number. Until "
        "then our default counts."
    )
    if batch > 10_000:
        work.put("total_episodes", batch, "total_episodes", why="one batch")
    return None


def sample_tables(work: Work, iterations: int | None) -> None:
    """Tables of sample answers."""
    wanted = work.number("num_sample_generations")
    if wanted is not None and wanted <= 0:
        work.put("sample_steps", 0, "num_sample_generations")
    elif wanted is not None and iterations is not None:
        why = f"{iterations} iterations / {wanted:g}; TRL answered prompts of its eval set, ours are the batch's"
        work.put("sample_steps", max(1, int(iterations // wanted)), "num_sample_generations", why=why)
    elif work.given("num_sample_generations"):
        work.drop("num_sample_generations", "the number of iterations is not known; see --sample_steps")


def saving(work: Work, iterations: int | None) -> None:
    strategy, every = work.value("save_strategy"), work.number("save_steps")
    if strategy == "no":
        work.put("save_steps", 0, "save_strategy")
    elif strategy not in ("steps", None):
        work.drop("save_strategy", "checkpoints are written every so many steps: --save_steps")
    elif work.given("save_steps") and every is not None:
        if 0 < every < 1 and iterations is None:
            work.drop("save_steps", "it is a share of the run, and here it is a number of steps")
        else:
            every = float(math.ceil(every * (iterations or 1))) if 0 < every < 1 else every
            work.put("save_steps", int(every) if every.is_integer() else every, "save_steps")


def supervised(work: Work) -> None:
    """What SFT and reward models share."""
    for name in ("model_name_or_path",):
        if work.given(name):
            work.put(name, work.value(name), name)
    batch_size(work)
    most = work.number("max_steps")
    if most is not None and most > 0:
        work.put("max_steps", work.value("max_steps"), "max_steps")
    saving(work, None)
    norm = work.number("max_grad_norm")
    work.put("max_grad_norm", norm or None, "max_grad_norm")
    if work.given("logging_steps"):
        every = work.number("logging_steps")
        if every is not None and every < 1:
            work.drop("logging_steps", "it is a share of the run, and here it is a number of steps")
        else:
            work.put("logging_steps", work.value("logging_steps"), "logging_steps")
    if work.source.mixed_precision is not None and not work.given("bf16"):
        work.put("bf16", work.source.mixed_precision == "bf16", why="accelerate's --mixed_precision")
    elif work.given("bf16"):
        work.put("bf16", work.flag("bf16"), "bf16")
    _measuring(work)


def _measuring(work: Work) -> None:
    """What is held out, and how often it is looked at."""
    name = "evaluation_strategy" if work.given("evaluation_strategy") else "eval_strategy"
    strategy = work.value(name)
    if strategy in ("no", None, False):
        work.put("eval_fraction", 0.0, name, why="TRL held nothing out")
        for other in ("eval_steps", "dataset_test_split"):
            if work.given(other):
                work.nothing(other, f"{name} is no")
        return
    if strategy == "steps":
        given = next((other for other in ("eval_steps", "logging_steps") if work.given(other)), None)
        every = work.number(given) if given else 10
        if every is None or every < 1:
            work.drop(given or name, "it is a share of the run, and here it is a number of steps")
        else:
            work.put("eval_steps", int(every), *dict.fromkeys([given or name, name]))
    elif work.given("eval_steps"):
        work.nothing("eval_steps", f"{name} is {strategy}")
    if is_file(work.value("dataset_name")):
        if work.given("dataset_test_split"):
            work.drop(
                "dataset_test_split", "a file has no splits: --eval_dataset_name, or a share with --eval_fraction"
            )
    elif work.given("dataset_name") or work.given("dataset_test_split"):
        work.put("dataset_test_split", work.value("dataset_test_split"), "dataset_test_split")
