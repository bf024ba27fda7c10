"""From what a person typed to a value of the option's type.

The same text means the same on the command line, in YAML and in Python. pydantic checks types and ranges afterwards;
here stand only the conventions that it does not know: the words that switch an option off, and how lists are written.
"""

import os
from typing import Any, cast

import yaml
from pydantic.fields import FieldInfo

from clearppo.config.kinds import OFF_WORDS, Kind, allowed, example, flag, kind_of
from clearppo.config.messages import OptionError, shown

UNREADABLE = (
    yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What PyYAML raises for a text: its own errors, and what escapes it for dates such as 2001-99-99, for tags such as
`!!bool x`, and for brackets three thousand deep."""


def typed(name: str, field: FieldInfo, value: object) -> object:
    """`value` with text read as the option's kind. What is no text passes through, with these exceptions:

    `off` in YAML is False, which for an option that can be switched off means None; a bool is never a number;
    a path is text; a single reward function is a list of one.

    Raises OptionError for a list that cannot be read, and for a bool where a number belongs.
    """
    kind = kind_of(field.annotation)
    if isinstance(value, str):
        return _from_text(name, kind, value)
    if isinstance(value, os.PathLike) and kind.scalar is str:
        return os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, bool) and not kind.is_bool:
        if kind.optional and not value:
            return None
        raise _refused(name, field, value)
    if isinstance(value, list | tuple):
        items = list(cast("list[object] | tuple[object, ...]", value))
        if kind.item is not None and any(isinstance(item, bool) for item in items):
            raise _refused(name, field, items)
        return items
    whole = cast(object, value)
    return [whole] if callable(whole) and kind.item is str else whole


def _refused(name: str, field: FieldInfo, value: object) -> OptionError:
    return OptionError(
        name,
        f"{name} = {shown(value)} is not allowed: it must be {allowed(field)}. Write e.g. {example(name, field)}",
    )


def _from_text(name: str, kind: Kind, text: str) -> object:
    if kind.optional and text.strip().lower() in OFF_WORDS:
        return None
    if text in kind.choices:
        return text
    if kind.is_list:
        return list_from_text(name, text)
    if kind.scalar is int:
        return _whole_number(text)
    return text


def _whole_number(text: str) -> object:
    """1e6 is a whole number too; what is none stays text, and pydantic refuses it."""
    try:
        value = float(text)
        return int(value) if "e" in text.lower() and value.is_integer() else text
    except (ValueError, OverflowError):
        return text


def list_from_text(name: str, text: str) -> list[Any]:
    """A list as one word of the command line: `a,b`, or in YAML's brackets, `["a,b", "\\n"]`, where exactness matters.

    Raises OptionError for brackets that cannot be read, and for empty elements.
    """
    if text.lstrip().startswith("["):
        try:
            items: object = yaml.safe_load(text)
        except UNREADABLE:
            items = None
        if not isinstance(items, list) or any(isinstance(item, list | dict) for item in cast("list[object]", items)):
            raise OptionError(
                name, f'{name} = {shown(text)} is not a list. Write {flag(name)} a,b or {flag(name)} \'["a", "b"]\'.'
            )
        return cast("list[Any]", items)
    first, *others = text.split(",")
    found = [
        first,
        *(item.removeprefix(" ") for item in others),
    ]  # "a, b"; any other blank may be part of a stop string
    if not all(found):
        raise OptionError(
            name,
            f"{name} = {shown(text)} has an empty element. Write {flag(name)} a,b, or with brackets and quotes where "
            f"commas count: {flag(name)} '[\", \"]'.",
        )
    return found
