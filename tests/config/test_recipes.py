"""The built-in recipes: each loads, is explained, and `article` has nothing on that the article leaves out."""

from typing import Any

import pytest

from clearppo.config import SCHEMAS, CommandConfig, list_recipes, load_config, recipe_summary, recipe_text
from clearppo.errors import ConfigError

STEPS_LEAST: dict[str, dict[str, Any]] = {
    "sft": {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o"},
    "reward": {"model_name_or_path": "m", "dataset_name": "c.jsonl", "output_dir": "o"},
    "prefs": {"model_name_or_path": "m", "dataset_name": "p.jsonl", "output_file": "o.jsonl", "labeller": "a.py:f"},
    "ppo": {
        "model_name_or_path": "m", "dataset_name": "p.jsonl", "output_dir": "o", "reward_model_path": "r",
    },
}  # fmt: skip
RECIPES = [
    "article",
    "deepspeed-chat",
    "default",
    "instructgpt",
    "lm-human-preferences",
    "ppo-max",
    "quickstart",
    "summarize-from-feedback",
    "trl",
]


def test_what_recipes_there_are() -> None:
    assert list_recipes() == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_says_what_it_is(name: str, load: Any) -> None:
    load(recipe=name, **({"ptx_dataset_name": "text.jsonl"} if name == "instructgpt" else {}))
    assert recipe_text(name).startswith("# ")
    assert recipe_summary(name).endswith(".")
    assert max(map(len, recipe_text(name).splitlines())) <= 120


def test_a_recipe_needs_the_data_that_it_mixes_in(load: Any) -> None:
    with pytest.raises(ConfigError, match=r"ptx_coef = 27\.8 mixes in .* Set --ptx_dataset_name FILE"):
        load(recipe="instructgpt")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.command)
def test_every_step_of_a_recipe_loads(name: str, schema: type[CommandConfig]) -> None:
    try:
        load_config(schema, recipe=name, flags=STEPS_LEAST[schema.command])
    except ConfigError as error:
        assert "ptx_dataset_name" in str(error) or f"has no part for clearppo {schema.command}" in str(error)  # noqa: PT017


def test_the_article_leaves_everything_off(load: Any) -> None:
    config = load(recipe="article")
    assert config.model.critic == "shared"
    assert (config.ppo.gamma, config.ppo.lam) == (1.0, 1.0)
    assert (config.ppo.cliprange, config.ppo.cliprange_value, config.ppo.dual_clip) == (None, None, None)
    assert (config.ppo.vf_coef, config.ppo.entropy_coef) == (0.1, 0.0)
    assert (config.ppo.whiten_advantages, config.reward.whiten_rewards) == (False, False)
    assert (config.ppo.num_ppo_epochs, config.ppo.num_mini_batches) == (4, 1)
    assert (config.kl.kl_coef, config.kl.kl_estimator, config.kl.kl_controller) == (1.0, "k1", "fixed")
    assert (config.sampling.temperature, config.sampling.top_k, config.sampling.top_p) == (1.0, 0, 1.0)
    assert (config.optim.lr_scheduler_type, config.optim.max_grad_norm) == ("constant", None)
    assert (config.reward.missing_eos_penalty, config.ppo.early_stop_kl) == (None, None)


def test_an_unknown_recipe() -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown recipe artcle\. There are article, .* and trl\. Did you mean article"
    ):
        recipe_text("artcle")
    with pytest.raises(ConfigError, match="There are article"):
        recipe_text("../config/data_sections")
