"""`clearppo rlhf`: SFT, reward model and PPO in a row, from one model and three files."""

import re
from pathlib import Path
from typing import Any

import click

from clearppo.cli.command import SchemaCommand, schema_command
from clearppo.cli.guide import Guide
from clearppo.cli.launching import launch_pipeline
from clearppo.config import SCHEMAS, RLHFConfig, leaves, load_pipeline, unknown_option
from clearppo.engines.environment import is_first
from clearppo.errors import ConfigError

GUIDE = Guide(
    schema=RLHFConfig,
    introduction="Fine-tune a language model on demonstrations, train a reward model on comparisons, and improve the "
    "model against it with PPO. Each step begins with the files of the one before, so that any can be run alone "
    "(clearppo sft, reward, ppo); a step whose output is there already, made by the same settings, is skipped. Options "
    "of a step are given with its name in front: --sft.learning_rate 1e-5, --ppo.kl_coef 0.02.",
    examples=(
        (
            "three files and a model",
            "clearppo rlhf --model_name_or_path Qwen/Qwen3-0.6B --demonstrations demonstrations.jsonl \\",
            "              --comparisons comparisons.jsonl --prompts prompts.jsonl --output_dir runs/rlhf",
        ),
        (
            "as InstructGPT did it",
            "clearppo rlhf --recipe instructgpt --config rlhf.yaml --ppo.ptx_dataset_name text.jsonl",
        ),
        (
            "no comparisons: a Python function compares the fine-tuned model's answers",
            "clearppo rlhf --config rlhf.yaml --labeller label.py:score",
        ),
    ),
    config="YAML with `pipeline:` for the options below and `sft:`, `prefs:`, `reward:` and `ppo:` for those of the "
    "steps, each in that command's sections. Recipes have this form (clearppo recipes show NAME). It may name its "
    "recipe at the top: `recipe: instructgpt`.",
)
_OF_STEP = re.compile(r"--([a-z]+)\.([\w-]+)(?:=(.*))?", re.DOTALL)


class PipelineCommand(SchemaCommand):
    """A command that takes the options of its steps too, with the step's name in front."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, ctx.obj = split_steps(args)
        return super().parse_args(ctx, rest)


def split_steps(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without `--step.option value`, and those by their name `step.option`."""
    rest: list[str] = []
    found: dict[str, Any] = {}
    waiting = list(args)
    while waiting:
        word = waiting.pop(0)
        match = _OF_STEP.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        step, option, value = match.groups()
        _check(step, option)
        if value is None and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        name = f"{step}.{option.replace('-', '_')}"
        if name in found:
            raise ConfigError(f"--{name} is given twice: {found[name]} and {value}. Give it only once.")
        found[name] = "true" if value is None else value
    return rest, found


def _check(step: str, option: str) -> None:
    if step not in SCHEMAS:
        raise ConfigError(f"Unknown option --{step}.{option}. The steps are {', '.join(SCHEMAS)}.")
    known = {name for leaf in leaves(SCHEMAS[step]).values() for name in (leaf.name, *leaf.aliases)}
    if option.replace("-", "_") not in known:
        error = str(unknown_option(SCHEMAS[step], option))
        raise ConfigError(error.replace("--", f"--{step}.", 1).replace("mean --", f"mean --{step}."))


@click.pass_context
def run(ctx: click.Context, recipe: str | None, config: Path | None, flags: dict[str, Any]) -> None:
    """Run the pipeline that the options say."""
    everything = {**flags, **ctx.obj}
    pipeline = load_pipeline(recipe=recipe, config_path=config, flags=everything)
    launch_pipeline(pipeline, recipe, config, everything)

    from clearppo.pipeline import run_pipeline

    results = run_pipeline(pipeline, console=True, tell=lambda line: click.echo(click.style(line, bold=True)))
    if not is_first():
        return
    click.echo(f"\nThe model is in {results[-1].output}. Talk to it:  clearppo chat {results[-1].output}")
    for result in results:
        spent = "kept" if result.kept else f"{result.seconds / 60:.1f} min"
        click.echo(f"  {result.step:<7} {spent:>9}  {result.output}")


rlhf = schema_command(GUIDE, run, "All three steps in a row, from one model and three files.", cls=PipelineCommand)
