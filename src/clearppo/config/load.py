"""Recipe < file < flags: gathering the options, and saying where a bad one stood."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clearppo.config.leaves import canonical, leaves, nearest_leaf
from clearppo.config.messages import InertOptionError, OptionError, listed, lowered, nearest
from clearppo.config.recipes import recipe_text
from clearppo.config.schema import PPOConfig, sections
from clearppo.errors import ConfigError


@dataclass(frozen=True)
class Given:
    """A value and where it was given: `typed` is the name as written, `place` opens an error ("" for a flag)."""

    value: object
    typed: str
    place: str = ""
    recipe: bool = False


def load_config(
    *, recipe: str | None = None, config_path: Path | None = None, flags: Mapping[str, Any] | None = None
) -> PPOConfig:
    """The configuration from a recipe, a YAML file and flags; a later one wins over an earlier one.

    `flags` are flat, by option name or alias; their values are text as typed on the command line, or Python values. The
    file has sections, and may name its recipe at the top; `recipe` given here wins. A recipe's value that has no effect
    beside what the user chose is left out silently; the user's own is an error.

    Raises ConfigError, in one sentence, for whatever does not make a PPOConfig.
    """
    from_file, file_recipe = _read_file(config_path) if config_path else ({}, None)
    name = recipe or file_recipe
    given = {**(_read_recipe(name) if name else {}), **from_file, **_read_flags(flags or {})}
    while True:
        try:
            return _build(given)
        except OptionError as error:
            source = given.get(error.option)
            if isinstance(error, InertOptionError) and source and source.recipe:
                del given[error.option]
            else:
                raise ConfigError(f"{source.place if source else ''}{error}") from None


def _build(given: Mapping[str, Given]) -> PPOConfig:
    missing = [leaf for leaf in leaves().values() if leaf.required and leaf.name not in given]
    if missing:
        words = [f"--{leaf.name} ({re.split(r'[:.](?:[ ]|$)', lowered(leaf.description))[0]})" for leaf in missing]
        raise ConfigError(
            f"Missing: {listed(words)}. Set {'it' if len(words) == 1 else 'them'} as a flag or in --config."
        )
    tree: dict[str, dict[str, object]] = {section: {} for section in sections()}
    for name, source in given.items():
        tree[leaves()[name].section][name] = source.value
    return PPOConfig.model_validate(tree)


def _read_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for typed, value in flags.items():
        name = canonical(typed)
        if name not in leaves():
            raise unknown_option(typed)
        _add(found, name, Given(value, f"--{typed}"))
    return found


def unknown_option(typed: str, *more: str) -> ConfigError:
    """The error for an option that does not exist, with the nearest that does, in the schema or among `more`."""
    near = nearest(typed, more) or nearest_leaf(typed)
    hint = f"Did you mean --{near}?" if near else "See clearppo ppo --help for all options."
    return ConfigError(f"Unknown option --{typed}. {hint}")


def _add(found: dict[str, Given], name: str, source: Given) -> None:
    if name in found:
        first = found[name].typed
        both = f"{first} is given twice" if first == source.typed else f"{first} and {source.typed} are the same option"
        raise ConfigError(f"{source.place}{both}. Give only one of them.")
    found[name] = source


def _read_recipe(name: str) -> dict[str, Given]:
    found, _ = _read_yaml(recipe_text(name), f"recipe {name}", recipe=True)
    return found


def _read_file(path: Path) -> tuple[dict[str, Given], str | None]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--config {path} does not exist. Give a YAML file; --recipe names a built-in one.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path} is no text file. Give a YAML file in UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}. Give a readable YAML file.") from None
    return _read_yaml(text, str(path), recipe=False)


def _read_yaml(text: str, source: str, *, recipe: bool) -> tuple[dict[str, Given], str | None]:
    """The options of a YAML text with their lines, and the recipe that it names."""
    loader: Any = yaml.SafeLoader(text)  # PyYAML's loaders are not typed
    try:
        root = loader.get_single_node()
        entries = [] if root is None else list(_entries(loader, root, source, "sections such as `kl:`"))
        return _read_sections(loader, entries, source, recipe=recipe)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_yaml_place(error, source)}this is no YAML: {_yaml_problem(error)}.") from None
    finally:
        loader.dispose()


def _read_sections(
    loader: Any, entries: list[tuple[str, yaml.Node, str]], source: str, *, recipe: bool
) -> tuple[dict[str, Given], str | None]:
    found: dict[str, Given] = {}
    named: str | None = None
    for key, node, place in entries:
        if key == "recipe" and not recipe:
            value = loader.construct_object(node, deep=True)
            if not isinstance(value, str):
                raise ConfigError(f"{place}recipe = {value} is not a name. Write e.g. recipe: article")
            named = value
        elif key not in sections():
            raise _not_a_section(key, place)
        elif not (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):  # `kl:` with nothing beneath
            for typed, leaf_node, leaf_place in _entries(loader, node, source, f"the options of section {key}", place):
                name = canonical(typed)
                if name not in leaves() or leaves()[name].section != key:
                    raise _not_in_section(typed, key, leaf_place)
                value = loader.construct_object(leaf_node, deep=True)
                _add(found, name, Given(value, typed, leaf_place, recipe))
    return found, named


def _entries(
    loader: Any, node: yaml.Node, source: str, wanted: str, place: str = ""
) -> Iterator[tuple[str, yaml.Node, str]]:
    """Key, value and place ("ppo.yaml, line 3: ") of a YAML mapping. A key given twice, fine with YAML, is an error."""
    if not isinstance(node, yaml.MappingNode):
        place = place or f"{source}, line {node.start_mark.line + 1}: "
        raise ConfigError(f"{place}here belong {wanted}, one `name: value` a line.")
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        here = f"{source}, line {key_node.start_mark.line + 1}: "
        if key in seen:
            raise ConfigError(f"{here}{key} is given twice. Give it only once.")
        seen.add(key)
        yield key, value_node, here


def _not_a_section(key: str, place: str) -> ConfigError:
    if leaf := leaves().get(canonical(key)):
        return ConfigError(
            f"{place}{key} belongs in section {leaf.section}. Write it indented under `{leaf.section}:`."
        )
    near = nearest(key, [*sections(), "recipe"])
    if near:
        return ConfigError(f"{place}Unknown section {key}. Did you mean {near}?")
    if leaf_name := nearest_leaf(key):
        section = leaves()[leaf_name].section
        return ConfigError(f"{place}Unknown option {key}. Did you mean {leaf_name}, in section {section}?")
    return ConfigError(f"{place}Unknown section {key}. The sections are {listed(list(sections()))}.")


def _not_in_section(typed: str, section: str, place: str) -> ConfigError:
    if leaf := leaves().get(canonical(typed)):
        return ConfigError(f"{place}{typed} belongs in section {leaf.section}, not in {section}. Move it there.")
    near = nearest_leaf(typed)
    if near is None:
        options = [leaf.name for leaf in leaves().values() if leaf.section == section]
        return ConfigError(f"{place}Unknown option {typed}. Section {section} has {listed(options)}.")
    other = leaves()[near].section
    where = "" if other == section else f", in section {other}"
    return ConfigError(f"{place}Unknown option {typed}. Did you mean {near}{where}?")


def _yaml_place(error: yaml.YAMLError, source: str) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f"{source}, line {mark.line + 1}: " if mark else f"{source}: "


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
    return " ".join((problem or str(error)).split())
