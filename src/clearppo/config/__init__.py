"""What a run is configured by: one validated model, its recipes, how it is read, written and summed up. No torch.

load_config(recipe=..., config_path=..., flags=...)  ->  PPOConfig      recipe < file < flags
dump_config(config)  ->  YAML that loads to an equal PPOConfig
objective(config)    ->  the line that says what is really optimised
"""

from clearppo.config.dump import dump_config
from clearppo.config.learning_sections import KLConfig, OptimConfig, PPOSection, RunConfig
from clearppo.config.leaves import ALIASES, Leaf, canonical, leaves
from clearppo.config.load import load_config, unknown_option
from clearppo.config.messages import InertOptionError, OptionError
from clearppo.config.objective import objective
from clearppo.config.recipes import list_recipes, recipe_summary, recipe_text
from clearppo.config.schema import PPOConfig, explicit, inert, sections
from clearppo.config.sections import DataConfig, ModelConfig, RewardConfig, RewardFunction, SamplingConfig, Section
from clearppo.config.values import list_from_text

__all__ = [
    "ALIASES",
    "DataConfig",
    "InertOptionError",
    "KLConfig",
    "Leaf",
    "ModelConfig",
    "OptimConfig",
    "OptionError",
    "PPOConfig",
    "PPOSection",
    "RewardConfig",
    "RewardFunction",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "canonical",
    "dump_config",
    "explicit",
    "inert",
    "leaves",
    "list_from_text",
    "list_recipes",
    "load_config",
    "objective",
    "recipe_summary",
    "recipe_text",
    "sections",
    "unknown_option",
]
