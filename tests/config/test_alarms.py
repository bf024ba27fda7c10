"""--alarm_actions: what it means, and every mistake about it in one sentence."""

from typing import Any

import pytest

from clearppo.alarms import NAMES
from clearppo.errors import ConfigError


def test_actions_by_name_and_for_all(load: Any) -> None:
    assert load().alarm.actions == {}
    assert load(alarm_actions="kl_runaway=stop").alarm.actions == {"kl_runaway": "stop"}
    for typed in ("all=checkpoint,kl_runaway=off", ["kl_runaway = off", "all=checkpoint"]):
        assert load(alarm_actions=typed).alarm.actions == dict.fromkeys(NAMES, "checkpoint") | {"kl_runaway": "off"}


@pytest.mark.parametrize(
    ("actions", "more", "words"),
    [
        ("kl_runaway=rollbak", {}, "there is no action rollbak. Did you mean rollback?"),
        ("kl-runawy=stop", {}, "there is no alarm kl-runawy. Did you mean kl_runaway?"),
        ("zzzz=stop", {}, "there is no alarm zzzz. There are kl_runaway, entropy_collapse, "),
        ("kl_runaway", {}, "kl_runaway is not written alarm=action. Write e.g. --alarm_actions kl_runaway=rollback."),
        ("kl_runaway=", {}, "kl_runaway= is not written alarm=action"),
        ("kl_runaway=stop,kl_runaway=note", {}, "names kl_runaway twice"),
        ("kl_runaway=rollback", {"save_steps": 0}, "with save_steps = 0 there is no checkpoint to go back to"),
        ("all=checkpoint", {"save_steps": 0}, "Set --save_steps 50, or another action than checkpoint."),
        ("all=raise_kl", {"kl_coef": 0}, "kl_coef = 0 stays 0. Set --kl_coef 0.05"),
        ("held_out_apart=stop", {}, "held_out_apart cannot ring, because nothing is measured on held-out prompts"),
        (
            "critic_useless=stop", {"advantage_estimator": "rloo", "num_generations": 2},
            "because there is no critic. Add --advantage_estimator gae, or leave out critic_useless.",
        ),
        ("clipping_saturated=off", {"cliprange": "none"}, "because nothing is clipped. Add --cliprange 0.2"),
        ("never_ending=stop", {"fixed_length": True}, "because with fixed_length = true no answer is meant to end"),
        ("reward_constant=stop", {"batch_size": 4}, "because fewer than 8 answers may be equal by chance"),
        ("kl_runaway=stop", {"alarms": False}, "alarm_actions = kl_runaway=stop has no effect because alarms = false"),
    ],
)  # fmt: skip
def test_mistakes(load: Any, actions: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(alarm_actions=actions, **more)
    assert words in str(caught.value)
    assert str(caught.value).startswith("alarm_actions = ")


def test_what_is_possible_is_no_mistake(load: Any) -> None:
    load(alarm_actions="never_ending=stop", fixed_length=True, truncate_token=".", response_length=32)
    load(alarm_actions="held_out_apart=rollback", eval_steps=2, eval_fraction=0.1)
    load(alarm_actions="all=stop", advantage_estimator="rloo", num_generations=2, batch_size=4, save_steps=0)
