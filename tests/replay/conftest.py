"""Tiny runs to replay; each is trained once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.resume.runs import Options, options_of, train
from tests.tiny import tiny_causal_lm

Ran = Callable[..., Path]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`ran(name, option=value, ...)`: the output_dir of a run of 6 iterations with these options, trained when it is
    asked for first. Its checkpoints are 4 and 6."""
    base = tmp_path_factory.mktemp("runs")
    model = tiny_causal_lm(base / "model")
    made: dict[str, Path] = {}

    def run(name: str, **more: Any) -> Path:
        if name not in made:
            train("ppo", options_in(base, name, model, more))
            made[name] = base / name / "run"
        return made[name]

    return run


def options_in(base: Path, name: str, model: str, more: Options) -> Options:
    """The options of the run `name` below `base`. Of `more`, family is another model's, TEXTS a file of texts."""
    folder = base / name
    folder.mkdir(exist_ok=True)
    options = {**options_of("ppo", folder, model), "output_dir": str(folder / "run"), **more}
    if "family" in options:
        options["model_name_or_path"] = tiny_causal_lm(folder / "other", family=options.pop("family"))
    if "ptx_dataset_name" in options:
        options["ptx_dataset_name"] = options_of("sft", folder, model)["dataset_name"]
    return {name: value for name, value in options.items() if value is not None}
