"""The rules against TRL's options, written down beside, and against our schema."""

import re
from typing import Any

import pytest

from clearppo.config import SCHEMAS, leaves
from clearppo.foreign.imports import RULES
from clearppo.foreign.rule import NOTHING, Rule
from clearppo.foreign.step import OF_PPO, OF_REWARD, OF_SFT
from tests.imports import trl_names

SHARED = [*trl_names.MODEL, *trl_names.SCRIPT, *trl_names.TRAINING, *trl_names.EARLIER]
OWN: dict[tuple[str, bool], dict[str, Any]] = {
    ("ppo", False): trl_names.PPO,
    ("sft", False): trl_names.SFT,
    ("reward", False): trl_names.REWARD,
    ("ppo", True): trl_names.OLD_PPO,
}


@pytest.mark.parametrize(("step", "old"), OWN)
def test_every_option_of_trl_has_a_rule(step: str, old: bool) -> None:
    names = [*OWN[step, old], *([] if old else SHARED)]
    assert [name for name in names if name not in RULES[step, old]] == []


@pytest.mark.parametrize(("step", "old"), OWN)
def test_defaults_are_trls(step: str, old: bool) -> None:
    rules = RULES[step, old]
    wanted = {name: default for name, default in OWN[step, old].items() if default is not trl_names.UNSET}
    assert {name: rules[name].default for name in wanted} == wanted
    if not old:
        assert (rules["seed"].default, rules["adam_epsilon"].default, rules["weight_decay"].default) == (42, 1e-8, 0.0)
        assert rules["per_device_train_batch_size"].default == 8
        assert rules["gradient_accumulation_steps"].default == 1


def test_options_that_trl_leaves_open_have_no_default() -> None:
    for key, options in OWN.items():
        open_ones = [name for name, default in options.items() if default is trl_names.UNSET]
        assert {name: RULES[key][name].default for name in open_ones} == dict.fromkeys(open_ones, NOTHING)


@pytest.mark.parametrize(("step", "old"), RULES)
def test_a_rule_leads_to_options_that_there_are_or_says_why_not(step: str, old: bool) -> None:
    for name, rule in RULES[step, old].items():
        is_sound(step, name, rule)


def is_sound(step: str, name: str, rule: Rule) -> None:
    known = leaves(SCHEMAS[step])
    assert [option for option in rule.to if option not in known] == [], name
    assert rule.to or rule.joined or len(rule.why) > 15, name
    assert not (rule.silent and rule.to), name
    assert "\n" not in rule.why, name
    assert not rule.why.endswith("."), name
    of_ours = {option for schema in SCHEMAS.values() for option in leaves(schema)}
    assert set(re.findall(r"--(\w+)", rule.why)) <= of_ours, name


def test_every_option_of_ours_that_trl_has_by_the_same_name_comes_of_it() -> None:
    """Or it is one that means something else there."""
    other = {
        "resume_from_checkpoint", "batch_size", "micro_batch_size", "num_train_epochs", "max_grad_norm",
        "logging_steps", "gradient_checkpointing", "max_steps", "eval_steps", "metric_for_best_model",
        "greater_is_better",
        "load_best_model_at_end", "dataset_test_split",
    }  # fmt: skip
    for (step, old), rules in RULES.items():
        same = set(rules) & set(leaves(SCHEMAS[step]))
        assert [name for name in sorted(same) if name not in rules[name].to and name not in other] == [], (step, old)


def test_steps_are_told_apart_by_names_of_their_own() -> None:
    assert {"kl_coef", "response_length", "init_kl_coef", "num_ppo_epochs"} <= OF_PPO
    assert {"packing", "completion_only_loss"} <= OF_SFT
    assert {"center_rewards_coefficient", "disable_dropout"} == OF_REWARD
