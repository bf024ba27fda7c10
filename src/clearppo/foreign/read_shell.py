"""Reading a shell script by its words: the command that starts TRL, its launcher and its options. Nothing is run."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from clearppo.config.messages import listed
from clearppo.errors import ConfigError
from clearppo.foreign.found import Source, Unread

Beside = Callable[[str], Source | None]

_SWITCHES = {"True", "true", "False", "false"}
_EXPANDED = re.compile(r"\$|`")
_REDIRECTED = re.compile(r"""[<>&]+\s*(?:'[^']*'|"[^"]*"|[^\s;&|<>])*""")


@dataclass(kw_only=True)
class Command:
    """One command of the script, from the program to its last option."""

    line: int
    launcher: list[str] = field(default_factory=list)
    script: str = ""
    options: list[str] = field(default_factory=list)

    @property
    def step(self) -> str | None:
        """What its name says."""
        name = PurePath(self.script).name.lower()
        return next((step for step in ("ppo", "reward", "sft") if step in name), None)


def read_shell(text: str, name: str, step: str | None, beside: Beside) -> Source:
    """The one command that starts a training script; `step` chooses among several. `beside` reads a YAML file that the
    command names with --config. Raises ConfigError."""
    found = [command for command in _commands(text, name) if command.options]
    if step is not None and len(found) > 1:
        found = [command for command in found if command.step in (step, None)]
    known = [command for command in found if command.step]
    found = known or found
    if not found:
        raise ConfigError(
            f"{name} starts no Python script with options. Give the command line, such as accelerate launch ppo.py "
            "--kl_coef 0.05."
        )
    if len(found) > 1:
        said = [f"{command.script} (line {command.line})" for command in found]
        raise ConfigError(
            f"{name} starts {listed(said)}, and one command is read. Say which step is meant: --step ppo."
        )
    (command,) = found
    source = Source(step=command.step)
    _launcher(source, command)
    _options(source, command, beside)
    return source


def _commands(text: str, name: str) -> Iterator[Command]:
    """Every command that runs a Python script, a module or `trl`."""
    number, lines = 0, text.split("\n")
    while number < len(lines):
        first, joined = number + 1, lines[number]
        while joined.rstrip("\r").endswith("\\") and number + 1 < len(lines):
            number += 1
            joined = joined.rstrip("\r")[:-1] + " " + lines[number]
        number += 1
        for words in _segments(joined, f"{name}, line {first}"):
            command = _command(words, first)
            if command is not None:
                yield command


def _segments(line: str, place: str) -> Iterator[list[str]]:
    """The words of a line, cut where another command begins or output goes elsewhere."""
    for part in _parts(line):
        try:
            yield shlex.split(part)
        except ValueError:
            raise ConfigError(f"{place}: a quotation mark has no partner. Close it on the same line.") from None


def _parts(line: str) -> Iterator[str]:
    """The line, cut at every operator that stands outside of quotation marks, up to a comment; without redirections."""
    part, quote, place = "", "", 0
    while place < len(line):
        char = line[place]
        if char == "\\" and quote != "'":
            part += line[place : place + 2]
            place += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (place == 0 or line[place - 1].isspace()):
            break
        elif char in ";&|":
            yield part
            part, char = "", ""
        elif char in "<>":
            part = re.sub(r"(?:^|(?<=\s))[0-9]$", "", part)  # 2>&1
            redirected = _REDIRECTED.match(line, place)
            assert redirected is not None, "it begins with one of these"
            place = redirected.end()
            continue
        part += char
        place += 1
    yield part


def _command(words: list[str], line: int) -> Command | None:
    for place, word in enumerate(words):
        if word.endswith(".py") and not word.startswith("-"):
            return Command(line=line, launcher=words[:place], script=word, options=words[place + 1 :])
        if word == "-m" and place + 1 < len(words) and words[place - 1].rpartition("/")[2].startswith("python"):
            module = words[place + 1]
            if module not in ("torch.distributed.run", "accelerate.commands.launch"):
                return Command(line=line, launcher=words[:place], script=module, options=words[place + 2 :])
        if word == "trl" and place + 1 < len(words):
            return Command(line=line, script=words[place + 1], options=words[place + 2 :])
    return None


def _launcher(source: Source, command: Command) -> None:
    """How many processes, and in which precision."""
    options = dict(_pairs(command.launcher))
    counts = {name.replace("-", "_"): values[-1] for name, values in options.items() if values}
    product = 1
    for name in ("num_processes", "nproc_per_node", "nproc", "nnodes", "num_gpus"):
        text = counts.get(name, "")
        if text.isdecimal() and 0 < int(text) < 1_000_000:
            product *= int(text)
            source.processes = product
        elif text:
            source.notes.append(f"--{name} {text} is no number that can be read: give --num_processes.")
    source.mixed_precision = counts.get("mixed_precision")
    file = counts.get("config_file")
    if file and source.processes is None:
        source.notes.append(f"{file} may say how many processes there were; it is not read: give --num_processes.")


def _options(source: Source, command: Command, beside: Beside) -> None:
    place = f"line {command.line}"
    for typed, values in _pairs(command.options):
        name = typed.replace("-", "_")
        if name == "config" and values:
            _config(source, values[0], place, beside)
    for typed, values in _pairs(command.options):
        name = typed.replace("-", "_")
        if name == "config":
            continue
        if any(_EXPANDED.search(value) for value in values):
            why = f"{' '.join(values)} is no literal value, and the script is not run: write the value"
            source.unread.append(Unread(name=name, place=place, why=why))
            source.settings.pop(name, None)
        elif not values and name.startswith("no_"):
            source.add(name.removeprefix("no_"), False, place)
        else:
            source.add(name, _value(values), place)


def _config(source: Source, file: str, place: str, beside: Beside) -> None:
    more = beside(file)
    if more is None:
        source.unread.append(Unread(name="config", place=place, why=f"{file} is not there: import it by itself"))
        return
    for setting in more.settings.values():
        source.add(setting.name, setting.value, f"{file}, {setting.place}")


def _value(values: list[str]) -> object:
    """A switch alone is true; several words are a list."""
    if not values:
        return True
    if len(values) == 1:
        return values[0] in ("True", "true") if values[0] in _SWITCHES else values[0]
    return values


def _pairs(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Options with the words behind each, up to the next option. A negative number is a word."""
    name, values = "", []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            if name:
                yield name, values
            name, equals, value = word[2:].partition("=")
            values = [value] if equals else []
        elif name:
            values.append(word)
    if name:
        yield name, values
