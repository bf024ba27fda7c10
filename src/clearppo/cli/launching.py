"""`--launch ray`: the command starts others of its kind in a cluster, prints what the first one prints, and ends as it
does."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clearppo.build.launch import engines_of, launch_run, starts_others
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.config.pipeline import Pipeline

STARTED, PIPELINE = "started.json", "pipeline.json"
"""What a run, and a pipeline, writes when it begins."""


def launch_elsewhere(
    loaded: SFTConfig | RewardModelConfig | PPOConfig,
    recipe: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
) -> None:
    """If `loaded` asks for it, the run is done by other processes, and this one exits with their exit code.

    Raises ConfigError, DistributedError and StopRequested.
    """
    if not starts_others(loaded.cluster.launch):
        return
    secret = loaded.reward.reward_auth_env if isinstance(loaded, PPOConfig) else None
    sys.exit(
        launch_run(
            loaded.command,
            loaded.cluster,
            device=loaded.model.device,
            begun=os.path.join(loaded.run.output_dir, STARTED),
            recipe=recipe,
            config=config,
            flags=flags,
            again={"resume_from_checkpoint": "auto", "overwrite_output_dir": False},
            secrets=(secret,) if secret else (),
            servers=engines_of(loaded) if isinstance(loaded, PPOConfig) else None,
            tell=_tell,
        )
    )


def launch_pipeline(pipeline: Pipeline, recipe: str | None, config: Path | None, flags: Mapping[str, Any]) -> None:
    """The same for all steps in a row; started again, a pipeline goes on where it was by itself."""
    options = pipeline.options
    if not starts_others(options.launch):
        return
    ppo = pipeline.steps["ppo"]
    secret = ppo.reward.reward_auth_env if isinstance(ppo, PPOConfig) else None
    sys.exit(
        launch_run(
            "rlhf",
            options,
            device=options.device,
            begun=os.path.join(options.output_dir, PIPELINE),
            recipe=recipe,
            config=config,
            flags=flags,
            again={},
            secrets=(secret,) if secret else (),
            tell=_tell,
        )
    )


def _tell(line: str) -> None:
    click.echo(f"ray: {line}", err=True)
