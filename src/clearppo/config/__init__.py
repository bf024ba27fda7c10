"""What a run is configured by: one validated model a command, recipes, how it is read, written and summed up. No torch.

load_config(SCHEMA, recipe=..., config_path=..., flags=...)  ->  a SCHEMA      recipe < file < flags
dump_config(config)  ->  YAML that loads to an equal configuration
objective(config)    ->  the line that says what PPO really optimises
"""

from clearppo.config.alarms_section import AlarmsConfig
from clearppo.config.command import CommandConfig, explicit, inert, sections, values
from clearppo.config.data_sections import AnswerConfig, DataConfig, RewardConfig, RewardFunction, SamplingConfig
from clearppo.config.dump import dump_config
from clearppo.config.eval_section import EvalConfig
from clearppo.config.learning_sections import KLConfig, OptimConfig, PPOOptimConfig, PPOSection, PtxConfig
from clearppo.config.leaves import ALIASES, Leaf, canonical, leaves
from clearppo.config.load import load_config, unknown_option
from clearppo.config.messages import InertOptionError, OptionError
from clearppo.config.model_sections import ModelConfig, NetworkConfig, ReadModelConfig
from clearppo.config.objective import objective
from clearppo.config.one_step import load_one_step
from clearppo.config.pipeline import Pipeline, load_pipeline
from clearppo.config.recipes import list_recipes, recipe_summary, recipe_text
from clearppo.config.record_section import RecordConfig
from clearppo.config.run_sections import RunConfig, TrainRunConfig
from clearppo.config.schema import PPOConfig
from clearppo.config.section import Section
from clearppo.config.step_schemas import SCHEMAS, PrefsConfig, RewardModelConfig, RLHFConfig, SFTConfig
from clearppo.config.step_sections import (
    LabelConfig,
    PipelineConfig,
    RewardDataConfig,
    RMConfig,
    SFTDataConfig,
)
from clearppo.config.tracking_section import TrackingConfig
from clearppo.config.values import list_from_text
from clearppo.config.vllm_section import VLLMConfig

__all__ = [
    "ALIASES",
    "SCHEMAS",
    "AlarmsConfig",
    "AnswerConfig",
    "CommandConfig",
    "DataConfig",
    "EvalConfig",
    "InertOptionError",
    "KLConfig",
    "LabelConfig",
    "Leaf",
    "ModelConfig",
    "NetworkConfig",
    "OptimConfig",
    "OptionError",
    "PPOConfig",
    "PPOOptimConfig",
    "PPOSection",
    "Pipeline",
    "PipelineConfig",
    "PrefsConfig",
    "PtxConfig",
    "RLHFConfig",
    "RMConfig",
    "ReadModelConfig",
    "RecordConfig",
    "RewardConfig",
    "RewardDataConfig",
    "RewardFunction",
    "RewardModelConfig",
    "RunConfig",
    "SFTConfig",
    "SFTDataConfig",
    "SamplingConfig",
    "Section",
    "TrackingConfig",
    "TrainRunConfig",
    "VLLMConfig",
    "canonical",
    "dump_config",
    "explicit",
    "inert",
    "leaves",
    "list_from_text",
    "list_recipes",
    "load_config",
    "load_one_step",
    "load_pipeline",
    "objective",
    "recipe_summary",
    "recipe_text",
    "sections",
    "unknown_option",
    "values",
]
