"""`clearppo ppo`: every option of the schema is a flag, and what reaches training is what was typed."""

from pathlib import Path
from typing import Any

import pytest

from clearppo.config import ALIASES, leaves


def test_the_least_that_is_needed(ppo: Any) -> None:
    config = ppo()
    assert (config.model.model_name_or_path, config.reward.reward_funcs) == ("tiny", ["reward.py:score"])


@pytest.mark.parametrize(
    ("arguments", "section", "name", "value"),
    [
        (["--kl_coef", "0.1"], "kl", "kl_coef", 0.1),
        (["--kl-coef", "0.1"], "kl", "kl_coef", 0.1),
        (["--kl_coef=1e-1"], "kl", "kl_coef", 0.1),
        (["--init_kl_coef", "0.1"], "kl", "kl_coef", 0.1),
        (["--init-kl-coef", "0.1"], "kl", "kl_coef", 0.1),
        (["--use_peft"], "model", "use_peft", True),
        (["--use_peft", "--lora_r", "4"], "model", "lora_r", 4),
        (["--use-peft", "false"], "model", "use_peft", False),
        (["--whiten_advantages=no"], "ppo", "whiten_advantages", False),
        (["--bf16"], "model", "bf16", True),
        (["--bf16", "auto"], "model", "bf16", "auto"),
        (["--cliprange", "none"], "ppo", "cliprange", None),
        (["--stop_strings", "a,b"], "sampling", "stop_strings", ["a", "b"]),
        (["--stop_strings", "\n"], "sampling", "stop_strings", ["\n"]),
        (["--stop_strings", '["\\n"]', "--stop_strings", "b,c"], "sampling", "stop_strings", ["\n", "b", "c"]),
        (["--stop_token_ids", "1", "--stop_token_ids", "2"], "sampling", "stop_token_ids", [1, 2]),
        (["--dataset_config", "3"], "data", "dataset_config", "3"),
        (["--seed", "7"], "run", "seed", 7),
        (["--recipe", "article"], "kl", "kl_coef", 1.0),
    ],
    ids=lambda value: " ".join(map(repr, value)) if isinstance(value, list) else "",
)
def test_flags(arguments: list[str], section: str, name: str, value: Any, ppo: Any) -> None:
    assert getattr(getattr(ppo(*arguments), section), name) == value


def test_several_reward_functions(ppo: Any) -> None:
    config = ppo("--reward_funcs", "a.py:f", "--reward_funcs", "b.py:g", "--reward_weights", "1,0.5", reward=False)
    assert config.reward.reward_funcs == ["a.py:f", "b.py:g"]
    assert config.reward.reward_weights == [1.0, 0.5]


def test_the_file_and_the_flags_that_win_over_it(ppo: Any, tmp_path: Path) -> None:
    path = tmp_path / "ppo.yaml"
    path.write_text("recipe: article\nppo:\n  lam: 0.5\n  gamma: 0.5\n", encoding="utf-8")
    config = ppo("--config", str(path), "--lam", "0.25")
    assert (config.ppo.lam, config.ppo.gamma, config.kl.kl_coef) == (0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lerning_rate", "1"], "Unknown option --lerning_rate. Did you mean --learning_rate?"),
        (["--lerning-rate=1"], "Unknown option --lerning-rate. Did you mean --learning_rate?"),
        (["--reciep", "article"], "Unknown option --reciep. Did you mean --recipe?"),
        (["--confg", "x.yaml"], "Unknown option --confg. Did you mean --config?"),
        (["--zzzqqq"], "Unknown option --zzzqqq. See clearppo ppo --help for all options."),
        (
            ["--recipe", "artcle"],
            "Unknown recipe artcle. There are article, deepspeed-chat, default, ",
        ),
        (["--seed"], "--seed needs a value. Write --seed VALUE."),
        (["--seed", "1", "--seed", "2"], "--seed is given twice: 1 and 2. Give it only once."),
        (["--lam", "1", "--gae_lambda", "1"], "--lam and --gae_lambda are the same option. Give only one of them."),
        (["ppo.yaml"], "ppo.yaml stands alone. A config file is given with --config ppo.yaml."),
        (["kl_coef"], "kl_coef stands alone. Did you mean --kl_coef?"),
        (["--kl_coef", "0.1", "0.2"], "0.2 stands alone, and belongs to no option."),
        (["--config", "absent.yaml"], "--config absent.yaml does not exist."),
        (["--num_mini_batches", "5"], "num_mini_batches = 5 does not divide batch_size = 64. Use 4 or 8, or set "),
        (["--lora_r", "4"], "lora_r = 4 has no effect because use_peft = false: "),
        (
            ["--temperature", "-1"],
            "temperature = -1 is not allowed: it must be a number of at least 0.01 and at most 100.",
        ),
        (["--use_peft", "maybe"], "use_peft = maybe is not allowed: it must be true or false."),
    ],
    ids=lambda value: " ".join(map(repr, value)) if isinstance(value, list) else "",
)
def test_mistakes_are_answered_in_one_sentence(arguments: list[str], sentence: str, refused: Any) -> None:
    assert refused(*arguments).startswith(sentence)


def test_every_option_is_a_flag_in_both_spellings() -> None:
    from clearppo.cli.ppo import ppo as command

    flags = {flag: option for option in command.params for flag in option.opts}
    for name in [*leaves(), *(alias for alias, leaf in ALIASES.items() if leaf in leaves())]:
        assert f"--{name}" in flags
        assert f"--{name.replace('_', '-')}" in flags
        assert getattr(flags[f"--{name}"], "hidden", None) is (name in ALIASES)
