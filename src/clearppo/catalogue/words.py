"""The forms of an entry: what is said of a metric, a quantity of a token, an alarm, a check, an error, an equation."""

from dataclasses import dataclass

Text = tuple[str, str]
"""The same in English and in Chinese; the Chinese terms are those of docs/glossary.md."""

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, kw_only=True)
class MetricWords:
    """What a metric means. Its unit and its formula are not here: they stand at the function that computes it.

    `brief` is one sentence, a chart's caption: what it is and what is good. `high` and `low` say what follows from a
    number that is unusually so. `causes`: what is likely behind a number that is not healthy, with the mend.
    `options` are those that change it most. `source`: where the formula comes from, if it has a source.
    """

    title: Text
    brief: Text
    healthy: Text
    high: Text | None = None
    low: Text | None = None
    causes: tuple[Text, ...] = ()
    options: tuple[str, ...] = ()
    equation: str = ""
    source: str = ""
    similar: tuple[str, ...] = ()
    """What other programs call it, or a person might type."""
    unit: Text | None = None
    """Of what no registered function computes, a family (time/*) for the most part: its unit, and its formula."""
    formula: str = ""


@dataclass(frozen=True, kw_only=True)
class QuantityWords:
    """A number that every token has, in the record and on the page of an answer."""

    title: Text
    brief: Text
    unit: Text
    equation: str = ""
    similar: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AlarmWords:
    """What an alarm means. In English `rings`, when it rings, and `advice`, the mend, are the words of its rule: a test
    holds them to it."""

    title: Text
    meaning: Text
    causes: tuple[Text, ...]
    rings: Text
    advice: Text
    metrics: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckWords:
    """What a check of `clearppo doctor` looks at, what it means if it is not well, and the mend."""

    title: Text
    meaning: Text
    bad: Text
    mend: Text
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FailureWords:
    """A way to end: a class of errors, a sentence that is printed, or an exit code.

    `pattern` finds the sentence (a regular expression, small letters and capitals alike).
    """

    title: Text
    meaning: Text
    causes: tuple[Text, ...] = ()
    mend: Text
    pattern: str = ""
    error: str = ""
    """The class that such a sentence belongs to."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EquationWords:
    """An equation of the article: `function` computes it, under `clearppo.`."""

    title: Text
    formula: str
    meaning: Text
    function: str
    options: tuple[str, ...] = ()
