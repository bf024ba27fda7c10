"""The options about scores from outside: what fits together, what has no effect, what cannot be."""

from typing import Any

import pytest

from clearppo.config import load_config
from clearppo.config.objective import objective
from clearppo.errors import ConfigError

URL = "http://127.0.0.1:8000/score"


def sentence(load: Any, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_is_a_source_of_its_own(load: Any) -> None:
    assert load(reward_funcs=[], reward_urls=URL).reward.reward_urls == [URL]
    config = load(reward_urls=[URL, "https://judge.example/a"], reward_model_path="rm", reward_weights="1,2,3,4")
    assert "score = score + 2*server(127.0.0.1:8000) + 3*server(judge.example) + 4*RM(rm)" in objective(config)
    message = sentence(load, reward_urls=URL, reward_weights="1")
    assert "there are 2 reward sources, and it gives 1" in message
    assert "the functions in their order, then the servers, then the reward model" in message
    assert "--reward_urls URL (a server)" in sentence(load, reward_funcs=[])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reward_url_format", "openrlhf"),
        ("reward_batch_size", 4),
        ("reward_concurrency", 1),
        ("reward_request_timeout", 1),
        ("reward_patience", 1),
        ("reward_auth_env", "TOKEN"),
    ],
)
def test_without_a_server_its_options_have_no_effect(option: str, value: Any, load: Any) -> None:
    message = sentence(load, **{option: value})
    assert f"{option} = {value} has no effect because reward_urls = []: no server is asked for scores" in message
    assert "Add --reward_urls http://HOST:PORT/score" in message
    assert load(**{option: value, "reward_urls": URL})


def test_a_timeout_needs_a_process_and_a_process_a_function(load: Any) -> None:
    message = sentence(load, reward_timeout=10)
    assert "reward_timeout = 10 has no effect because reward_worker = false: a function can be stopped in a" in message
    assert "Add --reward_worker true" in message
    assert "there is no reward function" in sentence(load, reward_worker=True, reward_funcs=[], reward_model_path="rm")


def function_of_a_module(completions: Any) -> list[float]:
    return [0.0] * len(completions)


def test_another_process_can_import_functions_only_that_have_a_name(load: Any) -> None:
    assert load(reward_funcs=[function_of_a_module], reward_worker=True)
    message = sentence(load, reward_funcs=[lambda completions: [0.0]], reward_worker=True)
    assert message.startswith("reward_worker = true, and another process cannot import the function ")
    assert "reward_funcs=['file.py:name']" in message


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("reward_missing", "zero", "one of stop, drop"),
        ("reward_timeout", 0, "a number above 0 and at most 1000000, or none"),
        ("reward_patience", -1, "a number of at least 0 and at most 1000000"),
        ("reward_concurrency", 0, "a whole number of at least 1 and at most 256"),
        ("reward_url_format", "verl", "one of clearppo, openrlhf"),
        ("reward_urls", [3], "a list of http or https addresses"),
    ],
)
def test_what_is_not_allowed(option: str, value: Any, allowed: str, load: Any) -> None:
    assert f"it must be {allowed}. Write e.g. --{option} " in sentence(load, **{option: value})


def test_the_token_itself_is_no_option(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the variable's name is in a configuration, so no dump can hold the value."""
    monkeypatch.setenv("TOKEN", "s3cret")
    assert "s3cret" not in repr(load(reward_urls=URL, reward_auth_env="TOKEN"))


def test_a_pipeline_may_have_nothing_but_a_server() -> None:
    from clearppo.config import load_pipeline

    given = {"model_name_or_path": "m", "prompts": "p.jsonl", "output_dir": "o", "ppo.reward_urls": URL}
    assert load_pipeline(flags=given)
    with pytest.raises(ConfigError, match=r"--ppo\.reward_urls URL"):
        load_pipeline(flags={name: value for name, value in given.items() if name != "ppo.reward_urls"})


def test_yaml_and_flags_agree(load: Any, yaml_file: Any) -> None:
    text = f"reward:\n  reward_funcs: []\n  reward_urls: [{URL}]\n  reward_missing: drop\n"
    least = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}
    config = load_config(config_path=yaml_file(text), flags=least)
    assert config.reward.reward_urls == [URL]
    assert config.reward.reward_missing == "drop"
