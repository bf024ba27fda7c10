"""`clearppo rlhf`: which steps a pipeline has, and the whole configuration of each, with what joins them filled in."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from clearppo.config.command import CommandConfig, explicit, values
from clearppo.config.leaves import canonical, leaves
from clearppo.config.load import load_config, read_step
from clearppo.config.messages import OptionError, listed
from clearppo.config.step_schemas import SCHEMAS, RLHFConfig
from clearppo.config.step_sections import PipelineConfig
from clearppo.config.yaml_file import Given
from clearppo.errors import ConfigError

Outputs = Mapping[str, str]
_FLAG = re.compile(r"--([a-z_]+)\b(?![.-]\w)")
_READS = {"sft": "demonstrations", "prefs": "prompts", "reward": "comparisons", "ppo": "prompts"}
"""The pipeline's name of each step's dataset_name."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The steps that are to be run, in their order, each with its whole configuration; `outputs` is what each makes."""

    options: PipelineConfig
    steps: Mapping[str, CommandConfig]
    outputs: Outputs


def load_pipeline(
    *, recipe: str | None = None, config_path: Path | None = None, flags: Mapping[str, Any] | None = None
) -> Pipeline:
    """A pipeline from a recipe, a file of all steps and flags; a later one wins over an earlier one.

    Flags are the pipeline's own options, and `step.option` for an option of a step: `ppo.kl_coef`.

    Raises ConfigError for a step that cannot follow from the one before, and for whatever a step's options have wrong.
    """
    own, of_steps = _split(flags or {})
    options = load_config(RLHFConfig, config_path=config_path, flags=own).pipeline
    given: dict[str, dict[str, Given]] = {}
    for step, schema in SCHEMAS.items():
        with _named(step):
            given[step] = read_step(schema, recipe=recipe, config_path=config_path, flags=of_steps.get(step, {}))
    _check_sources(options, given)
    names = _names(options)
    outputs = _outputs(options, names)
    joined = {step: _joined(step, options, outputs) for step in names}
    for step in SCHEMAS:
        if step not in names:
            _refuse_idle(step, options, given[step])
    steps: dict[str, CommandConfig] = {}
    for step in names:
        steps[step] = _step(step, given[step], _usual(step, options), joined[step], outputs)
    _check_trunk(steps)
    return Pipeline(options=options, steps=steps, outputs=outputs)


def _check_trunk(steps: Mapping[str, CommandConfig]) -> None:
    """A shared trunk needs the reward model's adapter, which only LoRA leaves."""
    if "reward" not in steps or "ppo" not in steps:
        return
    if values(steps["ppo"])["share_trunk"] is True and not values(steps["reward"])["use_peft"]:
        raise OptionError(
            "share_trunk",
            "step ppo: share_trunk = true needs a reward model that was trained with LoRA, and step reward has "
            "use_peft = false. Add --reward.use_peft true, or leave out --ppo.share_trunk.",
        )


def _split(flags: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    own: dict[str, Any] = {}
    of_steps: dict[str, dict[str, Any]] = {}
    for name, value in flags.items():
        step, dot, option = name.partition(".")
        if not dot:
            own[name] = value
        elif step in SCHEMAS:
            of_steps.setdefault(step, {})[option] = value
        else:
            raise ConfigError(f"--{name}: there is no step {step}. The steps are {listed(list(SCHEMAS))}.")
    return own, of_steps


def _check_sources(options: PipelineConfig, given: Mapping[str, Mapping[str, Given]]) -> None:
    sources = {
        "comparisons": options.comparisons,
        "labeller": options.labeller,
        "judge_url": options.judge_url,
        "reward_model_path": options.reward_model_path,
    }
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise OptionError(
            named[1],
            f"{listed(named)} are given, and each of them says what a good answer is. Give one: --comparisons (step "
            "reward learns from them), --labeller or --judge_url (step prefs makes them), or --reward_model_path.",
        )
    if not named and not any(_user_set(given["ppo"], option) for option in ("reward_funcs", "reward_urls")):
        raise OptionError(
            "comparisons",
            "Nothing says what a good answer is, so step ppo cannot follow. Set --comparisons FILE, --labeller "
            "file.py:name, --judge_url URL, --reward_model_path DIR, --ppo.reward_funcs file.py:name, or "
            "--ppo.reward_urls URL.",
        )


def _user_set(given: Mapping[str, Given], option: str) -> bool:
    return option in given and bool(given[option].value)


def _names(options: PipelineConfig) -> list[str]:
    makes_comparisons = options.labeller is not None or options.judge_url is not None
    wanted = {
        "sft": options.demonstrations is not None,
        "prefs": makes_comparisons,
        "reward": makes_comparisons or options.comparisons is not None,
        "ppo": True,
    }
    return [step for step in SCHEMAS if wanted[step]]


def _outputs(options: PipelineConfig, names: list[str]) -> dict[str, str]:
    place = PurePath(options.output_dir)
    return {step: str(place / ("comparisons.jsonl" if step == "prefs" else step)) for step in names}


def _joined(step: str, options: PipelineConfig, outputs: Outputs) -> dict[str, Any]:
    """The options of a step that follow from the pipeline."""
    policy = outputs.get("sft", options.model_name_or_path)
    shared: dict[str, Any] = {"seed": options.seed, "device": options.device}
    if "launch" in leaves(SCHEMAS[step]):
        shared["launch"] = "here"  # the pipeline's processes run all steps
    overwrite = {"overwrite_output_dir": True, "output_dir": outputs.get(step)}
    match step:
        case "sft":
            own = {
                "model_name_or_path": options.model_name_or_path,
                "dataset_name": options.demonstrations,
                **overwrite,
            }
        case "prefs":
            label = {"labeller": options.labeller} if options.labeller is not None else {"judge_url": options.judge_url}
            output = {"output_file": outputs["prefs"], "overwrite_output_file": True}
            own = {"model_name_or_path": policy, "dataset_name": options.prompts, **label, **output}
        case "reward":
            comparisons = outputs.get("prefs", options.comparisons)
            own = {"model_name_or_path": policy, "dataset_name": comparisons, **overwrite}
        case _:
            model = outputs.get("reward", options.reward_model_path)
            scorer = {} if model is None else {"reward_model_path": model}
            own = {"model_name_or_path": policy, "dataset_name": options.prompts, **scorer, **overwrite}
    return {**shared, **own}


def _usual(step: str, options: PipelineConfig) -> dict[str, Given]:
    """The options of the pipeline that a step takes unless it has its own."""
    names = ("report_to", "tracking_project", "tracking_dir") if options.report_to is not None else ()
    # As a recipe's: where they have no effect, because a step has trackers of its own, they are left out.
    return {name: Given(getattr(options, name), name, recipe=True) for name in names if name in leaves(SCHEMAS[step])}


def _step(
    step: str, given: Mapping[str, Given], usual: Mapping[str, Given], joined: Mapping[str, Any], outputs: Outputs
) -> CommandConfig:
    for name, source in given.items():
        if name in joined and not source.recipe:
            raise ConfigError(
                f"{source.place}{name} of step {step} follows from the pipeline ({joined[name]}). Leave it out, or run "
                f"the step alone with clearppo {step}."
            )
    everything = {**usual, **given, **{name: Given(value, name) for name, value in joined.items()}}
    with _named(step):
        config = load_config(SCHEMAS[step], given=everything)
        critic_needs_start = step == "ppo" and "reward" in outputs and "value_model_path" not in explicit(config)
        if critic_needs_start and dict(dict(config)["model"])["critic"] == "separate":
            # All systems since 2020 start the critic from the reward model; its vocabulary is the policy's here.
            everything["value_model_path"] = Given(outputs["reward"], "value_model_path", recipe=True)
            config = load_config(SCHEMAS[step], given=everything)
    return config


@contextmanager
def _named(step: str) -> Generator[None]:
    """Errors say which step they are about, and spell its flags as they are typed here: with its name in front."""
    try:
        yield
    except ConfigError as error:
        text = as_typed(step, str(error))
        in_file = re.match(r".*, line \d+: ", text)  # the line in the file says it all
        raise ConfigError(text if in_file else f"step {step}: {text}") from None


def as_typed(step: str, text: str) -> str:
    """A step's message with its flags as `clearppo rlhf` takes them: --ppo.kl_coef, and --prompts, which ppo reads."""

    def flag(found: re.Match[str]) -> str:
        name = found[1]
        if name == "dataset_name":
            return f"--{_READS[step]}"
        own = name in leaves(RLHFConfig) or name in ("config", "recipe", "help")
        return found[0] if own else f"--{step}.{name}"

    return _FLAG.sub(flag, text)


def _refuse_idle(step: str, options: PipelineConfig, given: Mapping[str, Given]) -> None:
    """Options for a step that will not run are a mistake; a recipe's are not."""
    for name, source in given.items():
        if not source.recipe:
            flag = source.typed if source.typed.startswith("--") else canonical(name)
            raise ConfigError(
                f"{source.place}{flag.replace('--', f'--{step}.')} has no effect: there is no step {step}, because "
                f"{_WHY_NOT[step]}. Leave it out."
            )


_WHY_NOT = {
    "sft": "no --demonstrations are given",
    "prefs": "neither --labeller nor --judge_url is given",
    "reward": "neither --comparisons nor somebody who makes them is given",
}
