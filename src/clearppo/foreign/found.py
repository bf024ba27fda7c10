"""What a reader finds in somebody's file, and what becomes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clearppo.config import CommandConfig
from clearppo.config.kinds import spelled

Status = Literal["carried", "default", "same", "did nothing", "not carried", "not read", "unknown"]
STATUSES: Mapping[Status, str] = {
    "carried": "it is in our file",
    "default": "the file leaves it out, and TRL's default is not ours: it is in our file",
    "same": "the file leaves it out, and TRL's default is ours: it is in our file all the same",
    "did nothing": "TRL took it and made no use of it",
    "not carried": "we do otherwise, or have no such thing",
    "not read": "it is no literal value",
    "unknown": "no version of TRL that we know has it",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting as it stands in a file. `place` is such as `line 3`."""

    name: str
    value: object
    place: str


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A setting whose value only running the file would tell."""

    name: str
    place: str
    why: str


@dataclass(kw_only=True)
class Source:
    """What a file says, before it is known what that means. `step`, `old` are None where the file does not tell."""

    step: str | None = None
    old: bool | None = None
    settings: dict[str, Setting] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    processes: int | None = None
    mixed_precision: str | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: object, place: str) -> None:
        """Note a setting; the last one of a name counts, as with argparse."""
        self.settings[name] = Setting(name=name, value=value, place=place)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one setting: `ours` are the options of ours that come of it."""

    name: str
    value: object
    status: Status
    place: str = ""
    ours: Mapping[str, object] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A whole file, turned into a configuration of `clearppo STEP`.

    `text` is its YAML; `missing` are the options that must be given beside it because the file does not say them.
    """

    step: str
    program: str
    findings: Sequence[Finding]
    options: Mapping[str, object]
    missing: Sequence[str]
    notes: Sequence[str]
    text: str
    config: CommandConfig

    def of(self, status: Status) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.status == status]

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "step": self.step,
            "program": self.program,
            "options": dict(self.options),
            "missing": list(self.missing),
            "notes": list(self.notes),
            "findings": [
                {
                    "name": it.name, "value": plain(it.value), "place": it.place, "status": it.status,
                    "ours": dict(it.ours), "why": it.why,
                }
                for it in self.findings
            ],
        }  # fmt: skip


def plain(value: object) -> object:
    """A value as JSON has it: what is neither a number, a text nor a list of these is told in words."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, bool | int | float | str) for item in value):
        return [plain(item) for item in value]
    return words(value)


def words(value: object) -> str:
    """A value for people, on one line and not endless; what is nested is only named."""
    if isinstance(value, dict):
        text = "a mapping" if value else "{}"
    elif isinstance(value, list | tuple | set) and any(isinstance(item, list | tuple | set | dict) for item in value):
        text = f"a list of {len(value)}"
    elif isinstance(value, set | bytes | complex) or value is ...:
        text = f"a {type(value).__name__}"
    else:
        text = spelled(value)
    text = printable(text)
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """One line that no terminal and no YAML reader stumbles over."""
    return "".join(c if c == " " or c.isprintable() else ascii(c)[1:-1] for c in text)
