"""The catalogue and what it speaks of cannot drift apart: metrics, alarms, checks, errors, equations, options."""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clearppo import errors
from clearppo.alarms import NAMES, RULES
from clearppo.catalogue.alarms import ALARMS
from clearppo.catalogue.checks import CHECKS
from clearppo.catalogue.equations import COLUMNS, EQUATIONS, QUANTITIES
from clearppo.catalogue.failures import ERRORS, EXIT_CODES
from clearppo.catalogue.formulas import formulas
from clearppo.catalogue.metrics import METRICS
from clearppo.catalogue.options import CHINESE, of
from clearppo.catalogue.options.allowed import in_chinese
from clearppo.catalogue.sentences import SENTENCES
from clearppo.catalogue.source import origin
from clearppo.catalogue.units import UNITS
from clearppo.cli.main import COMMANDS
from clearppo.config import leaves
from clearppo.record.schema import SCALARS, TOKENS
from clearppo.train.alarms import ON
from clearppo.train.doctor.finding import CHECKS as DOCTORS
from clearppo.train.eval_metrics import EVALUATION, metric_names
from clearppo.train.metrics import REGISTRY, measure
from clearppo.train.registry import Registry
from clearppo.train.step_metrics import REWARD, SFT
from clearppo.ui.explain_find import metric_key
from clearppo.ui.explain_options import COMMANDS as COMMANDS_WITH_OPTIONS
from clearppo.ui.explain_options import option_names
from tests.train.test_metrics import measured

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src" / "clearppo"
REGISTRIES: Mapping[str, tuple[Registry[Any], ...]] = {
    "ppo": (REGISTRY, EVALUATION),
    "sft": (SFT,),
    "reward": (REWARD,),
}
LIVE = {command: {n: m for registry in kinds for n, m in registry.items()} for command, kinds in REGISTRIES.items()}
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
NAMED = ("options", "metrics", "similar")
"""Fields that hold names, not a text in two languages."""


def texts() -> Iterator[tuple[str, str, str]]:
    """Every text in both languages, with the place where it stands."""
    for kind, table in TABLES.items():
        for name, entry in table.items():
            for field in fields(entry):
                value = getattr(entry, field.name)
                if field.name in NAMED or not isinstance(value, tuple) or not value:
                    continue
                for english, chinese in value if isinstance(value[0], tuple) else [value]:
                    yield f"{kind} {name}: {field.name}", english, chinese


# ------------------------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("command", LIVE)
def test_the_source_is_read_as_the_registries_have_it(command: str) -> None:
    read = {name: f for name, several in formulas().items() for f in several if f.command == command}
    assert set(read) == set(LIVE[command])
    for name, metric in LIVE[command].items():
        assert read[name].unit == metric.unit
        assert read[name].text == " ".join(metric.formula.split())
        assert read[name].clock == metric.clock
        assert read[name].function == metric.compute.__name__  # type: ignore[attr-defined]
        line = (SRC / read[name].file).read_text(encoding="utf-8").splitlines()[read[name].line - 1]
        assert line.startswith(f"def {read[name].function}(")


def test_every_metric_has_an_entry_and_every_entry_a_metric() -> None:
    registered = {name for metrics in LIVE.values() for name in metrics}
    assert registered - set(METRICS) == set(), "write an entry in src/clearppo/catalogue/metrics/"
    assert {name for name in METRICS if "*" not in name} - registered == {ON}


def test_every_family_of_metrics_has_an_entry() -> None:
    """Names that come from a run's sources and phases."""
    made = {*measure(measured()), *metric_names(["held out", "b"], ["c", "d"])} - set(formulas())
    found = {name: metric_key(name) for name in made}
    assert None not in found.values(), found
    assert {"rewards/*/mean", "rewards/*/std", "time/*", "eval/rewards/*", "eval/win_rate/*"} <= set(found.values())


def test_families_have_a_unit_and_a_formula_and_the_others_none() -> None:
    for name, words in METRICS.items():
        assert ("*" in name or name == ON) == bool(words.unit) == bool(words.formula), name


def test_units_are_known_in_both_languages() -> None:
    assert set(UNITS) == {formula.unit for several in formulas().values() for formula in several}


def test_a_family_is_not_taken_for_another() -> None:
    assert metric_key("eval/win_rate") == "eval/win_rate"
    assert metric_key("eval/win_rate/rewards/x/mean") == "eval/win_rate/*"
    assert metric_key("rewards/a/b/mean") == "rewards/*/mean"
    assert metric_key("rewards/dropped") == "rewards/dropped"
    assert metric_key("rewards//mean") is None
    assert metric_key("time/") is None


# ------------------------------------------------------------------------------------------------ the others


def test_alarms_and_checks_are_those_there_are() -> None:
    assert set(ALARMS) == set(NAMES)
    assert set(CHECKS) == set(DOCTORS)


def test_alarms_say_what_their_rules_say() -> None:
    for name, words in ALARMS.items():
        rule = RULES[name]
        assert (words.rings[0], words.advice[0]) == (rule.rings, rule.advice), name
        looked_at = {metric.replace("<source>", "*") for metric in rule.metrics}
        assert set(words.metrics) <= looked_at, name


def test_alarms_look_at_metrics_that_there_are() -> None:
    assert {metric for words in ALARMS.values() for metric in words.metrics} <= set(METRICS)


def test_errors_are_the_classes_of_errors_py() -> None:
    classes = {
        name: cls
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, BaseException) and cls.__module__ == errors.__name__
    }
    assert set(ERRORS) == set(classes)
    codes = {str(cls.exit_code) for cls in classes.values() if issubclass(cls, errors.ClearPPOError)}
    assert codes | {"0", "1", "130", "143"} == set(EXIT_CODES)


def test_sentences_are_found_in_the_source() -> None:
    said = [
        node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        for path in SRC.rglob("*.py")
        if "catalogue" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    for name, words in SENTENCES.items():
        assert words.pattern, name
        assert words.error in ERRORS, name
        pattern = re.compile(words.pattern.replace(r"\d+", r"\{.*\}"), re.IGNORECASE | re.DOTALL)
        assert any(pattern.search(text) for text in said), name


def test_equations_are_computed_where_they_say() -> None:
    assert list(EQUATIONS) == [f"({number})" for number in range(1, 10)]
    page = (REPO / "docs" / "math.md").read_text(encoding="utf-8")
    for number, words in EQUATIONS.items():
        module, _, function = words.function.rpartition(".")
        assert callable(getattr(importlib.import_module(f"clearppo.{module}"), function))
        row = next(line for line in page.splitlines() if line.startswith(f"| {number} "))
        assert f"`{words.function.removeprefix('core.')}`" in row
    assert {words.equation for words in (*METRICS.values(), *QUANTITIES.values())} - {""} <= set(EQUATIONS)


def test_quantities_are_columns_of_the_record() -> None:
    assert set(QUANTITIES) - {"deltas", "probabilities"} <= {*TOKENS, "ratios"}
    assert {name.removeprefix("answer.") for name in COLUMNS} <= set(SCALARS)


# ------------------------------------------------------------------------------------------------ texts


def test_options_that_are_named_are_there() -> None:
    known = set(option_names())
    entries = [(name, words) for table in TABLES.values() for name, words in table.items()]
    wrong = [
        (name, option) for name, words in entries for option in getattr(words, "options", ()) if option not in known
    ]
    assert wrong == []
    flags = [(place, flag) for place, *both in texts() for text in both for flag in re.findall(r"--(\w+)", text)]
    others = {"help"}
    assert [(place, flag) for place, flag in flags if flag not in known | others] == []


def test_metrics_that_are_named_are_there() -> None:
    spelled = r"(?<![\w./])(?:objective|policy|val|critic|returns|rewards|completions|sampling|eval|score|time)/[\w*/]+"
    for place, *both in texts():
        for text in both:
            for name in re.findall(spelled, text):
                assert name in METRICS or metric_key(name), f"{place}: {name}"


def test_commands_that_are_named_are_there() -> None:
    for place, *both in texts():
        for text in both:
            for name in re.findall(r"clearppo ([a-z][\w-]*)", text):
                assert name in COMMANDS, f"{place}: {name}"


def test_both_languages_say_the_same_numbers_and_names() -> None:
    """The cheapest way in which a translation drifts."""
    for place, english, chinese in texts():
        assert english, place
        assert chinese, place
        for spelled in (r"--\w+", r"\b[a-z]+/[\w*]+", r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\d)"):
            assert sorted(set(re.findall(spelled, english))) == sorted(set(re.findall(spelled, chinese))), place


SPELLED = (r"--\w+", r"\b[a-z]+(?:_[a-z\d]+)+", r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\d)")


@pytest.mark.parametrize("command", COMMANDS_WITH_OPTIONS)
def test_options_in_chinese_say_what_they_say_in_english(command: str) -> None:
    for name, leaf in leaves(COMMANDS_WITH_OPTIONS[command]).items():
        chinese = of(command, name)
        assert chinese, f"{command} {name}: write it in src/clearppo/catalogue/options/"
        assert re.search("[\u4e00-\u9fff]", chinese), name
        for spelled in SPELLED:
            assert set(re.findall(spelled, leaf.description)) == set(re.findall(spelled, chinese)), name


def test_what_options_allow_in_chinese() -> None:
    phrases = r"\b(numbers?|whole|list|one of|least|most|above|below|empty|and|or|the|that|text)\b"
    for schema in COMMANDS_WITH_OPTIONS.values():
        for leaf in leaves(schema).values():
            for words in (leaf.allowed, *(condition.condition() for condition in leaf.conditions)):
                chinese = in_chinese(words)
                assert re.findall(phrases, chinese) == [], chinese
                assert re.findall(r"\d+", chinese) == re.findall(r"\d+", words)
    assert in_chinese("a number above 0 and at most 10, or none") == "数 > 0，≤ 10，或 none"
    assert in_chinese("one of k1, k2, k3, full") == "k1, k2, k3, full 之一"


def test_options_that_differ_in_english_differ_in_chinese() -> None:
    said: dict[str, set[tuple[str, str | None]]] = {}
    for command, schema in COMMANDS_WITH_OPTIONS.items():
        for name, leaf in leaves(schema).items():
            said.setdefault(name, set()).add((leaf.description, of(command, name)))
    for name, pairs in said.items():
        english, chinese = ({pair[n] for pair in pairs} for n in (0, 1))
        assert len(english) == len(pairs) >= len(chinese), name
        # Two sentences in English may come to the same in Chinese, but one is never two.
        assert len({e for e, _ in pairs}) == len(pairs), name
    known = {key.rpartition(".")[2] for key in CHINESE}
    assert known <= set(said), "options that are no more"
    used = {of(command, name) for command, schema in COMMANDS_WITH_OPTIONS.items() for name in leaves(schema)}
    assert set(CHINESE.values()) <= used


def test_chinese_is_chinese() -> None:
    bare = [
        place
        for place, english, chinese in texts()
        if not re.search("[\u4e00-\u9fff]", chinese) and english != chinese and chinese not in ("nat", "token")
    ]
    assert bare == []
    assert [place for place, english, _ in texts() if re.search("[\u3000-\u9fff]", english)] == []
    # Chinese sentences have Chinese punctuation.
    assert [place for place, _, chinese in texts() if re.search(r"[\u4e00-\u9fff][,;:?]", chinese)] == []


def test_where_a_sentence_comes_from() -> None:
    told = "num_mini_batches = 3 does not divide batch_size = 8. Use 2 or 4, or set --batch_size 6."
    found = origin(told)
    assert found is not None
    assert (found.error, found.file) == ("OptionError", "config/schema.py")
    assert origin(told.upper()) is None
    assert origin("the weather is fine and the batch is large") is None
    beginning = origin("output_dir = runs/first already holds a run (ppo). Use anoth")
    assert beginning is not None
    assert beginning.file == "rundir.py"
