"""From what a person types to what is meant: a name, an alias, another program's word, a sentence that was printed."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from clearppo.catalogue.alarms import ALARMS
from clearppo.catalogue.checks import CHECKS
from clearppo.catalogue.equations import COLUMNS, QUANTITIES
from clearppo.catalogue.failures import ERRORS
from clearppo.catalogue.metrics import METRICS
from clearppo.catalogue.sentences import SENTENCES
from clearppo.catalogue.source import origin
from clearppo.config import ALIASES, canonical
from clearppo.errors import ConfigError
from clearppo.ui.explain import names, title
from clearppo.ui.explain_options import option_names

Thing = tuple[str, str]
"""Kind and name."""
MOST = 12
"""Candidates that are offered."""
WORDS = 4
"""A query of so many words is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a query means. `exact` is explained whole; `near` is offered. `because`: why something is there that was not
    typed, such as the place that raises a sentence."""

    exact: tuple[Thing, ...] = ()
    near: tuple[Thing, ...] = ()
    because: str = ""


def find(query: str) -> Found:
    """What is meant. Raises ConfigError, with the nearest names, if nobody knows."""
    asked = query.strip().strip("`'\"").strip()
    if not asked:
        raise ConfigError("there is nothing to explain. Give a name, such as clearppo explain objective/kl.")
    if exact := _exact(asked):
        return Found(exact=exact, near=tuple(thing for thing in _similar(asked) if thing not in exact))
    if len(asked.split()) >= WORDS and (said := _said(asked)):
        return said
    similar = _similar(asked)
    if len(similar) == 1:
        return Found(exact=similar, because=f"{similar[0][1]} is what {asked} is called here")
    if near := similar or _containing(asked):
        return Found(near=near[:MOST])
    hint = _nearest(asked)
    offered = f"Did you mean {hint}?" if hint else "clearppo explain lists everything there is."
    raise ConfigError(f"Nothing is known about {asked[:80]}. {offered}")


def metric_key(name: str) -> str | None:
    """The entry of a metric's name as metrics.jsonl has it: itself, or the family that it is of."""
    if name in METRICS:
        return name
    families = {family: re.escape(family).replace(r"\*", ".+") for family in METRICS if "*" in family}
    # The longest prefix first: eval/win_rate/* before anything shorter that would fit too.
    for family, pattern in sorted(families.items(), key=lambda item: -len(item[0])):
        if re.fullmatch(pattern, name):
            return family
    return None


def _exact(asked: str) -> tuple[Thing, ...]:
    """Whatever has this very name."""
    found: list[Thing] = []
    if key := metric_key(asked):
        found.append(("metric", key))
    option = canonical(asked.removeprefix("--").partition("=")[0].partition(" ")[0])
    if option in option_names() and (len(asked.split()) == 1 or asked.startswith("--")):
        found.append(("option", option))
    plain = _plain(asked)
    found += [(kind, name) for kind, name in names() if kind not in ("metric", "option") and _plain(name) == plain]
    if code := re.fullmatch(r"exit(?: code)? ?(\d+)", plain):
        found += [thing for thing in names() if thing == ("exit code", code[1])]
    if number := re.fullmatch(r"(?:eq(?:uation)?\.? ?)?\(?([1-9])\)?", plain):
        found += [thing for thing in names() if thing == ("equation", f"({number[1]})")]
    return tuple(dict.fromkeys(found))


def _similar(asked: str) -> tuple[Thing, ...]:
    """What other programs call so, what ends in it, and what bears it as its title, in either language."""
    plain = _plain(asked.removeprefix("--"))
    return tuple(
        dict.fromkeys(
            (kind, name)
            for kind, name in names()
            if plain in _aliases()[kind, name] or (kind == "metric" and plain == _plain(name.rpartition("/")[2]))
        )
    )


@cache
def _aliases() -> Mapping[Thing, frozenset[str]]:
    other: dict[Thing, tuple[str, ...]] = {("metric", name): words.similar for name, words in METRICS.items()}
    other |= {("quantity", name): words.similar for name, words in QUANTITIES.items()}
    other |= {("column", name): words.similar for name, words in COLUMNS.items()}
    other |= {("option", name): tuple(a for a, known in ALIASES.items() if known == name) for name in option_names()}
    return {
        (kind, name): frozenset(
            _plain(word)
            for word in (*other.get((kind, name), ()), *(title(kind, name, language) for language in ("en", "zh")))
            if kind != "option" or word in other[kind, name]
        )
        for kind, name in names()
    }


def _containing(asked: str) -> tuple[Thing, ...]:
    """Names and titles that hold what was typed, if it is long enough to mean anything."""
    plain = _plain(asked)
    if len(plain) < 3 and plain.isascii():
        return ()
    return tuple(
        (kind, name)
        for kind, name in names()
        if plain in _plain(name) or any(plain in alias for alias in _aliases()[kind, name])
    )


def _said(sentence: str) -> Found | None:
    """A sentence that was printed: by its words, by the place that raises it, by the options that it names."""
    told = re.sub(r"^(error|note|warning): ", "", " ".join(sentence.split()))
    found: list[Thing] = [
        ("sentence", name)
        for name, words in SENTENCES.items()
        if re.search(words.pattern, told, re.IGNORECASE | re.DOTALL)
    ]
    # Notes of a run and lines of doctor name what they speak of; names that are words of every day may mean less.
    found += [("alarm", name) for name in ALARMS if re.search(rf"\b{name}\b", told)]
    found += [("check", name) for name in CHECKS if "_" in name and re.search(rf"\b{name}\b", told)]
    place, because = origin(told), ""
    if place is not None:
        because = f"raised in {place.file}:{place.line} as {place.error}"
        if not found:
            known = (
                place.error if place.error in ERRORS else "ConfigError" if "Option" in place.error else "ClearPPOError"
            )
            found = [("error", known)]
    options = tuple(("option", name) for name in _options_named(told))
    if not found and not options:
        return None
    return Found(exact=tuple(found), near=options, because=because)


def _options_named(sentence: str) -> Iterator[str]:
    """The options that a sentence names: --flag, or name = value."""
    spelled = re.findall(r"--([a-z][\w-]+)|\b([a-z]\w+) = ", sentence)
    for name in dict.fromkeys(canonical(flag or plain) for flag, plain in spelled):
        if name in option_names():
            yield name


def _nearest(asked: str) -> str | None:
    spellings = {_plain(alias): name for (_, name), words in _aliases().items() for alias in (*words, name)}
    near = difflib.get_close_matches(_plain(asked.removeprefix("--")), list(spellings), n=1, cutoff=0.6)
    return spellings[near[0]] if near else None


def _plain(text: str) -> str:
    """How names are compared: small letters, and no difference between - _ and a blank."""
    return re.sub(r"[\s_-]+", " ", text.strip().lower())
