"""Every option as one flat list, with the other names it is known by, for the command line and the YAML reader."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from pydantic.fields import FieldInfo

from clearppo.config.command import CommandConfig, sections
from clearppo.config.kinds import Kind, OnlyIf, allowed, kind_of, only_if
from clearppo.config.messages import nearest
from clearppo.config.schema import PPOConfig

# What other PPO programs call the same thing. Accepted wherever the name is.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "sft_model_path": "model_name_or_path",
        "max_completion_length": "response_length",
        "max_new_tokens": "response_length",
        "init_kl_coef": "kl_coef",
        "ppo_epochs": "num_ppo_epochs",
        "lambd": "lam",
        "gae_lambda": "lam",
        "eps_clip": "cliprange",
        "clip_range": "cliprange",
        "lr_scheduler": "lr_scheduler_type",
        "per_device_train_batch_size": "micro_batch_size",
        "unsup_coef": "ptx_coef",
        "lr_warmup_steps": "warmup_steps",
        "center_rewards_coefficient": "center_coef",
        "reward_clip": "score_clip",
        "logging_dir": "tracking_dir",
        "project": "tracking_project",
    }
)


@dataclass(frozen=True)
class Leaf:
    """One option: `section`.`name`, and its declaration in the schema."""

    section: str
    name: str
    field: FieldInfo

    @property
    def kind(self) -> Kind:
        return kind_of(self.field.annotation)

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def required(self) -> bool:
        return self.field.is_required()

    @property
    def default(self) -> object:
        """The default, None if the option is required."""
        return None if self.required else self.field.default

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        return allowed(self.field)

    @property
    def conditions(self) -> tuple[OnlyIf, ...]:
        """When it has an effect; always, if empty."""
        return only_if(self.field)

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(alias for alias, name in ALIASES.items() if name == self.name)


@cache
def leaves(schema: type[CommandConfig] = PPOConfig) -> Mapping[str, Leaf]:
    """Every option of a command by its name, in the order of the help."""
    found: dict[str, Leaf] = {}
    for section, model in sections(schema).items():
        for name, field in model.model_fields.items():
            assert name not in found, f"{name} stands in two sections, but flags are flat"
            found[name] = Leaf(section, name, field)
    return MappingProxyType(found)


def canonical(name: str) -> str:
    """The schema's name for a name as typed: hyphens or underscores, or an alias."""
    plain = name.replace("-", "_")
    return ALIASES.get(plain, plain)


def nearest_leaf(name: str, schema: type[CommandConfig] = PPOConfig) -> str | None:
    """The option that an unknown name was probably meant to be: spelled as it or as one of its aliases."""
    known = leaves(schema)
    near = nearest(name, [*known, *(alias for alias, leaf in ALIASES.items() if leaf in known)])
    return canonical(near) if near else None
