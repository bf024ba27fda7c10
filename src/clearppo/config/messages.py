"""Turning a failed validation into one sentence for a person."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from clearppo.config.kinds import allowed, example, flag, spelled
from clearppo.errors import ConfigError


class OptionError(ConfigError):
    """A ConfigError about one option, `option`, so that whoever read the option can say where it stood."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class InertOptionError(OptionError):
    """An option that was set but would have no effect."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was probably meant to be, or None if nothing is near."""
    wanted = name.replace("-", "_").lower()
    found = difflib.get_close_matches(wanted, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def listed(items: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def explain(model: type[BaseModel], data: object, error: ValidationError) -> OptionError:
    """The first problem of a section in one sentence, and how many other options have one."""
    first: dict[str, Mapping[str, Any]] = {}
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        first.setdefault(str(location[0]) if location else "", cast(Mapping[str, Any], problem))
    name, problem = next(iter(first.items()))
    rest = f" (And {len(first) - 1} more.)" if len(first) > 1 else ""
    return OptionError(name, _sentence(model, name, data, problem) + rest)


def _sentence(model: type[BaseModel], name: str, data: object, problem: Mapping[str, Any]) -> str:
    fields = model.model_fields
    if name not in fields:
        if not name:
            return f"{model.__name__} must be given options by name; it was given {spelled(data)}."
        near = nearest(name, fields)
        return f"Unknown option {name} in {model.__name__}." + (f" Did you mean {near}?" if near else "")
    field = fields[name]
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        what = "is missing" if problem["type"] == "missing" else f"cannot be {spelled(problem['input'])}"
        return f"Section {name} {what}. Give it a mapping of options."
    if problem["type"] == "missing":
        return f"{name} is missing. Set {flag(name)}: {lowered(field.description or '')}"
    value = cast(Mapping[str, object], data).get(name) if isinstance(data, Mapping) else problem["input"]
    return f"{name} = {shown(value)} is not allowed: it must be {allowed(field)}. Write e.g. {example(name, field)}"


def lowered(sentence: str) -> str:
    """The sentence with a small first letter, to stand after a colon; names in capitals stay."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def shown(value: object) -> str:
    """A value in a message: as typed, but text that could not be seen or told apart is quoted, and long text is cut."""
    text = spelled(value)
    if isinstance(value, str) and (not value or value != value.strip() or not value.isprintable()):
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
