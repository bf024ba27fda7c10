"""What is known of one setting of another program: where it goes, or why it goes nowhere."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

NOTHING: Final = object()
"""No default: the setting counts only where it is given."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`to`: options of ours that come of it, none if it is not carried. `default`: what the other program takes where
    it is left out. `why`: a remark, or the reason why it is not carried. `silent`: the other program made no use of it.
    `joined`: worked out together with others, in `clearppo.foreign.arithmetic`. `convert`: from its value to ours; a
    ValueError says in words why it cannot be carried."""

    to: tuple[str, ...] = ()
    default: object = NOTHING
    why: str = ""
    silent: bool = False
    joined: bool = False
    convert: Callable[[object], object] | None = None


Rules = Mapping[str, Rule]


def carried(
    to: str, default: object = NOTHING, why: str = "", *, convert: Callable[[object], object] | None = None
) -> Rule:
    """One setting, one option of ours."""
    return Rule(to=(to,), default=default, why=why, convert=convert)


def joined(*to: str, default: object = NOTHING, why: str = "") -> Rule:
    """Worked out with others."""
    return Rule(to=to, default=default, why=why, joined=True)


def left(why: str) -> Rule:
    """Not carried."""
    return Rule(why=why)


def silent(why: str) -> Rule:
    """Taken by the other program, and without any effect there; the run is the same without."""
    return Rule(why=why, silent=True)


def each(names: Iterable[str], rule: Rule) -> dict[str, Rule]:
    """The same for several."""
    return dict.fromkeys(names, rule)
