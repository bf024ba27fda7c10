"""The configuration of one step, from a command's own file, a recipe's form or a whole pipeline: for who only looks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearppo.config.command import CommandConfig, values
from clearppo.config.load import load_config
from clearppo.config.messages import listed
from clearppo.config.pipeline import Pipeline, load_pipeline
from clearppo.config.step_schemas import SCHEMAS
from clearppo.config.yaml_file import has_pipeline
from clearppo.errors import ConfigError


def load_one_step(
    step: str,
    *,
    recipe: str | None = None,
    config_path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    made: bool = True,
) -> CommandConfig:
    """The whole configuration of `step`, as its own command would have it. Of a file of a pipeline (with `pipeline:` in
    it) what the pipeline joins is filled in; flags are those of the step, without its name in front.

    With `made` the models and files that earlier steps make must be there. Raises ConfigError.
    """
    if config_path is None or not has_pipeline(config_path):
        return load_config(SCHEMAS[step], recipe=recipe, config_path=config_path, flags=flags)
    typed = {f"{step}.{name}": value for name, value in (flags or {}).items()}
    pipeline = load_pipeline(recipe=recipe, config_path=config_path, flags=typed)
    if step not in pipeline.steps:
        raise ConfigError(
            f"{config_path} is a pipeline without a step {step}: it has {listed(list(pipeline.steps))}. Give one of "
            "them as --step."
        )
    config = pipeline.steps[step]
    if made:
        _require_made(config, step, pipeline)
    return config


def _require_made(config: CommandConfig, step: str, pipeline: Pipeline) -> None:
    makers = {place: maker for maker, place in pipeline.outputs.items() if maker != step}
    for option, value in values(config).items():
        maker = makers.get(value) if isinstance(value, str) else None
        if maker is not None and not Path(str(value)).expanduser().exists():
            raise ConfigError(
                f"step {step} reads {value} ({option}), which step {maker} has not made yet. Run clearppo rlhf first, "
                f"or look at the earlier step with --step {maker}."
            )
