"""Options from YAML, each with the line where it stood: a file of one command's sections, or of all three steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clearppo.config.command import CommandConfig, sections
from clearppo.config.leaves import canonical, leaves, nearest_leaf
from clearppo.config.messages import listed, nearest
from clearppo.config.recipes import recipe_text
from clearppo.config.schema import PPOConfig
from clearppo.config.step_schemas import SCHEMAS
from clearppo.config.values import UNREADABLE
from clearppo.errors import ConfigError

Schema = type[CommandConfig]
Entry = tuple[str, yaml.Node, str]
"""Key, value, and the place for messages."""

STEPS = ("pipeline", "sft", "prefs", "reward", "ppo")


@dataclass(frozen=True)
class Given:
    """A value and where it was given: `typed` is the name as written, `place` opens an error ("" for a flag)."""

    value: object
    typed: str
    place: str = ""
    recipe: bool = False


def add(found: dict[str, Given], name: str, source: Given) -> None:
    """Note a value; raises ConfigError if the option has one already."""
    if name in found:
        first = found[name].typed
        both = f"{first} is given twice" if first == source.typed else f"{first} and {source.typed} are the same option"
        raise ConfigError(f"{source.place}{both}. Give only one of them.")
    found[name] = source


def read_recipe(schema: Schema, name: str, *, missing_ok: bool = False) -> dict[str, Given]:
    """A built-in recipe's options for this command. Raises ConfigError if it has none, unless `missing_ok`."""
    found, _ = _read_yaml(schema, recipe_text(name), f"recipe {name}", recipe=True, missing_ok=missing_ok)
    return found


def read_file(schema: Schema, path: Path, *, missing_ok: bool = False) -> tuple[dict[str, Given], str | None]:
    """A user's file: its options for this command, and the recipe that it names."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--config {path} does not exist. Give a YAML file; --recipe names a built-in one.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path} is no text file. Give a YAML file in UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}. Give a readable YAML file.") from None
    return _read_yaml(schema, text, str(path), recipe=False, missing_ok=missing_ok)


def has_pipeline(path: Path) -> bool:
    """Whether this is a file of a pipeline: a YAML mapping with `pipeline:` in it. What cannot be read is none."""
    loader: Any = None  # PyYAML's loaders are not typed
    try:
        loader = yaml.SafeLoader(path.expanduser().read_text(encoding="utf-8"))
        root: yaml.Node | None = loader.get_single_node()
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(root, yaml.MappingNode) and any(key.value == STEPS[0] for key, _ in root.value)


def _read_yaml(
    schema: Schema, text: str, source: str, *, recipe: bool, missing_ok: bool
) -> tuple[dict[str, Given], str | None]:
    """The options of a YAML text with their lines, and the recipe that it names."""
    loader: Any = None  # PyYAML's loaders are not typed
    try:
        loader = yaml.SafeLoader(text)
        root = _whole(loader)
        entries = [] if root is None else list(_entries(loader, root, source, "sections such as `kl:`"))
        named = None if recipe else _named_recipe(loader, entries)
        entries = [entry for entry in entries if entry[0] != "recipe" or recipe]
        if recipe or schema.command == "rlhf" or _holds_steps(entries):
            entries = _of_step(loader, schema, entries, source, missing_ok=missing_ok)
        return _read_sections(loader, schema, entries, source, recipe=recipe), named
    except yaml.YAMLError as error:
        raise ConfigError(f"{_yaml_place(error, source)}this is no YAML: {_yaml_problem(error)}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _whole(loader: Any) -> yaml.Node | None:
    """The root of the document. Raises YAMLError."""
    try:
        return loader.get_single_node()
    except RecursionError:
        raise yaml.YAMLError("its brackets are nested too deep") from None


def _constructed(loader: Any, node: yaml.Node) -> Any:
    """A node's value. Raises YAMLError for whatever PyYAML cannot make of it."""
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        raise
    except UNREADABLE as error:
        mark: Any = node.start_mark
        raise yaml.MarkedYAMLError(problem=f"a value that cannot be read ({error})", problem_mark=mark) from None


def _named_recipe(loader: Any, entries: list[Entry]) -> str | None:
    for key, node, place in entries:
        if key == "recipe":
            value = _constructed(loader, node)
            if not isinstance(value, str):
                raise ConfigError(f"{place}recipe = {value} is not a name. Write e.g. recipe: article")
            return value
    return None


def _holds_steps(entries: list[Entry]) -> bool:
    """Whether a file is one of all steps: `ppo:` and `reward:` may be sections of clearppo ppo too, the rest may "
    "not."""
    for key, node, _ in entries:
        if key in STEPS and key not in sections(PPOConfig):
            return True
        if key in SCHEMAS and isinstance(node, yaml.MappingNode) and node.value:
            known = sections(SCHEMAS[key])
            if all(isinstance(k, yaml.ScalarNode) and k.value in known for k, _ in node.value):
                return True
    return False


def _of_step(loader: Any, schema: Schema, entries: list[Entry], source: str, *, missing_ok: bool) -> list[Entry]:
    """The sections of this command's step."""
    for key, _, place in entries:
        if key not in STEPS:
            near = nearest(key, [*STEPS, "recipe"])
            hint = f" Did you mean {near}?" if near else f" There are {listed(STEPS)}."
            raise ConfigError(f"{place}{key} is no step of a pipeline.{hint}")
    step = "pipeline" if schema.command == "rlhf" else schema.command
    for entry in entries:
        if entry[0] == step:
            if schema.command == "rlhf":
                return [entry]
            return [] if _is_null(entry[1]) else list(_entries(loader, entry[1], source, f"the sections of {step}"))
    if entries and not missing_ok and schema.command != "rlhf":
        has = listed([key for key, _, _ in entries])
        raise ConfigError(f"{source} has no part for clearppo {step}: it has {has}. Use another, or leave it out.")
    return []


def _read_sections(loader: Any, schema: Schema, entries: list[Entry], source: str, *, recipe: bool) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for key, node, place in entries:
        if key not in sections(schema):
            raise _not_a_section(schema, key, place)
        if _is_null(node):  # `kl:` with nothing beneath
            continue
        for typed, leaf_node, leaf_place in _entries(loader, node, source, f"the options of section {key}", place):
            name = canonical(typed)
            if name not in leaves(schema) or leaves(schema)[name].section != key:
                raise _not_in_section(schema, typed, key, leaf_place)
            value = _constructed(loader, leaf_node)
            add(found, name, Given(value, typed, leaf_place, recipe))
    return found


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _entries(loader: Any, node: yaml.Node, source: str, wanted: str, place: str = "") -> Iterator[Entry]:
    """Key, value and place ("ppo.yaml, line 3: ") of a YAML mapping. A key given twice, fine with YAML, is an error."""
    if not isinstance(node, yaml.MappingNode):
        place = place or f"{source}, line {node.start_mark.line + 1}: "
        raise ConfigError(f"{place}here belong {wanted}, one `name: value` a line.")
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(_constructed(loader, key_node))
        here = f"{source}, line {key_node.start_mark.line + 1}: "
        if key in seen:
            raise ConfigError(f"{here}{key} is given twice. Give it only once.")
        seen.add(key)
        yield key, value_node, here


def _not_a_section(schema: Schema, key: str, place: str) -> ConfigError:
    if leaf := leaves(schema).get(canonical(key)):
        return ConfigError(
            f"{place}{key} belongs in section {leaf.section}. Write it indented under `{leaf.section}:`."
        )
    near = nearest(key, [*sections(schema), "recipe"])
    if near:
        return ConfigError(f"{place}Unknown section {key}. Did you mean {near}?")
    if leaf_name := nearest_leaf(key, schema):
        section = leaves(schema)[leaf_name].section
        return ConfigError(f"{place}Unknown option {key}. Did you mean {leaf_name}, in section {section}?")
    return ConfigError(f"{place}Unknown section {key}. The sections are {listed(list(sections(schema)))}.")


def _not_in_section(schema: Schema, typed: str, section: str, place: str) -> ConfigError:
    if leaf := leaves(schema).get(canonical(typed)):
        return ConfigError(f"{place}{typed} belongs in section {leaf.section}, not in {section}. Move it there.")
    near = nearest_leaf(typed, schema)
    if near is None:
        options = [leaf.name for leaf in leaves(schema).values() if leaf.section == section]
        return ConfigError(f"{place}Unknown option {typed}. Section {section} has {listed(options)}.")
    other = leaves(schema)[near].section
    where = "" if other == section else f", in section {other}"
    return ConfigError(f"{place}Unknown option {typed}. Did you mean {near}{where}?")


def _yaml_place(error: yaml.YAMLError, source: str) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f"{source}, line {mark.line + 1}: " if mark else f"{source}: "


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
    return " ".join((problem or str(error)).split())
