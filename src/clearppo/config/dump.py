"""The resolved configuration as YAML: every option, in sections. `load_config` reads it to an equal configuration."""

import re
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import yaml

from clearppo.config.command import CommandConfig, inert, section_of, sections, values
from clearppo.config.kinds import qualified_name
from clearppo.config.leaves import leaves
from clearppo.config.run_sections import RESUMING

_PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # text that reads well without quotes, if YAML does not take it for a number


_ELSEWHERE = {"prefs": "--output_file ANOTHER_FILE"}


def dump_config(config: CommandConfig) -> str:
    """YAML with every option. Those without effect stand as comments with the reason, so that the file loads again.

    A Python callable among the reward functions is written as `module:name`; the file loads again where that can be
    imported, which a lambda, a notebook's function or one defined inside another cannot. Whether the run goes on from a
    checkpoint is left out: a run that did has the configuration of one that never stopped.
    """
    # What stands at its default without effect would be an error in a file; an "off" that the user set may stay.
    value, known = values(config), leaves(type(config))
    asleep = {name: why for name, why in inert(config).items() if value[name] == known[name].default}
    elsewhere = _ELSEWHERE.get(config.command, "--output_dir ANOTHER_DIRECTORY")
    lines = [
        f"# The resolved configuration of a run, written by ClearPPO {clearppo_version()}.",
        f"# Run it again: clearppo {config.command} --config THIS_FILE {elsewhere}",
    ]
    for section in sections(type(config)):
        lines += ["", f"{section}:"]
        entries = [
            (f"  # {name}: {scalar(value)}  (without effect: {asleep[name].because})")
            if name in asleep
            else f"  {name}: {scalar(value)}"
            for name, value in section_of(config, section)
            if name not in RESUMING
        ]
        if all(entry.lstrip().startswith("#") for entry in entries):
            lines[-1] += " {}"
        lines += entries
    return "\n".join(lines) + "\n"


def scalar(value: object) -> str:
    """One line of YAML that loads as `value`."""
    if isinstance(value, list):
        return f"[{', '.join(scalar(item) for item in cast('list[object]', value))}]"
    if callable(value):
        return scalar(qualified_name(value))
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return _dumped(value, '"')  # escapes: a stop string may be a line end
    return _dumped(value)


def _dumped(value: object, style: str | None = None) -> str:
    return yaml.safe_dump(value, width=float("inf"), default_style=style).removesuffix("\n").removesuffix("\n...")


def clearppo_version() -> str:
    """The installed version; "unknown" in a source tree that is not installed."""
    try:
        return version("clearppo")
    except PackageNotFoundError:
        return "unknown"
