"""Answers for `clearppo label`: what `clearppo prefs --for_human` writes for each model, kept beside the labels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from clearppo.config import PrefsConfig, load_config
from clearppo.data.candidates import MOST
from clearppo.errors import ConfigError


def answer_prompts(prompts: str, models: Sequence[str], output: Path, sampling: Mapping[str, Any]) -> list[Path]:
    """The files of answers, one a model, beside `output`; those that the same options made before are taken again.

    `sampling` are options of `clearppo prefs`. Raises ClearPPOError.
    """
    given = {"num_completions": "1" if len(models) > 1 else "2", **sampling}
    if len(set(models)) < len(models):
        raise ConfigError(f"a model is given twice: {' '.join(models)}. Use --num_completions for more answers of one.")
    configs: list[tuple[PrefsConfig, Path]] = []
    for model in models:
        flags = {**given, "model_name_or_path": model, "dataset_name": prompts, "for_human": "true"}
        path = output.with_name(f"{output.stem}.answers-{_digest(prompts, flags)}.jsonl")
        config = load_config(PrefsConfig, flags={**flags, "output_file": str(path), "overwrite_output_file": "true"})
        configs.append((config, path))
    n_answers = len(models) * configs[0][0].sampling.num_completions
    if not 2 <= n_answers <= MOST:
        raise ConfigError(
            f"{len(models)} models and num_completions = {configs[0][0].sampling.num_completions} make {n_answers} "
            f"answers to a prompt, and 2 to {MOST} are compared. Use another --num_completions."
        )
    for config, path in configs:
        if path.exists():
            click.echo(f"note: the answers of {config.model.model_name_or_path} are in {path}", err=True)
        else:
            from clearppo.api import make_prefs

            make_prefs(config, console=True)
    return [path for _, path in configs]


def _digest(prompts: str, flags: Mapping[str, Any]) -> str:
    """Eight hex digits of all that decides about the answers: other options make another file."""
    content = hashlib.sha256(Path(prompts).expanduser().read_bytes()).hexdigest()
    told = {**flags, "dataset_name": content}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
