"""The resolved config: every option is in it, and loading it gives the same configuration."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clearppo.config import PPOConfig, dump_config, leaves, load_config
from clearppo.config.run_sections import RESUMING
from clearppo.errors import ConfigError


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dump") / "config.yaml"


def reloaded(config: PPOConfig, file: Path) -> PPOConfig:
    file.write_text(dump_config(config), encoding="utf-8")
    return load_config(config_path=file)


def test_the_defaults_come_back(load: Any, file: Path) -> None:
    assert reloaded(load(), file) == load()


def test_every_option_comes_back(leaf: str, load: Any, other_values: Any, file: Path) -> None:
    text, _, needs = other_values[leaf]
    config = load(**{**needs, leaf: text})
    if leaf in RESUMING:  # how a run begins is no part of what it does
        config = load()
    assert reloaded(config, file) == config


@pytest.mark.parametrize("recipe", ["article", "default", "quickstart"])
def test_recipes_come_back(recipe: str, load: Any, file: Path) -> None:
    config = load(recipe=recipe)
    assert reloaded(config, file) == config


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=50)
@given(data=st.data())
def test_any_configuration_comes_back(data: st.DataObject, load: Any, other_values: Any, file: Path) -> None:
    flags: dict[str, Any] = {}
    names = st.sampled_from(sorted({*other_values} - {*RESUMING}))
    for name in data.draw(st.sets(names, max_size=6)):  # of more, some contradict each other nearly always
        text, value, needs = other_values[name]
        flags |= {**needs, name: data.draw(st.sampled_from([text, value]))}
    flags |= {"stop_strings": data.draw(st.lists(TEXT)), "model_name_or_path": data.draw(TEXT)}
    flags |= {"learning_rate": data.draw(st.floats(1e-30, 1e30)), "entropy_coef": data.draw(st.floats(0, 1))}
    try:
        config = load(**flags)
    except ConfigError:  # the options drawn contradict each other
        assume(False)
    else:
        assert reloaded(config, file) == config


def test_every_option_stands_in_it(load: Any) -> None:
    text = dump_config(load())
    for leaf in leaves().values():
        if leaf.name in RESUMING:
            continue
        assert f"  {leaf.name}: " in text or f"  # {leaf.name}: " in text


def test_a_run_that_goes_on_has_the_configuration_of_one_that_never_stopped(load: Any) -> None:
    again = load(resume_from_checkpoint="runs/one/checkpoint-50", allow_changed_options=True)
    assert dump_config(again) == dump_config(load())


def test_what_has_no_effect_is_a_comment_with_the_reason(load: Any) -> None:
    text = dump_config(load())
    assert "  # lora_r: 16  (without effect: without LoRA all weights are trained)\n" in text
    assert "lora_r" not in yaml.safe_load(text)["model"]
    assert "  lora_r: 16\n" in dump_config(load(use_peft=True))


def test_what_the_user_switched_off_stays_in_it(load: Any, file: Path) -> None:
    config = load(dtype="bfloat16", bf16=False, vf_coef=0, cliprange_value=None)
    assert reloaded(config, file) == config


def test_it_reads_like_what_a_person_would_write(load: Any) -> None:
    text = dump_config(load())
    assert text.startswith("# The resolved configuration of a run, written by ClearPPO ")
    assert "  device: auto\n" in text
    assert "  learning_rate: 3.0e-06\n" in text
    assert "  max_prompt_length: null\n" in text
    assert list(yaml.safe_load(text)) == [
        "model",
        "data",
        "sampling",
        "vllm",
        "reward",
        "kl",
        "ppo",
        "ptx",
        "optim",
        "eval",
        "run",
        "record",
        "cluster",
        "alarm",
        "tracking",
    ]
