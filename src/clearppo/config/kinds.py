"""What an option is: its kind, what it allows, when it has an effect, and how all this is said to a person.

The schema declares these facts once, beside each option. Errors, `--help` and the resolved config read them
from here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

OFF_WORDS = frozenset({"none", "null", "off"})


@dataclass(frozen=True)
class OnlyIf:
    """Metadata of an option that has an effect only while another option stands in a certain way.

    `because` finishes the sentence "x has no effect because y = ...: "; `mend` is what the user would add.
    """

    option: str
    test: Literal["equals", "in", "names one of", "is set", "is given", "is positive"]
    because: str
    mend: str
    value: object = None

    def holds(self, value: object) -> bool:
        """Whether an option beside `value` has an effect."""
        match self.test:
            case "equals":
                return value == self.value
            case "in":
                return value in cast(Sequence[object], self.value)
            case "names one of":  # a list that does
                return not set(cast(list[object], value or [])).isdisjoint(cast(Sequence[object], self.value))
            case "is set":
                return value is not None
            case "is given":
                return bool(value)
            case "is positive":
                return isinstance(value, int | float) and value > 0

    def condition(self) -> str:
        """The condition as the help prints it: `--use_peft true`, `--cliprange`, `--kl_coef above 0`."""
        match self.test:
            case "equals":
                return f"{flag(self.option)} {spelled(self.value)}"
            case "in" | "names one of":
                return f"{flag(self.option)} {' or '.join(map(spelled, cast(Sequence[object], self.value)))}"
            case "is set" | "is given":
                return flag(self.option)
            case "is positive":
                return f"{flag(self.option)} above 0"


@dataclass(frozen=True)
class Allowed:
    """Metadata: what an option allows, in words, where the type cannot say it."""

    words: str
    example: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The shape of an option's type. `scalar` is the type of one value, `item` that of a list's elements.

    Exactly one of `scalar` and `item` is set, unless the option takes nothing but `choices`.
    """

    scalar: type | None = None
    item: type | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def is_list(self) -> bool:
        return self.item is not None

    @property
    def is_bool(self) -> bool:
        return self.scalar is bool


def kind_of(annotation: object) -> Kind:
    """The Kind of a type annotation: bool, int, float, str, Literal, list[...], and unions of these with None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return Kind(choices=tuple(str(argument) for argument in arguments))
    if origin is list:
        item = arguments[0]
        # "a string or a callable" is written as a string; only Python can hand over the callable.
        return Kind(item=item if isinstance(item, type) else str)
    if origin in (Union, UnionType):
        parts = [kind_of(part) for part in arguments if part is not NoneType and not _is_function(part)]
        return Kind(
            scalar=next((part.scalar for part in parts if part.scalar), None),
            item=next((part.item for part in parts if part.item), None),
            choices=tuple(choice for part in parts for choice in part.choices),
            optional=NoneType in arguments,
        )
    return Kind(scalar=cast(type, annotation))


def _is_function(annotation: object) -> bool:
    """Whether it is the Python half of "text or a function", which nobody can type."""
    return get_origin(annotation) is Callable


def flag(name: str) -> str:
    """An option as the user types it."""
    return f"--{name}"


def spelled(value: object) -> str:
    """A value as the user would type it: true, none, 0.05, a.py:f,b.py:g."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        items = [spelled(item) for item in cast(Sequence[object], value)]
        plain = all(item and item.isprintable() and not set(item) & set(",[]\"' ") for item in items)
        return ",".join(items) if items and plain else json.dumps(items, ensure_ascii=False)
    if callable(value):
        return qualified_name(value)
    return str(value)


def number(value: float) -> str:
    """The shortest text that reads back as the same number: 1, 0.05, 3e-6."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value).replace("e-0", "e-")


def qualified_name(function: object) -> str:
    """`module:name` of a callable; of its class, for an object that has no name of its own."""
    while isinstance(function, partial):
        function = cast(object, function.func)
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "text"}


def allowed(field: FieldInfo) -> str:
    """What an option allows, in words: `a number above 0 and at most 1`, `one of k1, k2, k3, full`, `text, or none`."""
    kind = kind_of(field.annotation)
    words = next((meta.words for meta in field.metadata if isinstance(meta, Allowed)), None)
    if words is None:
        words = " or ".join(_alternatives(kind, _bounds(field)))
    return f"{words}, or none" if kind.optional else words


def _alternatives(kind: Kind, bounds: str) -> list[str]:
    found: list[str] = []
    if kind.item:
        found.append(f"a list of {_PLURALS[kind.item]}{bounds}")
    if kind.is_bool and kind.choices:
        return [", ".join(("true", "false", *kind.choices[:-1])) + f" or {kind.choices[-1]}"]
    if kind.scalar:
        found.append(_SCALARS[kind.scalar] + bounds)
    if kind.choices:
        found.append(("one of " if len(kind.choices) > 1 else "") + ", ".join(kind.choices))
    return found


def _bounds(field: FieldInfo) -> str:
    words: list[str] = []
    for meta in field.metadata:
        match meta:
            case Gt():
                words.append(f"above {meta.gt}")
            case Ge():
                words.append(f"of at least {meta.ge}")
            case Lt():
                words.append(f"below {meta.lt}")
            case Le():
                words.append(f"at most {meta.le}")
            case MinLen(min_length=1):
                words.append("that is not empty")
            case _:
                pass
    return " " + " and ".join(words) if words else ""


def example(name: str, field: FieldInfo) -> str:
    """A way to write the option that is allowed: its default where it has one."""
    for meta in field.metadata:
        if isinstance(meta, Allowed):
            return f"{flag(name)} {meta.example}"
    default: Any = field.default
    kind = kind_of(field.annotation)
    if kind.choices and not field.is_required():
        return f"{flag(name)} {spelled(default)}"
    if field.is_required() or default is None or default == []:
        return f"{flag(name)} {'none' if kind.optional else _sample(kind)}"
    return f"{flag(name)} {spelled(default)}"


def _sample(kind: Kind) -> str:
    wanted = kind.item or kind.scalar
    return "1" if wanted is int else "0.5" if wanted is float else "TEXT"


def only_if(field: FieldInfo) -> tuple[OnlyIf, ...]:
    """The conditions under which an option has an effect; none for most."""
    return tuple(meta for meta in field.metadata if isinstance(meta, OnlyIf))
