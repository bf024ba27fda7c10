"""What is known about a name: a metric, an option, an alarm, a check, an equation, an error, an exit code.

The words are those of `catalogue/`, units and formulas stand at the functions that compute, options in the schemas of
`config/`. `clearppo explain` prints it, and the pages show it behind their question marks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from clearppo.catalogue.alarms import ALARMS
from clearppo.catalogue.checks import CHECKS
from clearppo.catalogue.equations import COLUMNS, EQUATIONS, QUANTITIES
from clearppo.catalogue.failures import ERRORS, EXIT_CODES
from clearppo.catalogue.formulas import formulas
from clearppo.catalogue.metrics import METRICS
from clearppo.catalogue.sentences import SENTENCES
from clearppo.catalogue.units import UNITS
from clearppo.catalogue.words import LANGUAGES, FailureWords, QuantityWords, Text
from clearppo.ui.explain_labels import LABELS, label
from clearppo.ui.explain_options import option_names, option_rows, option_title

Rows = Mapping[str, str | Sequence[str]]
"""What is said, by the name of what it says (LABELS), in the order of reading."""
KINDS = ("metric", "quantity", "column", "option", "alarm", "check", "equation", "error", "exit code", "sentence")
TABLES: Mapping[str, Mapping[str, Any]] = {
    "metric": METRICS,
    "quantity": QUANTITIES,
    "column": COLUMNS,
    "alarm": ALARMS,
    "check": CHECKS,
    "equation": EQUATIONS,
    "error": ERRORS,
    "exit code": EXIT_CODES,
    "sentence": SENTENCES,
}
"""The entries of every kind but the options, whose words are their declarations'."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One thing explained in one language."""

    kind: str
    name: str
    title: str
    rows: Rows

    def to_json(self) -> dict[str, Any]:
        """As `--json` and the pages' server give it."""
        return {"kind": self.kind, "name": self.name, "title": self.title, **self.rows}


def names() -> Iterator[tuple[str, str]]:
    """Everything that can be explained: kind and name."""
    for kind in KINDS:
        for name in option_names() if kind == "option" else TABLES[kind]:
            yield kind, name


def title(kind: str, name: str, language: str) -> str:
    """A few words that say what it is."""
    if kind == "option":
        return option_title(name, language)
    return _in(language, TABLES[kind][name].title)


def explanation(kind: str, name: str, language: str) -> Explanation:
    """What is known about a thing of `names()`."""
    match kind:
        case "metric":
            rows = _metric(name, language)
        case "quantity" | "column":
            rows = _quantity({**QUANTITIES, **COLUMNS}[name], language)
        case "option":
            rows = option_rows(name, language) | _told_of_option(name)
        case "alarm":
            rows = _alarm(name, language)
        case "check":
            rows = _check(name, language)
        case "equation":
            rows = _equation(name, language)
        case "error" | "exit code":
            rows = _failure({**ERRORS, **EXIT_CODES}[name], language)
        case _:
            rows = _failure(SENTENCES[name], language)
    return Explanation(kind=kind, name=name, title=title(kind, name, language), rows=_given(rows))


@cache
def pages() -> Mapping[str, Any]:
    """What the pages need of it, by language, kind and name."""
    wanted = ("metric", "quantity", "column", "alarm")
    return {
        language: {
            "labels": {name: label(name, language) for name in LABELS},
            **{
                kind: {name: explanation(kind, name, language).to_json() for other, name in names() if other == kind}
                for kind in wanted
            },
        }
        for language in LANGUAGES
    }


def _metric(name: str, language: str) -> dict[str, Any]:
    words, computed = METRICS[name], formulas().get(name, ())
    several = len({formula.text for formula in computed}) > 1
    units = list(dict.fromkeys(formula.unit for formula in computed))
    return {
        "brief": _in(language, words.brief),
        "unit": ", ".join(_in(language, UNITS[unit]) for unit in units) or _in(language, words.unit),
        "formula": [f"{f.command}: {f.text}" if several else f.text for f in _distinct(computed)] or words.formula,
        "healthy": _in(language, words.healthy),
        "high": _in(language, words.high),
        "low": _in(language, words.low),
        "causes": [_in(language, cause) for cause in words.causes],
        "options": list(words.options),
        "alarms": [alarm for alarm, about in ALARMS.items() if name in about.metrics],
        "equation": words.equation,
        "source": words.source,
        "computed": [f"{f.file}:{f.line} {f.function}" for f in _distinct(computed)],
        "commands": [f.command for f in computed],
        "file": ("timings.jsonl" if computed[0].clock else "metrics.jsonl") if computed else _file(name),
        "similar": list(words.similar),
    }


def _file(name: str) -> str:
    """Where the numbers stand that no registered function computes."""
    if name == "alarms/on":
        return ""  # trackers alone are told it
    return "timings.jsonl" if name.startswith(("time/", "memory/", "communication/")) else "metrics.jsonl"


def _distinct(computed: Sequence[Any]) -> list[Any]:
    return list({(formula.file, formula.line): formula for formula in computed}.values())


def _quantity(words: QuantityWords, language: str) -> dict[str, Any]:
    return {"brief": _in(language, words.brief), "unit": _in(language, words.unit), "equation": words.equation}


def _alarm(name: str, language: str) -> dict[str, Any]:
    words = ALARMS[name]
    return {
        "brief": _in(language, words.meaning),
        "rings": _in(language, words.rings),
        "metrics": list(words.metrics),
        "causes": [_in(language, cause) for cause in words.causes],
        "mend": _in(language, words.advice),
        "options": list(words.options),
        "more": "docs/alarms.md",
    }


def _check(name: str, language: str) -> dict[str, Any]:
    words = CHECKS[name]
    return {
        "brief": _in(language, words.meaning),
        "bad": _in(language, words.bad),
        "mend": _in(language, words.mend),
        "options": list(words.options),
        "more": "docs/doctor.md",
    }


def _equation(name: str, language: str) -> dict[str, Any]:
    words = EQUATIONS[name]
    return {
        "formula": words.formula,
        "brief": _in(language, words.meaning),
        "computed": f"clearppo.{words.function}",
        "options": list(words.options),
        "metrics": [metric for metric, about in METRICS.items() if about.equation == name],
        "more": "docs/math.md",
    }


def _failure(words: FailureWords, language: str) -> dict[str, Any]:
    return {
        "brief": _in(language, words.meaning),
        "causes": [_in(language, cause) for cause in words.causes],
        "mend": _in(language, words.mend),
        "error": words.error,
        "options": list(words.options),
    }


def _told_of_option(name: str) -> dict[str, Any]:
    """Where an option is spoken of: equations, metrics, alarms and checks."""
    return {
        "equation": " ".join(number for number, about in EQUATIONS.items() if name in about.options),
        "metrics": [metric for metric, about in METRICS.items() if name in about.options],
        "alarms": [alarm for alarm, about in ALARMS.items() if name in about.options],
        "checks": [check for check, about in CHECKS.items() if name in about.options],
    }


def _given(rows: Mapping[str, Any]) -> dict[str, Any]:
    """What there is something to say about."""
    return {name: told for name, told in rows.items() if told}


def _in(language: str, text: Text | None) -> str:
    return text[LANGUAGES.index(language)] if text else ""
