"""Work in hand: settings of a file beside the rules for them, and the options of ours that have come of them so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from clearppo.foreign.found import Finding, Source, Status
from clearppo.foreign.rule import NOTHING, Rule, Rules

ReadT = TypeVar("ReadT")


@dataclass(frozen=True, kw_only=True)
class Put:
    """An option of ours with its value, the settings that it comes of, and a remark."""

    value: object
    names: Sequence[str]
    why: str = ""


class Work:
    """What is given, what has been made of it, and what not."""

    def __init__(self, source: Source, rules: Rules, processes: int) -> None:
        self.source = source
        self.rules = rules
        self.processes = processes
        self.options: dict[str, Put] = {}
        self.dropped: dict[str, tuple[Status, str]] = {}
        self.notes: list[str] = []

    # ------------------------------------------------------------------------------------------ what is given

    def given(self, *names: str) -> bool:
        """Whether the file gives one of these a value; none is no value."""
        return any(name in self.source.settings and self.source.settings[name].value is not None for name in names)

    def value(self, name: str) -> object:
        """The value in the file, or the other program's default; None if it has none."""
        if self.given(name):
            return self.source.settings[name].value
        rule = self.rules.get(name, Rule())
        return None if rule.default is NOTHING else rule.default

    def number(self, name: str) -> float | None:
        """The value as a number; what is none is dropped with a word, and the default counts."""
        return self._read(name, _number, "it is no number")

    def count(self, name: str) -> int | None:
        """The value as a whole number of at least 1; what is none is dropped with a word, and the default counts."""
        return self._read(name, _count, "it is no whole number of at least 1")

    def flag(self, name: str) -> bool:
        """The value as yes or no."""
        return bool(self._read(name, _flag, "it is neither true nor false"))

    def text(self, name: str) -> str | None:
        """The value as text."""
        return self._read(name, lambda value: value if isinstance(value, str) else None, "it is no text")

    def _read(self, name: str, read: Callable[[object], ReadT | None], wrong: str) -> ReadT | None:
        value = self.value(name)
        found = None if value is None else read(value)
        if found is None and value is not None:
            self.drop(name, wrong)
            default = self.rules[name].default if name in self.rules else NOTHING
            found = None if default is NOTHING or default is None else read(default)
        return found

    # ------------------------------------------------------------------------------------------ what comes of it

    def put(self, option: str, value: object, *names: str, why: str = "") -> None:
        """Set an option of ours, which comes of these settings."""
        self.options[option] = Put(value=value, names=names, why=why)

    def drop(self, name: str, why: str, status: Status = "not carried") -> None:
        """Say what became of a setting that is not carried, or did nothing."""
        self.dropped[name] = (status, why)

    def nothing(self, name: str, why: str) -> None:
        """Say that a setting did nothing in the other program."""
        self.drop(name, why, "did nothing")

    def take_back(self, option: str, why: str) -> None:
        """An option that our schema refuses; what it came of is told why, if the file gave it."""
        for name in self.options.pop(option).names:
            if self.given(name):
                self.drop(name, why)

    # ------------------------------------------------------------------------------------------ the simple ones

    def simple(self) -> None:
        """All settings that are carried, or not, without a look at others."""
        for name, rule in self.rules.items():
            if rule.joined:
                continue
            if rule.to:
                self._carry(name, rule)
            elif self.given(name):
                self.drop(name, rule.why, "did nothing" if rule.silent else "not carried")

    def _carry(self, name: str, rule: Rule) -> None:
        (option,) = rule.to
        given = self.given(name)
        if not given and rule.default is NOTHING:
            return
        before = self.options.get(option)
        if before is not None and not given:
            return
        if before is not None and self.given(*before.names):
            self.drop(name, f"{before.names[0]} says the same, and stands there too")
            return
        value = self.value(name)
        try:
            self.put(option, rule.convert(value) if rule.convert else value, name, why=rule.why)
        except (ValueError, TypeError) as error:
            self.drop(name, str(error))

    # ------------------------------------------------------------------------------------------ the result

    def findings(self, ours: Mapping[str, object]) -> list[Finding]:
        """What became of every setting of the file, and then the defaults that were carried; `ours` are our own."""
        found = [self._finding(name) for name in self.source.settings]
        for unread in self.source.unread:
            found.append(Finding(name=unread.name, value=None, status="not read", place=unread.place, why=unread.why))
        for option, put in self.options.items():
            if not any(self.given(name) and not self._lost(name) for name in put.names):
                name = put.names[0] if put.names else "TRL itself"
                value = self.value(name) if put.names else None
                status: Status = "same" if put.value == ours[option] else "default"
                found.append(Finding(name=name, value=value, status=status, ours={option: put.value}, why=put.why))
        return found

    def _lost(self, name: str) -> bool:
        return self.dropped.get(name, ("carried", ""))[0] == "not carried"

    def _finding(self, name: str) -> Finding:
        setting = self.source.settings[name]
        ours = {option: put.value for option, put in self.options.items() if name in put.names and not self._lost(name)}
        status, why = self.dropped.get(name, ("carried", ""))
        if name not in self.rules:
            status, why = "unknown", "no configuration of TRL that we know has it; look whether it is spelled so"
        elif setting.value is None and name not in self.dropped:
            why = "left open, as it is here"
        elif status == "carried" and not ours:
            why = "what it says holds here too"
        elif status == "carried":
            why = "; ".join(dict.fromkeys(put.why for put in self.options.values() if name in put.names and put.why))
        return Finding(name=name, value=setting.value, status=status, place=setting.place, ours=ours, why=why)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and 1 <= number < 1e12 else None


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "t": True, "y": True}
    words |= {"false": False, "no": False, "0": False, "f": False, "n": False}
    return words.get(str(value).strip().lower())
