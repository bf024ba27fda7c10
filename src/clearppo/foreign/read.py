"""Reading a file of settings: YAML, Python or shell, by its ending. Nothing in it is run."""

from pathlib import Path

import yaml

from clearppo.config.messages import listed
from clearppo.config.values import UNREADABLE
from clearppo.errors import ConfigError
from clearppo.foreign.found import Source
from clearppo.foreign.read_python import read_python
from clearppo.foreign.read_shell import read_shell

LARGEST = 1 << 20
ENDINGS = (".yaml", ".yml", ".json", ".py", ".sh")
OUR_SECTIONS = {"model", "data", "sampling", "reward", "kl", "ppo", "optim", "run", "pipeline", "sft"}


def read(file: Path, step: str | None) -> Source:
    """The settings in the file; `step` chooses among several commands or configurations. Raises ConfigError."""
    text = text_of(file)
    if file.suffix == ".py":
        return read_python(text, str(file), step)
    if file.suffix == ".sh":
        return read_shell(text, str(file), step, beside=lambda name: _named(file, name))
    if file.suffix in (".yaml", ".yml", ".json"):
        return read_yaml(text, str(file))
    raise ConfigError(
        f"{file} ends in {file.suffix or 'nothing'}. Give TRL's settings as {listed(ENDINGS, 'or')}: YAML, a Python "
        "script that makes a PPOConfig, or a shell script that starts one."
    )


def text_of(file: Path) -> str:
    """The whole file as text. Raises ConfigError."""
    try:
        if file.is_dir():
            raise ConfigError(f"{file} is a directory. Give one file of settings.")
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist. Give TRL's settings as {listed(ENDINGS, 'or')}.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{file} cannot be read: {why}. Give a readable file.") from None
    if len(content) > LARGEST:
        raise ConfigError(
            f"{file} is larger than {LARGEST >> 20} MiB, and so no file of settings. Give the settings alone."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no text file. Give one in UTF-8.") from None


def read_yaml(text: str, name: str) -> Source:
    """A mapping of settings, as TRL's parser reads it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: this is no YAML: {' '.join(str(error.problem).split())}.") from None
    except UNREADABLE as error:
        raise ConfigError(f"{name}: this is no YAML: {' '.join(str(error).split())[:200]}.") from None
    if content is None:
        return Source()
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name} is no mapping of settings. Write one `name: value` a line.")
    if set(content) <= OUR_SECTIONS | {"recipe"} and any(isinstance(part, dict) for part in content.values()):
        raise ConfigError(f"{name} is a configuration of ClearPPO already. Use it with --config.")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value if isinstance(key, yaml.ScalarNode)}
    source = Source()
    for key, value in content.items():
        source.add(str(key), value, f"line {lines[str(key)]}" if str(key) in lines else "")
    return source


def _named(file: Path, name: str) -> Source | None:
    """The YAML that a command line names with --config: as it stands, or beside the shell script; None if not there."""
    for place in (Path(name), file.parent / name):
        if place.suffix in (".yaml", ".yml", ".json") and place.is_file():
            return read_yaml(text_of(place), str(place))
    return None
