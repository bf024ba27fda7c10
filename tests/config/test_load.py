"""Recipe < file < flags; the same text means the same everywhere; names that other programs use."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearppo.config import PPOConfig, dump_config, leaves, load_config
from clearppo.errors import ConfigError

YamlFile = Callable[[str], Path]


def value_of(config: PPOConfig, name: str) -> Any:
    return getattr(getattr(config, leaves()[name].section), name)


# ------------------------------------------------------------------------------------------------ each option


def test_a_flag_becomes_its_value(leaf: str, load: Any, other_values: Any) -> None:
    text, value, needs = other_values[leaf]
    found = value_of(load(**{**needs, leaf: text}), leaf)
    assert found == value
    assert type(found) is type(value)


def test_a_python_value_becomes_itself(leaf: str, load: Any, other_values: Any) -> None:
    _, value, needs = other_values[leaf]
    found = value_of(load(**{**needs, leaf: value}), leaf)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_yaml_value_becomes_the_same(
    leaf: str, as_text: bool, least: Any, other_values: Any, yaml_file: YamlFile
) -> None:
    text, value, needs = other_values[leaf]
    tree: dict[str, dict[str, Any]] = {}
    for name, given in {**least, **needs, leaf: text if as_text else value}.items():
        tree.setdefault(leaves()[name].section, {})[name] = given
    assert value_of(load_config(config_path=yaml_file(yaml.safe_dump(tree))), leaf) == value


def test_yaml_as_people_write_it(load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file(
        "optim:\n  learning_rate: 1e-5   # YAML 1.1 reads this as text\n  max_grad_norm: off\n"
        "ppo: {cliprange: ~, cliprange_value: no}\nkl:\nrun:\n  total-episodes: 1_000\n"
        'sampling: {stop_strings: ["\\n"], stop_token_ids: 13}\n'
    )
    with pytest.raises(ConfigError, match="stop_token_ids = 13 is not allowed: it must be a list of whole numbers"):
        load(config_path=path)
    config = load(config_path=yaml_file(path.read_text(encoding="utf-8").replace(" 13", " [13]")))
    assert config.optim.learning_rate == 1e-5
    assert config.optim.max_grad_norm is None
    assert (config.ppo.cliprange, config.ppo.cliprange_value) == (None, None)
    assert config.run.total_episodes == 1000
    assert (config.sampling.stop_strings, config.sampling.stop_token_ids) == (["\n"], [13])


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        (" a ", [" a "]),
        ("\n", ["\n"]),
        ("a,  b", ["a", " b"]),
        ("['a,b', c]", ["a,b", "c"]),
        ("[]", []),
    ],
)
def test_lists_of_text(text: str, items: list[str], load: Any) -> None:
    assert load(stop_strings=text).sampling.stop_strings == items


@pytest.mark.parametrize("text", ["a,", ",", "", "a,,b"])
def test_an_empty_element_is_an_error(text: str, load: Any) -> None:
    with pytest.raises(ConfigError, match=r"has an empty element\. Write --stop_strings a,b"):
        load(stop_strings=text)


def test_a_path_is_text(load: Any) -> None:
    assert load(output_dir=Path("runs") / "two").run.output_dir == str(Path("runs") / "two")


# ------------------------------------------------------------------------------------------------ precedence


def test_flags_win_over_the_file_and_the_file_over_the_recipe(load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file("ppo:\n  lam: 0.5\n  gamma: 0.5\nkl: {kl_coef: 0.5}\n")
    config = load(recipe="article", config_path=path, lam=0.25)
    assert config.ppo.lam == 0.25  # flag
    assert (config.ppo.gamma, config.kl.kl_coef) == (0.5, 0.5)  # file
    assert (config.ppo.cliprange, config.ppo.vf_coef) == (None, 0.1)  # recipe
    assert config.sampling.response_length == 53  # default


def test_the_file_may_name_its_recipe_and_the_flag_wins(load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file("recipe: article\nppo:\n  lam: 0.5\n")
    assert (load(config_path=path).kl.kl_coef, load(config_path=path).ppo.lam) == (1.0, 0.5)
    assert load(config_path=path, recipe="default").kl.kl_coef == 0.05


def test_a_flag_by_alias_wins_over_the_file_by_name(load: Any, yaml_file: YamlFile) -> None:
    assert load(config_path=yaml_file("ppo:\n  lam: 0.5\n"), gae_lambda="0.9").ppo.lam == 0.9


def test_a_recipes_value_that_the_user_made_idle_is_left_out(load: Any) -> None:
    config = load(recipe="article", kl_coef=0)  # the recipe says kl_estimator: k1
    assert config.kl.kl_coef == 0
    assert "kl_estimator" not in config.kl.model_fields_set
    with pytest.raises(ConfigError, match="kl_estimator = k1 has no effect because kl_coef = 0"):
        load(recipe="article", kl_coef=0, kl_estimator="k1")


def test_an_empty_file_sets_nothing(load: Any, yaml_file: YamlFile) -> None:
    for text in ("", "# nothing\n", "kl:\n", "{}\n"):
        assert load(config_path=yaml_file(text)) == load()


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("init_kl_coef", "kl_coef"),
        ("lambd", "lam"),
        ("gae_lambda", "lam"),
        ("eps_clip", "cliprange"),
        ("clip_range", "cliprange"),
        ("ppo_epochs", "num_ppo_epochs"),
        ("max_completion_length", "response_length"),
        ("max_new_tokens", "response_length"),
        ("sft_model_path", "model_name_or_path"),
        ("per_device_train_batch_size", "micro_batch_size"),
        ("lr_scheduler", "lr_scheduler_type"),
    ],
)
def test_aliases(alias: str, name: str, least: Any, other_values: Any, yaml_file: YamlFile) -> None:
    text, value, _ = other_values[name]
    rest = {key: given for key, given in least.items() if key != name}
    for spelling in (alias, alias.replace("_", "-")):
        assert value_of(load_config(flags={**rest, spelling: text}), name) == value
    path = yaml_file(yaml.safe_dump({leaves()[name].section: {alias: value}}))
    assert value_of(load_config(config_path=path, flags=rest), name) == value
    with pytest.raises(ConfigError, match=f"--{name} and --{alias} are the same option. Give only one of them"):
        load_config(flags={**rest, name: text, alias: text})


def test_two_aliases_of_one_option(load: Any, yaml_file: YamlFile) -> None:
    with pytest.raises(ConfigError, match="--lambd and --gae_lambda are the same option"):
        load(lambd=1, gae_lambda=1)
    with pytest.raises(ConfigError, match=r"ppo.yaml, line 3: lam and lambd are the same option"):
        load(config_path=yaml_file("ppo:\n  lam: 1\n  lambd: 1\n"))


# ------------------------------------------------------------------------------------------------ Python functions


def brevity(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [-float(len(completion)) for completion in completions]


class Judge:
    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [0.0 for _ in completions]


def test_python_functions_stay_functions(load: Any) -> None:
    judge = Judge()
    config = load(reward_funcs=[brevity, "a.py:f", judge])
    assert config.reward.reward_funcs == [brevity, "a.py:f", judge]
    assert load(reward_funcs=brevity).reward.reward_funcs == [brevity]


def test_python_functions_are_written_by_name(load: Any) -> None:
    partial = functools.partial(brevity, scale=2)
    written = yaml.safe_load(dump_config(load(reward_funcs=[brevity, Judge(), partial, "a.py:f"])))
    here = __name__
    assert written["reward"]["reward_funcs"] == [f"{here}:brevity", f"{here}:Judge", f"{here}:brevity", "a.py:f"]
