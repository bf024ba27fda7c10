"""With other options: what replay says would have been is what a run does that goes on with them from the checkpoint.

Iteration 5 begins at a checkpoint, so a run that branches off there samples the same answers and gets the same scores.
"""

import json
import re
from pathlib import Path

import pytest

from clearppo.build.replay import replay
from clearppo.config import PPOConfig, leaves
from clearppo.config.replayable import SETTABLE, SHORT, changed, options_of, read_resolved
from clearppo.errors import ConfigError
from tests.replay.conftest import Ran, options_in
from tests.replay.test_identical import CASES
from tests.resume.runs import train

BRANCHES: list[tuple[str, list[str], bool]] = [
    ("shared", ["cliprange=0.05", "learning_rate=1e-4", "max_grad_norm=0.1"], False),
    ("shared", ["gamma=0.9", "lam=0.8", "kl_coef=0.5", "kl_estimator=k3", "unbiased_whitening=true"], False),
    ("shared", ["num_ppo_epochs=3", "num_mini_batches=4", "early_stop_kl=0.01", "adam_beta1=0.5"], False),
    ("shared", ["missing_eos_penalty=1", "whiten_rewards=true", "vf_coef=1", "critic_learning_rate=0.1"], False),
    ("shared", ["kl_loss_coef=0.1", "kl_loss_estimator=full", "entropy_coef=0.1", "cliprange_high=0.4"], True),
    ("shared", ["critic_warmup_steps=5"], True),
    ("average", ["score_clip=0.3", "missing_eos_score=-1"], True),
    ("texts", ["ptx_coef=3", "ptx_batch_ratio=2", "ptx_reduction=mean"], False),
    ("rloo", ["advantage_estimator=grpo"], True),
    ("bf16-one-step", ["num_ppo_epochs=2"], False),
    ("lora", ["learning_rate=1e-2", "weight_decay=0.1"], True),
    ("float64", ["cliprange=0.1", "kl_coef=0.7"], True),
    ("full-kl", ["kl_estimator=k1", "kl_loss_coef=0.5"], True),
    ("frozen", ["num_ppo_epochs=1"], True),
]


@pytest.mark.parametrize(
    ("case", "settings"),
    [pytest.param(case, settings, marks=[pytest.mark.slow] * slow) for case, settings, slow in BRANCHES],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_it_is_what_a_run_with_these_options_does(case: str, settings: list[str], ran: Ran, tmp_path: Path) -> None:
    run = ran(case, **CASES[case])
    found = replay(run, 5, settings=settings)
    assert found.check.identical
    options = options_in(run.parents[1], case, (run.parents[1] / "model").as_posix(), CASES[case])
    options |= dict(setting.split("=") for setting in settings)
    options |= {"output_dir": str(tmp_path / "branch"), "allow_changed_options": "true", "save_steps": "0"}
    train("ppo", options, resume=str(run / "checkpoint-4"))
    rows = [json.loads(line) for line in (tmp_path / "branch" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row.pop("step") == 5]
    assert found.outcome.changed is not None
    assert {name: found.outcome.changed.get(name) for name in row} == row


def test_the_same_learning_twice_is_the_same(ran: Ran) -> None:
    """An option that changes nothing here, for no ratio is so large: both ways must agree in every number."""
    found = replay(ran("shared"), 6, settings=["dual_clip=1000"])
    outcome = found.outcome
    assert outcome.changed == outcome.numbers
    for pair in (outcome.gradient["all"], outcome.update["all"]):
        assert pair.norm == pair.norm_changed
        assert pair.cosine == pytest.approx(1, abs=1e-12)
    assert all(token.after == token.after_changed for token in outcome.tokens)


def test_without_a_critic_the_values_are_left_alone(ran: Ran) -> None:
    found = replay(ran("shared"), 6, settings=["estimator=reinforce++"])
    numbers, other = found.outcome.numbers, found.outcome.changed
    assert other is not None
    assert {"loss/value_avg", "explained_var_after"} <= numbers.keys() - other.keys()
    assert found.outcome.update["critic"].norm_changed == 0
    assert found.outcome.update["critic"].cosine is None


def test_what_can_be_set_and_what_it_is_called() -> None:
    known = leaves(PPOConfig)
    assert set(SETTABLE) <= known.keys()
    assert set(SHORT.values()) <= set(SETTABLE)
    assert not SHORT.keys() & known.keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["clip=0.2"], "cliprange=0.2 changes nothing"),
        (["cliprange"], "--set cliprange is no setting. Write --set NAME=VALUE"),
        (["=3"], "there is no option"),
        (["cliprnge=0.1"], "Did you mean cliprange?"),
        (["lr=1e-5", "learning_rate=1e-6"], "--set learning_rate is given twice: 1e-5 and 1e-6"),
        (["cliprange=-1"], "Write e.g. --set cliprange=0.2"),
        (["cliprange=much"], "it must be a number above 0"),
        (["temperature=0.5"], "the answers are those of the record, sampled before"),
        (["reward_weights=2"], "the scores are those of the record, and nobody is asked again"),
        (["model_name_or_path=x"], "the weights are those of the run"),
        (["dataset_name=x"], "the prompts are those of the record"),
        (["ptx_dataset_name=x"], "the texts are those of the run"),
        (["lr_scheduler_type=linear"], "set learning_rate"),
        (["kl_target=3"], "set kl_coef"),
        (["adam_style=tf"], "of the other style"),
        (["save_steps=3"], "no part in what is learned"),
        (["num_mini_batches=3"], "does not divide batch_size"),
        (["kl_loss_estimator=k2"], "has no effect because kl_loss_coef = 0"),
        (["advantage_estimator=rloo"], "--set advantage_estimator=gae"),
        (["kl_estimator=full"], "the reference's whole distribution, which is not recorded"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_be_tried(settings: list[str], words: str, ran: Ran) -> None:
    with pytest.raises(ConfigError) as error:
        replay(ran("shared"), 5, settings=settings)
    assert words in str(error.value)


def test_a_critic_cannot_be_added(ran: Ran) -> None:
    with pytest.raises(ConfigError, match="this run has no critic"):
        replay(ran("rloo", **CASES["rloo"]), 5, settings=["advantage_estimator=gae"])


def test_options_that_fall_asleep_beside_a_changed_one_are_left_out(ran: Ran, tmp_path: Path) -> None:
    given = read_resolved(ran("shared") / "config.yaml")
    before = options_of(given)
    after, names = changed(given, ["advantage_estimator=reinforce++"])
    assert (before.ppo.cliprange_value, names) == (0.2, {"advantage_estimator": "reinforce++"})
    assert after.ppo.advantage_estimator == "reinforce++"


def test_a_function_that_nobody_can_import_is_not_needed(ran: Ran, tmp_path: Path) -> None:
    text = (ran("shared") / "config.yaml").read_text(encoding="utf-8")
    text, count = re.subn(r"^  reward_funcs: .*$", "  reward_funcs: ['here:f.<locals>.<lambda>']", text, flags=re.M)
    assert count == 1
    (tmp_path / "config.yaml").write_text(text)
    assert len(options_of(read_resolved(tmp_path / "config.yaml")).reward.reward_funcs) == 1
