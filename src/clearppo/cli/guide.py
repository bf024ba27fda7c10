"""What a command's help says beside its options."""

from dataclasses import dataclass

from clearppo.config import CommandConfig

Examples = tuple[tuple[str, ...], ...]
"""Each a comment and the lines beneath it."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """The words around the options of a command."""

    schema: type[CommandConfig]
    introduction: str
    examples: Examples
    config: str
