"""The built-in recipes: each loads, is explained, and `article` has nothing on that the article leaves out."""

from typing import Any

import pytest

from clearppo.config import list_recipes, recipe_summary, recipe_text
from clearppo.errors import ConfigError


def test_what_recipes_there_are() -> None:
    assert list_recipes() == ["article", "default", "quickstart"]


@pytest.mark.parametrize("name", ["article", "default", "quickstart"])
def test_a_recipe_loads_and_says_what_it_is(name: str, load: Any) -> None:
    load(recipe=name)
    assert recipe_text(name).startswith("# ")
    assert recipe_summary(name).endswith(".")
    assert max(map(len, recipe_text(name).splitlines())) <= 120


def test_the_default_recipe_is_the_defaults(load: Any) -> None:
    assert load(recipe="default") == load()


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
        ConfigError, match=r"Unknown recipe artcle\. There are article, default and quickstart\. Did you mean article"
    ):
        recipe_text("artcle")
    with pytest.raises(ConfigError, match="There are article"):
        recipe_text("../config/sections")
