"""`clearppo explain`: what a name means, in the terminal and for the pages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clearppo.catalogue.alarms import ALARMS
from clearppo.catalogue.metrics import METRICS
from clearppo.cli import main
from clearppo.config import ALIASES, leaves, load_config
from clearppo.config.schema import PPOConfig
from clearppo.config.yaml_file import read_recipe
from clearppo.errors import ConfigError
from clearppo.ui.explain import explanation, names, pages
from clearppo.ui.explain_find import find
from clearppo.ui.explain_labels import LABELS
from clearppo.ui.explain_options import COMMANDS, option_names, recipes_that_set


def explain(*words: str) -> Result:
    return CliRunner().invoke(main, ["explain", *words])


def told(*words: str) -> str:
    result = explain(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*words: str) -> str:
    result = explain(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# ------------------------------------------------------------------------------------------------ everything


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_can_be_explained_and_found_by_its_name(language: str) -> None:
    assert len(set(names())) == len(list(names())) > 300
    for kind, name in names():
        found = explanation(kind, name, language)
        assert found.title, name
        assert set(found.rows) <= set(LABELS), name
        assert found.rows["brief"], name
        assert (kind, name) in find(name).exact, name


def test_options_are_all_options_of_all_commands() -> None:
    assert set(option_names()) == {name for schema in COMMANDS.values() for name in leaves(schema)}


def test_a_metric() -> None:
    text = told("policy/clipfrac_avg")
    metric = METRICS["policy/clipfrac_avg"]
    assert text.startswith("policy/clipfrac_avg  clip fraction  (metric)\n")
    for said in (metric.brief[0], metric.healthy[0], "share of tokens", "cliprange", "clipping_saturated"):
        assert said in text
    assert "formula: Share of tokens whose clipped term is strictly the larger loss." in text
    assert "\x1b" not in text


def test_a_metric_that_two_commands_compute_in_two_ways() -> None:
    rows = explanation("metric", "loss", "en").rows
    assert [line.partition(":")[0] for line in rows["formula"]] == ["sft", "reward"]
    assert rows["commands"] == ["sft", "reward"]
    assert rows["unit"] == "nats a token, nats a pair, or a prompt"


def test_a_metric_of_a_family() -> None:
    assert find("rewards/my_source/mean").exact == (("metric", "rewards/*/mean"),)
    assert "timings.jsonl" in told("time/sampling")
    assert "metrics.jsonl" in told("eval/win_rate/x")


def test_an_option_that_differs_between_commands() -> None:
    rows = explanation("option", "learning_rate", "en").rows
    assert [line.partition(":")[0] for line in rows["default"]] == ["sft", "reward", "ppo"]
    assert rows["allowed"] == "a number above 0 and at most 10"
    assert "lr" in rows["metrics"]


def test_an_option_says_when_it_has_an_effect_and_which_recipes_set_it() -> None:
    rows = explanation("option", "kl_target", "en").rows
    assert rows["condition"] == "--kl_controller adaptive"
    assert rows["default"] == "6"
    for recipe, command, value in recipes_that_set("kl_coef"):
        assert command == "ppo"
        assert f"ppo: {value} (" in "\n".join(explanation("option", "kl_coef", "en").rows["recipes"])
        assert read_recipe(PPOConfig, recipe)["kl_coef"].value == float(value)


def test_an_alarm_a_check_an_equation_an_error_and_a_code() -> None:
    assert ALARMS["kl_runaway"].meaning[0] in told("kl_runaway")
    assert ALARMS["kl_runaway"].meaning[1] in told("kl_runaway", "--language", "zh")
    assert "docs/doctor.md" in told("reward_length")
    assert "exp(log_prob - old_log_prob)" in told("(7)")
    assert told("equation 7") == told("(7)")
    assert "clearppo.core.losses.actor_loss" in told("(7)")
    assert told("RewardError") == told("rewarderror")
    assert "training went wrong" in told("exit code 3")
    both = told("3")
    assert both.index("training went wrong") < both.index("return[i,j]")


# ------------------------------------------------------------------------------------------------ what is meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--kl_coef", "kl_coef"),
        ("--kl-coef=0.1", "kl_coef"),
        ("init_kl_coef", "kl_coef"),
        ("gae_lambda", "lam"),
        ("`cliprange`", "cliprange"),
    ],
)
def test_options_as_they_are_typed(typed: str, meant: str) -> None:
    assert ("option", meant) in find(typed).exact


def test_every_alias_is_understood() -> None:
    for alias, name in ALIASES.items():
        assert ("option", name) in find(alias).exact


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("approxkl", "policy/approxkl_avg"),
        ("actor/pg_clipfrac", "policy/clipfrac_avg"),
        ("explained variance", "critic/vf_explained_var"),
        ("critic/vf_explained_var", "critic/vf_explained_var"),
        ("ppo/val/var_explained", "critic/vf_explained_var"),
        ("裁剪比例", "policy/clipfrac_avg"),
    ],
)
def test_names_of_other_programs(typed: str, meant: str) -> None:
    assert find(typed).exact == (("metric", meant),)


def test_what_may_mean_several_things_is_asked() -> None:
    found = find("kl")
    assert found.exact == ()
    assert {("metric", "objective/kl"), ("metric", "eval/kl"), ("quantity", "kls")} <= set(found.near)
    text = told("kl")
    assert text.startswith("Which one?")
    assert "objective/kl" in text
    assert told("kl", "--language", "zh").startswith("是哪一个？")


def test_what_nobody_knows_is_refused_with_what_is_near() -> None:
    assert "Did you mean kl_runaway?" in refused("kl_runawy")
    assert "clearppo explain lists everything" in refused("qqqqqqqq")
    assert "nothing to explain" in refused(" ")
    refused("x" * 100_000)
    refused("\x1b[31m\n\n")


# ------------------------------------------------------------------------------------------------ sentences

RATIO = (
    "error: self-check failed: before the first step the ratio must be 1, but log-probs read again differ by 0.31 nats "
    "a token (at most 0.001). The model is not deterministic here, or sampling and learning do not compute the same."
)


def test_a_sentence_that_was_printed() -> None:
    assert find(RATIO).exact == (("sentence", "self-check: ratio"),)
    text = told(RATIO)
    assert "--importance_cap 2" in text
    assert "raised in train/selfcheck.py:" in text
    assert told(*RATIO.split()) == text  # without quotes


def test_a_sentence_of_which_only_the_source_knows() -> None:
    found = find("error: num_mini_batches = 3 does not divide batch_size = 8. Use 2 or 4, or set --batch_size 6.")
    assert found.exact == (("error", "ConfigError"),)
    assert found.near == (("option", "num_mini_batches"), ("option", "batch_size"))
    assert "config/schema.py" in found.because


def test_real_errors_are_found() -> None:
    given = {"model_name_or_path": "m", "dataset_name": "d", "reward_funcs": ["a.py:f"], "output_dir": "o"}
    for wrong, meant in (
        ({"kl_cof": "1"}, ("sentence", "unknown option")),
        ({"kl_target": "3"}, ("sentence", "no effect")),
        ({"batch_size": "7", "num_mini_batches": "2"}, ("error", "ConfigError")),
    ):
        with pytest.raises(ConfigError) as error:
            load_config(PPOConfig, flags={**given, **wrong})
        assert meant in find(f"error: {error.value}").exact


def test_a_note_of_a_run_leads_to_its_alarm() -> None:
    assert ("alarm", "kl_runaway") in find("alarm kl_runaway: the KL is 31 nats an answer in iteration 12").exact
    assert ("check", "reward_length") in find("reward_length (look): rank correlation 0.7 over 32 answers").exact


def test_other_sentences_are_not_taken_for_errors() -> None:
    with pytest.raises(ConfigError):
        find("the quick brown fox jumps over the lazy dog")


# ------------------------------------------------------------------------------------------------ the command


def test_without_a_name_everything_is_listed() -> None:
    text = told()
    for kind, name in names():
        assert name in text, kind
    listed = json.loads(told("--json"))
    assert [(it["kind"], it["name"]) for it in listed] == list(names())


def test_json() -> None:
    content = json.loads(told("objective/kl", "--json"))
    (found,) = content["found"]
    assert found["name"] == "objective/kl"
    assert found["equation"] == "(1)"
    assert isinstance(found["causes"], list)
    zh = json.loads(told("objective/kl", "--json", "--language", "zh"))["found"][0]
    assert zh["formula"] == found["formula"]
    assert zh["brief"] == METRICS["objective/kl"].brief[1]
    assert json.loads(told("kl", "--json"))["found"] == []


LOOK_AROUND = """
import sys, time
from clearppo.cli import main
sys.argv = ["clearppo", "explain", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", {"torch", "transformers", "numpy", "pyarrow"} & set(sys.modules), time.process_time(), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["objective/kl"], [RATIO]], ids=["metric", "sentence"])
def test_it_is_light(words: list[str]) -> None:
    for _ in range(2):  # the first may have to compile
        done = subprocess.run(
            [sys.executable, "-c", LOOK_AROUND, *words], capture_output=True, text=True, check=True, cwd=Path.home()
        )
    heavy, seconds = done.stderr.removeprefix("HEAVY ").rsplit(" ", 1)
    assert heavy == "set()"
    assert float(seconds) < 1.0


def test_what_the_pages_are_given() -> None:
    content: Any = pages()
    assert set(content) == {"en", "zh"}
    for language, words in content.items():
        assert set(words["labels"]) == set(LABELS)
        assert set(words["metric"]) == set(METRICS)
        assert set(words["alarm"]) == set(ALARMS)
        assert words["metric"]["lr"]["brief"] == METRICS["lr"].brief[language == "zh"]
    json.dumps(content)
