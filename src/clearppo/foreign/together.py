"""Data sets, schedules, trackers and LoRA: each comes of several settings, in every step alike."""

from collections.abc import Mapping
from pathlib import PurePath

from clearppo.foreign.work import Work

_TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")


def is_file(name: object) -> bool:
    return isinstance(name, str) and (PurePath(name).suffix in _FILES or name.startswith(("/", "./", "../", "~")))


def data_sets(work: Work) -> None:
    mixture = work.value("datasets")
    first = mixture[0] if isinstance(mixture, list) and len(mixture) == 1 else None
    if isinstance(first, Mapping) and isinstance(first.get("path"), str):
        work.put("dataset_name", first["path"], "datasets")
        if isinstance(first.get("name"), str):
            work.put("dataset_config", first["name"], "datasets")
        if isinstance(first.get("split"), str) and first["split"] != "train":
            work.put("dataset_train_split", first["split"], "datasets")
        beyond = sorted(set(map(str, first)) - {"path", "name", "split"})
        if beyond:
            work.notes.append(f"datasets: {', '.join(beyond)} of the data set is not carried over.")
    elif mixture is not None:
        work.drop("datasets", "a mixture of data sets is not made here: write it into one file")
    split = work.value("dataset_train_split")
    if not work.given("dataset_train_split") or split == "train":
        return
    if is_file(work.value("dataset_name")):
        work.drop("dataset_train_split", "a file has no splits")
    else:
        work.put("dataset_train_split", split, "dataset_train_split")


def schedule(work: Work) -> None:
    """transformers' schedules: linear, cosine and constant are ours, and of some others a part."""
    kind, share, steps = work.value("lr_scheduler_type"), work.number("warmup_ratio"), work.number("warmup_steps") or 0
    lowest = work.value("lr_scheduler_kwargs")
    ours = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine"}.get(str(kind), kind)
    if kind == "constant":
        for name in ("warmup_steps", "warmup_ratio"):
            if work.given(name):
                work.nothing(name, "transformers' schedule `constant` has no warm-up")
        share = steps = 0
    if ours in ("linear", "cosine", "constant"):
        work.put("lr_scheduler_type", ours, "lr_scheduler_type")
    elif ours == "inverse_sqrt" and (share or steps):
        work.put("lr_scheduler_type", ours, "lr_scheduler_type", why="from the end of the warm-up on")
    else:
        work.drop(
            "lr_scheduler_type", "there is linear, cosine, constant and, with a warm-up, inverse_sqrt: linear stays"
        )
    if kind == "cosine_with_min_lr" and isinstance(lowest, Mapping) and "min_lr_rate" in lowest:
        work.put("min_lr_ratio", lowest["min_lr_rate"], "lr_scheduler_kwargs")
    elif work.given("lr_scheduler_kwargs") and lowest not in ({}, "{}"):
        work.drop("lr_scheduler_kwargs", "of these there is --min_lr_ratio alone, where the rate may stop falling")
    if steps >= 1:
        work.put("warmup_steps", int(steps), "warmup_steps")
        if share:
            work.nothing("warmup_ratio", "warmup_steps says how long")
    elif steps or share:
        work.put("warmup_ratio", steps or share, "warmup_steps" if steps else "warmup_ratio")


def trackers(work: Work, name: str) -> None:
    value = work.value(name)
    listed = value if isinstance(value, list | tuple) else str(value).replace(" ", ",").split(",")
    asked = [str(item).strip() for item in listed if str(item).strip() not in ("", "none", "None")]
    known = list(dict.fromkeys(item for item in asked if item in _TRACKERS))
    if known:
        others = [item for item in asked if item not in known]
        work.put("report_to", known, name, why=f"without {', '.join(others)}, which we do not know" if others else "")
    elif asked:
        work.drop(name, f"there is {', '.join(_TRACKERS)}, each by its name")


def lora(work: Work) -> None:
    names = ("lora_r", "lora_alpha", "lora_target_modules", "lora_dropout")
    if not work.flag("use_peft"):
        for name in filter(work.given, names):
            work.nothing(name, "use_peft is off")
        return
    work.put("use_peft", True, "use_peft")
    for name in ("lora_r", "lora_alpha"):
        work.put(name, work.value(name), name)
    modules = work.value("lora_target_modules")
    if modules is None:
        work.notes.append(
            "lora_target_modules: PEFT chose them by the model's family; here every linear layer is taken."
        )
    else:
        if isinstance(modules, list | tuple) and list(modules) == ["all-linear"]:
            modules = "all-linear"
        work.put("lora_target_modules", list(modules) if isinstance(modules, tuple) else modules, "lora_target_modules")
