"""Going on with other options: what is let through, what is said, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.config import SCHEMAS, CommandConfig, SFTConfig, dump_config, leaves, load_config
from clearppo.config.changes import FREE, LENGTH, NUMERIC, Change, changes, check_unchanged
from clearppo.errors import CheckpointError, ConfigError

CONSTANT = {"lr_scheduler_type": "constant"}


def compared(load: Callable[..., Any], before: dict[str, Any], now: dict[str, Any]) -> dict[str, Change]:
    return {change.option: change for change in changes(dump_config(load(**before)), load(**now))}


def test_nothing_has_changed(load: Any) -> None:
    assert compared(load, {}, {}) == {}
    assert compared(load, {"kl_coef": 0.1}, {"kl_coef": "1e-1"}) == {}


def test_every_option_of_the_lists_is_one_and_stands_in_one_list() -> None:
    known = {name for schema in SCHEMAS.values() for name in leaves(schema)}
    assert known >= FREE | NUMERIC | LENGTH
    assert not (FREE & NUMERIC) | (FREE & LENGTH) | (NUMERIC & LENGTH)


def test_every_option_is_seen(leaf: str, load: Any, other_values: Any) -> None:
    text, _, needs = other_values[leaf]
    try:
        found = compared(load, needs, {**needs, leaf: text})
    except ConfigError:  # what it needs makes no sense without it
        found = compared(load, {}, {**needs, leaf: text})
    if leaf in ("resume_from_checkpoint", "allow_changed_options"):
        assert found == {}
        return
    assert leaf in found
    effect = "none" if leaf in FREE else "bits" if leaf in NUMERIC else "result"  # the schedule is linear
    assert found[leaf].effect == effect


def refused(load: Any, before: dict[str, Any], now: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as error:
        check_unchanged(dump_config(load(**before)), load(**now), note=lambda _: None)
    return str(error.value)


def notes(load: Any, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    said: list[str] = []
    check_unchanged(dump_config(load(**before)), load(**now), note=said.append)
    return said


def test_what_makes_the_result_something_else_is_refused_with_its_values(load: Any) -> None:
    said = refused(load, {}, {"kl_coef": 0.1, "save_steps": 7, "micro_batch_size": 4})
    assert "had other options: kl_coef was 0.05, is 0.1. Its result" in said
    assert "Give it as before, start afresh in another --output_dir, or go on all the same with" in said
    assert "--allow_changed_options true" in said
    assert "save_steps" not in said
    two = refused(load, {"cliprange": None}, {"lam": 1, "stop_strings": ["a", "\n"]})
    assert "lam was 0.95, is 1" in two
    assert "cliprange was none, is 0.2" in two
    assert 'stop_strings was empty, is ["a", "\\n"]' in two
    assert "Give them as before" in two


def test_it_goes_on_all_the_same_if_that_is_asked_for(load: Any) -> None:
    now = {"kl_coef": 0.1, "resume_from_checkpoint": "auto", "allow_changed_options": True}
    assert notes(load, {}, now) == ["goes on with other options, as allowed: kl_coef was 0.05, is 0.1"]


def test_where_files_go_and_what_is_shown_is_not_worth_a_word(load: Any) -> None:
    now = {"output_dir": "elsewhere", "save_steps": 1, "save_total_limit": None, "logging_steps": 3, "profile": "1"}
    assert notes(load, {}, now) == []


def test_what_may_move_the_last_bits_is_said(load: Any) -> None:
    (said,) = notes(load, {}, {"micro_batch_size": 4, "device": "cpu"})
    assert said == (
        "the last bits may differ from those of a run that never stopped: device was auto, is cpu; "
        "micro_batch_size was 16, is 4"
    )


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"lr_scheduler_type": "constant"}, True),
        ({"lr_scheduler_type": "constant", "warmup_steps": 10}, True),
        ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 10}, True),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, False),
        ({"lr_scheduler_type": "linear"}, False),
        ({"lr_scheduler_type": "cosine"}, False),
    ],
)
def test_a_longer_run_is_the_same_where_the_learning_rate_does_not_depend_on_it(
    options: dict[str, Any], fits: bool, load: Any
) -> None:
    before, now = {**options, "total_episodes": 1000}, {**options, "total_episodes": 2000}
    if fits:
        assert notes(load, before, now) == ["another length, and else the same: total_episodes was 1000, is 2000"]
    else:
        said = refused(load, before, now)
        assert "total_episodes was 1000, is 2000" in said
        assert "may change only where the learning rate does not depend on it" in said


def test_a_schedule_that_changes_with_the_length_is_refused(load: Any) -> None:
    assert "lr_scheduler_type was linear, is constant" in refused(load, {}, {**CONSTANT, "total_episodes": 20_000})


def test_two_ways_to_one_file_are_no_change(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {"model_name_or_path": "model"}
    assert compared(load, before, {"model_name_or_path": str(tmp_path / "model")}) == {}
    assert compared(load, before, {"model_name_or_path": "./other"})["model_name_or_path"].effect == "result"
    assert compared(load, before, {"model_name_or_path": "gone"})["model_name_or_path"].effect == "result"


def test_a_python_function_is_compared_by_its_name(load: Any) -> None:
    def score(**_: Any) -> list[float]:
        return []

    def other(**_: Any) -> list[float]:
        return []

    assert compared(load, {"reward_funcs": [score]}, {"reward_funcs": [score]}) == {}
    assert "reward_funcs" in compared(load, {"reward_funcs": [score]}, {"reward_funcs": [other]})
    assert compared(load, {"reward_funcs": [lambda **_: []]}, {"kl_coef": 0.1}).keys() == {"reward_funcs", "kl_coef"}


def test_options_of_another_version_of_clearppo(load: Any) -> None:
    text = dump_config(load())
    assert changes(text.replace("  seed: 42\n", ""), load()) == []  # an option that it did not have yet
    assert [change.option for change in changes(text.replace("  seed: 42\n", ""), load(seed=1))] == ["seed"]
    (gone,) = changes(text.replace("  seed: 42\n", "  seed: 42\n  old_option: 3\n"), load())
    assert str(gone) == "old_option was 3, is not known any more"
    assert gone.effect == "result"


@pytest.mark.parametrize("text", ["", "run", "run: [", "- 1", "run: 3", "run:\n  - 1"])
def test_a_text_that_is_no_configuration(text: str, load: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.yaml of the run that is to go on cannot be read"):
        changes(text, load())


def test_the_other_commands_too() -> None:
    def load(**flags: Any) -> CommandConfig:
        least = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o", **CONSTANT}
        return load_config(SFTConfig, flags={**least, **flags})

    now = {"max_steps": 10, "num_train_epochs": 2, "eval_steps": 3, "eval_fraction": 0.2}
    found = compared(load, {}, now)
    assert {name: change.effect for name, change in found.items()} == {
        "max_steps": "length", "num_train_epochs": "length", "eval_steps": "none", "eval_fraction": "result",
    }  # fmt: skip


def test_going_on_contradicts_overwriting_and_allowing_alone_has_no_effect(load: Any) -> None:
    with pytest.raises(
        ConfigError, match="resume_from_checkpoint = auto goes on with the run that overwrite_output_dir"
    ):
        load(resume_from_checkpoint="auto", overwrite_output_dir=True)
    with pytest.raises(ConfigError, match="allow_changed_options = true has no effect because resume_from_checkpoint"):
        load(allow_changed_options=True)
    with pytest.raises(ConfigError, match="save_total_limit = 3 has no effect because save_steps = 0"):
        load(save_total_limit=3, save_steps=0)
    assert load(resume_from_checkpoint="none").run.resume_from_checkpoint is None
