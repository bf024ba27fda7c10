"""Rows by name: a local file, or a data set on the hub; in the words of what is read."""

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from clearppo.data.files import Located, Wanted, ending, is_readable, kind_and_message, missing_file, read_file
from clearppo.errors import ConfigError, DataError


class Selection(TypedDict, total=False):
    """Which part of a data set is read, and the options that said so: the keywords of `read_rows`."""

    config: str | None
    split: str | None
    flag: str
    split_flag: str


def read_rows(
    name: str,
    wanted: Wanted,
    *,
    config: str | None = None,
    split: str | None = "train",
    flag: str = "dataset_name",
    split_flag: str = "dataset_train_split",
) -> list[Located]:
    """Every row of a local file or a hub data set, with the place where it stands. There is at least one.

    Reading from the hub needs the optional package `datasets`; `config` and `split` (None: train) choose a part of a
    hub data set. `flag` and `split_flag` are the options that gave `name` and `split`, without dashes, for messages.

    Raises DataError for whatever is missing, unreadable or empty, and ConfigError for a `config` or `split` that a
    local file does not have.
    """
    wanted = replace(wanted, flag=flag)
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown ~user
    if name and os.path.exists(path):
        _refuse_inert(name, config, split, split_flag)
        located = read_file(path, wanted)
    elif _looks_like_path(name):
        if not name:
            raise DataError(f"the name of the {wanted.noun} is empty. Give --{wanted.flag}.")
        raise missing_file(path, wanted)
    else:
        located = _read_hub(name, wanted, config, split or "train")
    if not located:
        raise DataError(f"{name} holds no {wanted.noun}. Write one object a line, such as {wanted.example}.")
    return located


def _looks_like_path(name: str) -> bool:
    return (
        not name
        or is_readable(ending(Path(name)))
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or "\\" in name
    )


def _refuse_inert(name: str, config: str | None, split: str | None, split_flag: str) -> None:
    neutral = (None, "train") if split_flag == "dataset_train_split" else (None,)
    for flag, value, allowed in (("dataset_config", config, (None,)), (split_flag, split, neutral)):
        if value not in allowed:
            raise ConfigError(
                f"{flag} = {value} has no effect: {name} is a local file, and only hub data sets have such parts. "
                f"Leave out --{flag}."
            )


def _read_hub(name: str, wanted: Wanted, config: str | None, split: str) -> list[Located]:
    tried = f"there is no local file {name}"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"cannot load the {wanted.noun} {name}: {tried}, and reading from the hub needs the package `datasets`, "
            "which is not installed. Give the path of a file, or: pip install 'clearppo[hub]'."
        ) from error
    try:
        rows = datasets.load_dataset(name, config, split=split)
        return [(f"({split}) row {number}", dict(row)) for number, row in enumerate(rows, start=1)]
    except Exception as error:  # the hub, the network, a data set's own files: `datasets` raises many kinds
        asked = f"split {split}" if config is None else f"config {config}, split {split}"
        raise DataError(
            f"cannot load the {wanted.noun} {name}: {tried}, and the hub data set ({asked}) gave "
            f"{kind_and_message(error)}. Check --{wanted.flag} and the connection, or give the path of a file."
        ) from error
