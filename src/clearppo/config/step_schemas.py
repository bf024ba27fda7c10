"""The whole configurations of `clearppo sft`, `clearppo reward`, `clearppo prefs` and `clearppo rlhf`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from clearppo.config.command import CommandConfig
from clearppo.config.data_sections import DataConfig
from clearppo.config.kinds import flag, spelled
from clearppo.config.launch_section import LaunchConfig
from clearppo.config.messages import OptionError, listed
from clearppo.config.model_sections import NetworkConfig, ReadModelConfig
from clearppo.config.rules import check_device, check_resume, check_warmup
from clearppo.config.run_sections import TrainRunConfig
from clearppo.config.schema import PPOConfig
from clearppo.config.step_sections import (
    CandidatesConfig,
    LabelConfig,
    PipelineConfig,
    PrefsRunConfig,
    RewardDataConfig,
    RMConfig,
    RMOptimConfig,
    SFTDataConfig,
    SFTOptimConfig,
)
from clearppo.config.tracking_section import TrackingConfig, check_tracking


class SFTConfig(CommandConfig):
    """Everything that determines a run of supervised fine-tuning."""

    command: ClassVar[str] = "sft"

    model: NetworkConfig
    data: SFTDataConfig
    optim: SFTOptimConfig = SFTOptimConfig()
    run: TrainRunConfig
    cluster: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

    def check(self) -> None:
        _check_supervised(self)


class RewardModelConfig(CommandConfig):
    """Everything that determines the training of a reward model."""

    command: ClassVar[str] = "reward"

    model: NetworkConfig
    data: RewardDataConfig
    rm: RMConfig = RMConfig()
    optim: RMOptimConfig = RMOptimConfig()
    run: TrainRunConfig
    cluster: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

    def check(self) -> None:
        _check_supervised(self)


class PrefsConfig(CommandConfig):
    """Everything that determines the making of comparisons."""

    command: ClassVar[str] = "prefs"

    model: ReadModelConfig
    data: DataConfig
    sampling: CandidatesConfig = CandidatesConfig()
    label: LabelConfig = LabelConfig()
    run: PrefsRunConfig

    def check(self) -> None:
        sources = {
            "labeller": self.label.labeller,
            "reward_model_path": self.label.reward_model_path,
            "judge_url": self.label.judge_url,
            "for_human": self.label.for_human or None,
        }
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            what = f"{listed(given)} are given" if given else "Nothing says which answer is better"
            raise OptionError(
                given[0] if given else "labeller",
                f"{what}. Set one of --labeller file.py:name (a Python function), --reward_model_path DIR, "
                "--judge_url URL and --for_human (people do, with clearppo label).",
            )
        if self.sampling.num_completions == 1 and not self.label.for_human:
            raise OptionError(
                "num_completions",
                "num_completions = 1 leaves nothing to compare. Set --num_completions to at least 2.",
            )
        check_device(self.model)


class RLHFConfig(CommandConfig):
    """The options of `clearppo rlhf` itself; those of its steps are in the steps' own configurations."""

    command: ClassVar[str] = "rlhf"

    pipeline: PipelineConfig

    def check(self) -> None:
        check_tracking(self.pipeline)


SCHEMAS: Mapping[str, type[CommandConfig]] = MappingProxyType(
    {schema.command: schema for schema in (SFTConfig, PrefsConfig, RewardModelConfig, PPOConfig)}
)
"""The steps of a pipeline, in their order."""


def _check_supervised(config: SFTConfig | RewardModelConfig) -> None:
    _check_held_out(config.data)
    check_warmup(config.optim)
    check_device(config.model)
    check_tracking(config.tracking)
    check_resume(config.run)


def _check_held_out(data: SFTDataConfig | RewardDataConfig) -> None:
    """One source of held-out rows."""
    if data.eval_dataset_name is not None and data.dataset_test_split is not None:
        raise OptionError(
            "dataset_test_split",
            f"dataset_test_split = {data.dataset_test_split} and eval_dataset_name = {data.eval_dataset_name} both say "
            "what is measured with. Give only one of them.",
        )
    named = "eval_dataset_name" if data.eval_dataset_name is not None else "dataset_test_split"
    if getattr(data, named) is not None and "eval_fraction" in data.model_fields_set and data.eval_fraction:
        raise OptionError(
            "eval_fraction",
            f"eval_fraction = {spelled(data.eval_fraction)} has no effect because {named} = {getattr(data, named)} "
            f"names the held-out rows. Leave out {flag('eval_fraction')}.",
        )
