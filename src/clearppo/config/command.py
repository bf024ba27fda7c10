"""CommandConfig: the base of every command's whole configuration, and what can be asked of one."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import model_validator

from clearppo.config.kinds import OnlyIf, flag, only_if, spelled
from clearppo.config.messages import InertOptionError
from clearppo.config.section import Section


class CommandConfig(Section):
    """Everything that determines a run of one command. Frozen and checked at birth: one that exists makes sense.

    Raises ConfigError (or its subclass OptionError) for an option that is unknown, of the wrong type, out of range,
    contradicted by another, or set without having an effect.
    """

    command: ClassVar[str]

    @model_validator(mode="after")
    def _makes_sense(self) -> "CommandConfig":
        check_inert(self)
        self.check()
        return self

    def check(self) -> None:
        """The rules between options; raises OptionError."""


def sections(schema: type[CommandConfig]) -> Mapping[str, type[Section]]:
    """Name and model of each section, in the order of the help and of the resolved config."""
    found: dict[str, type[Section]] = {}
    for name, field in schema.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        found[name] = field.annotation
    return found


def values(config: CommandConfig) -> dict[str, object]:
    """Every option's value by its name, flat, in the schema's order."""
    return {leaf: value for section in sections(type(config)) for leaf, value in section_of(config, section)}


def section_of(config: CommandConfig, section: str) -> list[tuple[str, object]]:
    """The options of one section with their values."""
    return list(dict(config)[section])


def inert(config: CommandConfig) -> dict[str, OnlyIf]:
    """The options that have no effect under this configuration, each with the condition that does not hold."""
    value = values(config)
    return {
        leaf: condition
        for section in sections(type(config)).values()
        for leaf, field in section.model_fields.items()
        for condition in only_if(field)
        if not condition.holds(value[condition.option])
    }


def explicit(config: CommandConfig) -> frozenset[str]:
    """The names of the options that were set, rather than left at their defaults."""
    return frozenset(leaf for _, section in config for leaf in section.model_fields_set)


def check_inert(config: CommandConfig) -> None:
    """Raises InertOptionError for a set option without effect.

    None, False and an empty list are let through: they say that a thing is off, which it is.
    """
    value, given = values(config), explicit(config)
    for leaf, condition in inert(config).items():
        if leaf in given and value[leaf] is not None and value[leaf] is not False and value[leaf] != []:
            raise InertOptionError(
                leaf,
                f"{leaf} = {spelled(value[leaf])} has no effect because {condition.option} = "
                f"{spelled(value[condition.option])}: {condition.because}. "
                f"Add {condition.mend}, or leave out {flag(leaf)}.",
            )
