"""Whatever a user can get wrong about an option: one sentence with the value seen, what is allowed, and the mend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.config import load_config
from clearppo.errors import ConfigError

YamlFile = Callable[[str], Path]


def sentence(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    assert caught.value.exit_code == 2
    return message


# ------------------------------------------------------------------------------------------------ unknown, missing


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lerning_rate", "learning_rate"),
        ("learning-rat", "learning_rate"),
        ("klcoef", "kl_coef"),
        ("num_minibatches", "num_mini_batches"),
        ("gae_lamda", "lam"),
        ("LEARNING_RATE", "learning_rate"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(typed: str, meant: str, load: Any) -> None:
    assert sentence(lambda: load(**{typed: 1})) == f"Unknown option --{typed}. Did you mean --{meant}?"


def test_an_option_like_no_other(load: Any) -> None:
    assert "See clearppo ppo --help" in sentence(lambda: load(zzzzqqqq=1))


def test_what_is_missing_is_listed_with_its_meaning() -> None:
    message = sentence(lambda: load_config())
    for name in ("--model_name_or_path (the language model to train)", "--dataset_name (the prompts)", "--output_dir"):
        assert name in message
    assert "--output_dir" in sentence(lambda: load_config(flags={"model_name_or_path": "m", "dataset_name": "d"}))


def test_a_reward_is_needed(load: Any) -> None:
    message = sentence(lambda: load(reward_funcs="[]"))
    assert "--reward_funcs file.py:name" in message
    assert "--reward_model_path" in message
    assert load(reward_funcs=[], reward_model_path="rm").reward.reward_model_path == "rm"


# ------------------------------------------------------------------------------------------------ types and ranges


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch_size", "abc", "a whole number of at least 1 and at most 1000000"),
        ("batch_size", "2.5", "a whole number of at least 1 and at most 1000000"),
        ("batch_size", 2.5, "a whole number of at least 1 and at most 1000000"),
        ("batch_size", 0, "a whole number of at least 1 and at most 1000000"),
        ("batch_size", True, "a whole number of at least 1 and at most 1000000"),
        ("batch_size", None, "a whole number of at least 1 and at most 1000000"),
        ("batch_size", "none", "a whole number of at least 1 and at most 1000000"),
        ("batch_size", [64], "a whole number of at least 1 and at most 1000000"),
        ("learning_rate", "0", "a number above 0 and at most 10"),
        ("learning_rate", "nan", "a number above 0 and at most 10"),
        ("learning_rate", float("inf"), "a number above 0 and at most 10"),
        ("learning_rate", "fast", "a number above 0 and at most 10"),
        ("temperature", 0, "a number of at least 0.01 and at most 100"),
        ("temperature", -0.7, "a number of at least 0.01 and at most 100"),
        ("top_p", "0", "a number above 0 and at most 1"),
        ("top_p", "1.1", "a number above 0 and at most 1"),
        ("top_k", -1, "a whole number of at least 0"),
        ("lam", 1.01, "a number of at least 0 and at most 1"),
        ("kl_coef", -0.1, "a number of at least 0 and at most 1000000"),
        ("cliprange", 0, "a number above 0 and below 1, or none"),
        ("cliprange", 1, "a number above 0 and below 1, or none"),
        ("cliprange", True, "a number above 0 and below 1, or none"),
        ("dual_clip", 1, "a number above 1, or none"),
        ("missing_eos_penalty", -1, "a number of at least 0 and at most 1000000, or none"),
        ("adam_beta1", 1, "a number of at least 0 and below 1"),
        ("seed", -1, "a whole number of at least 0 and at most 4294967295"),
        ("kl_estimator", "k4", "one of k1, k2, k3, full"),
        ("critic", "Shared", "one of shared, separate"),
        ("dtype", "float16", "one of float32, bfloat16, float64"),
        ("bf16", "maybe", "true, false or auto"),
        ("use_peft", "maybe", "true or false"),
        ("use_peft", 2, "true or false"),
        ("device", "gpu", "auto, cpu, cuda, cuda:N or mps"),
        ("device", "cuda:", "auto, cpu, cuda, cuda:N or mps"),
        ("output_dir", "", "text that is not empty"),
        ("output_dir", 3, "text that is not empty"),
        ("attn_implementation", 3, "text that is not empty, or none"),
        ("stop_token_ids", "a,b", "a list of whole numbers"),
        ("profile", "first", "a list of whole numbers of at least 1, or none"),
        ("profile", [], "a list of whole numbers of at least 1, or none"),
        ("max_tokens_per_microbatch", 0, "a whole number of at least 1, or auto, or none"),
        ("max_tokens_per_microbatch", "much", "a whole number of at least 1, or auto, or none"),
        ("importance_cap", 0.5, "a number of at least 1 and at most 1000000, or none"),
        ("old_log_probs", "mine", "one of auto, learner, sampler"),
        ("stop_token_ids", [True], "a list of whole numbers"),
        ("stop_strings", [3], "a list of text"),
        ("reward_weights", "much", "a list of numbers, or none"),
    ],
)
def test_a_value_that_is_not_allowed(name: str, value: Any, allowed: str, load: Any) -> None:
    message = sentence(lambda: load(**{name: value}))
    assert message.startswith(f"{name} = ")
    assert f"is not allowed: it must be {allowed}. Write e.g. --{name} " in message


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", "abc"), ("dtype", "x"), ("device", "x"), ("lam", 2), ("cliprange", 5)]
)
def test_the_example_in_the_message_is_allowed(name: str, value: Any, load: Any) -> None:
    example = sentence(lambda: load(**{name: value})).rpartition("Write e.g. ")[2]
    flag, _, text = example.partition(" ")
    assert flag == f"--{name}"
    load(**{name: text})


def test_the_value_seen_is_shown_but_not_at_any_length(load: Any) -> None:
    assert "output_dir = ''" in sentence(lambda: load(output_dir=""))
    assert "use_peft = 'ye\\n'" in sentence(lambda: load(use_peft="ye\n"))
    assert len(sentence(lambda: load(kl_estimator="k" * 5000))) < 250


@pytest.mark.parametrize("text", ["[2001-99-99]", "[&a [*a]]", "[" * 600, "[{a: 1}]"])
def test_brackets_that_are_no_list_of_values(text: str, load: Any) -> None:
    assert "is not a list. Write --reward_weights a,b" in sentence(lambda: load(reward_weights=text))


def test_brackets_that_do_not_close(load: Any) -> None:
    assert "is not a list. Write --stop_strings a,b" in sentence(lambda: load(stop_strings='["a'))


# ------------------------------------------------------------------------------------------------ without effect

INERT = [
    ({"value_model_path": "rm"}, "critic = shared", "--critic separate"),
    ({"lora_r": 16}, "use_peft = false", "--use_peft true"),
    ({"lora_alpha": 32}, "use_peft = false", "--use_peft true"),
    ({"lora_target_modules": "all-linear"}, "use_peft = false", "--use_peft true"),
    ({"bf16": True, "dtype": "bfloat16"}, "dtype = bfloat16", "--dtype float32"),
    ({"bf16": "auto", "dtype": "float64"}, "dtype = float64", "--dtype float32"),
    ({"kl_target": 6}, "kl_controller = fixed", "--kl_controller adaptive"),
    ({"kl_horizon": 100}, "kl_controller = fixed", "--kl_controller adaptive"),
    ({"kl_estimator": "k3", "kl_coef": 0}, "kl_coef = 0", "--kl_coef 0.05"),
    ({"cliprange_high": 0.28, "cliprange": None}, "cliprange = none", "--cliprange 0.2"),
    ({"dual_clip": 3, "cliprange": "off"}, "cliprange = none", "--cliprange 0.2"),
    ({"cliprange_value": 0.2, "vf_coef": 0}, "vf_coef = 0", "--vf_coef 0.1"),
    ({"critic_learning_rate": 1e-5, "vf_coef": 0}, "vf_coef = 0", "--vf_coef 0.1"),
    ({"early_stop_kl": 0.1, "num_ppo_epochs": 1}, "num_ppo_epochs = 1", "--num_ppo_epochs 4"),
    ({"importance_cap": 2, "old_log_probs": "sampler"}, "old_log_probs = sampler", "--old_log_probs learner"),
    ({"run_name": "a"}, "report_to = none", "--report_to tensorboard"),
    ({"tracking_dir": "runs/all"}, "report_to = none", "--report_to tensorboard"),
    ({"tracking_project": "a", "report_to": "none"}, "report_to = none", "--report_to wandb"),
    ({"tracking_project": "a", "report_to": "tensorboard"}, "report_to = tensorboard", "--report_to wandb"),
]


@pytest.mark.parametrize("iteration", [0, 158, -1])
def test_iterations_that_a_run_has_not_cannot_be_traced(iteration: int, load: Any) -> None:
    message = sentence(lambda: load(profile=[1, iteration]))
    assert f"there is no iteration {iteration} to trace, this run has 157, counted from 1" in message
    assert load(profile="1,157").run.profile == [1, 157]


@pytest.mark.parametrize(("flags", "because", "mend"), INERT, ids=lambda value: next(iter(value), "") if value else "")
def test_an_option_without_effect_is_an_error(flags: dict[str, Any], because: str, mend: str, load: Any) -> None:
    name = next(iter(flags))
    message = sentence(lambda: load(**flags))
    assert message.startswith(f"{name} = ")
    assert f"has no effect because {because}" in message
    assert f"Add {mend}, or leave out --{name}." in message


def test_an_option_without_effect_in_a_file_is_found_by_its_line(load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file("model:\n  use_peft: false\n  lora_r: 8\n")
    assert sentence(lambda: load(config_path=path)).startswith(f"{path}, line 3: lora_r = 8 has no effect because")


def test_a_flag_can_make_a_files_option_idle(load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file("model:\n  use_peft: true\n  lora_r: 8\n")
    assert load(config_path=path).model.lora_r == 8
    assert "line 3: lora_r = 8 has no effect" in sentence(lambda: load(config_path=path, use_peft=False))


@pytest.mark.parametrize(
    "flags",
    [
        {"value_model_path": None},
        {"cliprange": None, "cliprange_high": None, "dual_clip": "none"},
        {"vf_coef": 0, "cliprange_value": None, "critic_learning_rate": None},
        {"dtype": "bfloat16", "bf16": False},
        {"early_stop_kl": "off", "num_ppo_epochs": 1},
        {"importance_cap": "none", "old_log_probs": "sampler", "profile": "off"},
        {"kl_coef": 0, "kl_controller": "fixed"},
        {"early_stop_kl": 0.1, "num_ppo_epochs": 1, "num_mini_batches": 2},
        {"critic_learning_rate": 1e-4},
        {"warmup_ratio": 0.1, "lr_scheduler_type": "constant"},
        {"reward_weights": [2.0]},
        {"micro_batch_size": 1000, "generation_batch_size": 1000},
    ],
    ids=str,
)
def test_saying_that_what_is_off_is_off_is_no_mistake(flags: dict[str, Any], load: Any) -> None:
    load(**flags)


# ------------------------------------------------------------------------------------------------ options together


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"num_mini_batches": 5},
            "num_mini_batches = 5 does not divide batch_size = 64. Use 4 or 8, or set --batch_size 60.",
        ),
        (
            {"num_mini_batches": 100},
            "num_mini_batches = 100 does not divide batch_size = 64. Use 64, or set --batch_size 100.",
        ),
        (
            {"num_mini_batches": 2, "batch_size": 7},
            "num_mini_batches = 2 does not divide batch_size = 7. Use 1 or 7, or set --batch_size 6.",
        ),
        (
            {"total_episodes": 10},
            "total_episodes = 10 is less than batch_size = 64, not even one iteration. Set --total_episodes 64 or "
            "more, or --batch_size 10.",
        ),
        (
            {"reward_weights": [1, 2]},
            "reward_weights = 1,2 does not fit: there is 1 reward source, and it gives 2. Give one for each, the "
            "functions in their order, then the servers, then the reward model, e.g. --reward_weights 1.",
        ),
        (
            {"reward_model_path": "rm", "reward_weights": "0.5"},
            "reward_weights = 0.5 does not fit: there are 2 reward sources, and it gives 1. Give one for each, the "
            "functions in their order, then the servers, then the reward model, e.g. --reward_weights 1,1.",
        ),
        (
            {"reward_funcs": "a.py"},
            "reward_funcs = a.py does not name a function. Write --reward_funcs file.py:name or package.module:name; "
            "for a trained reward model use --reward_model_path.",
        ),
        (
            {"kl_controller": "adaptive", "kl_coef": 0},
            "kl_controller = adaptive multiplies kl_coef, and kl_coef = 0 stays 0 whatever it is multiplied with. "
            "Set --kl_coef 0.05, or --kl_controller fixed.",
        ),
        (
            {"kl_controller": "adaptive", "kl_horizon": 10},
            "kl_horizon = 10 is too short for batch_size = 64: one update could turn kl_coef negative. Use more than "
            "12; 10000 is usual.",
        ),
        (
            {"device": "mps", "dtype": "float64"},
            "dtype = float64 does not exist on device = mps. Set --device cpu, or --dtype float32.",
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_options_that_contradict_each_other(flags: dict[str, Any], message: str, load: Any) -> None:
    assert sentence(lambda: load(**flags)) == message


@pytest.mark.parametrize("name", [":f", "a.py:", "a.py:f g", "a.py:1f", "http://x/score"])
def test_what_names_no_function(name: str, load: Any) -> None:
    assert "does not name a function" in sentence(lambda: load(reward_funcs=[name]))


def test_the_sizes_that_a_message_proposes_fit(load: Any) -> None:
    for batch in range(1, 14):
        for parts in range(1, 17):
            if batch % parts:
                message = sentence(lambda b=batch, p=parts: load(batch_size=b, num_mini_batches=p))  # type: ignore[misc]
                proposed = message.split("Use ")[1].split(",")[0].split(" or ")
                assert all(batch % int(n) == 0 for n in proposed)
                assert int(message.rstrip(".").rpartition(" ")[2]) % parts == 0


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ppo:\n  lambda_: 1\n", "line 2: Unknown option lambda_. Did you mean lam?"),
        (
            "ppo:\n  lerning_rate: 1\n",
            "line 2: Unknown option lerning_rate. Did you mean learning_rate, in section optim?",
        ),
        ("ppo:\n  zzzqqq: 1\n", "line 2: Unknown option zzzqqq. Section ppo has num_ppo_epochs, num_mini_batches,"),
        ("kl_coef: 1\n", "line 1: kl_coef belongs in section kl. Write it indented under `kl:`."),
        ("init_kl_coef: 1\n", "line 1: init_kl_coef belongs in section kl."),
        ("ppo:\n  kl_coef: 1\n", "line 2: kl_coef belongs in section kl, not in ppo. Move it there."),
        ("pppo:\n  lam: 1\n", "line 1: Unknown section pppo. Did you mean ppo?"),
        ("klcoef: 1\n", "line 1: Unknown option klcoef. Did you mean kl_coef, in section kl?"),
        ("zzzqqq: 1\n", "line 1: Unknown section zzzqqq. The sections are model, data, sampling,"),
        ("ppo: 3\n", "line 1: here belong the options of section ppo, one `name: value` a line."),
        ("ppo: [lam, 1]\n", "line 1: here belong the options of section ppo"),
        ("- ppo\n", "line 1: here belong sections such as `kl:`"),
        ("ppo:\n  lam: 1\n  lam: 0.9\n", "line 3: lam is given twice. Give it only once."),
        ("ppo:\n  lam: 1\nkl: {}\nppo:\n  gamma: 1\n", "line 4: ppo is given twice."),
        ("ppo:\n  lam: [1\n", "this is no YAML"),
        ("ppo:\n\tlam: 1\n", "line 2: this is no YAML: found character '\\t' that cannot start any token."),
        ("ppo:\n  lam: 2\n", "line 2: lam = 2 is not allowed"),
        ("ppo:\n  lam: !!python/object:os.system x\n", "this is no YAML: could not determine a constructor"),
        (
            "recipe: artikle\n",
            "Unknown recipe artikle. There are article, deepspeed-chat, default, instructgpt, lm-human-preferences, "
            "ppo-max, quickstart, summarize-from-feedback and trl. Did you mean article?",
        ),
        ("recipe: 3\n", "line 1: recipe = 3 is not a name. Write e.g. recipe: article"),
        ("run:\n  num_mini_batches: 5\n", "line 2: num_mini_batches belongs in section ppo"),
    ],
)
def test_a_file_with_a_mistake_is_answered_with_the_line(text: str, words: str, load: Any, yaml_file: YamlFile) -> None:
    path = yaml_file(text)
    message = sentence(lambda: load(config_path=path))
    assert words in message
    assert message.startswith(f"{path}, line ") or "Unknown recipe" in message


def test_files_that_cannot_be_read(load: Any, tmp_path: Path) -> None:
    assert "does not exist" in sentence(lambda: load(config_path=tmp_path / "absent.yaml"))
    assert "cannot be read" in sentence(lambda: load(config_path=tmp_path))
    binary = tmp_path / "model.safetensors"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    assert "is no text file" in sentence(lambda: load(config_path=binary))


def test_a_file_given_as_a_recipe(load: Any) -> None:
    assert "--config mine.yaml" in sentence(lambda: load(recipe="mine.yaml"))
