"""Faults that show while a run goes on: an alarm rings, the right one, and its sentence has the numbers."""

from pathlib import Path
from typing import Any

from tests.planted.models import never_ends, spoilt_head
from tests.planted.setups import Options, Train, rewarded, rung


def heard(options: Options, said: str, *names: str) -> dict[str, Any]:
    """The first row of one of these alarms; its sentence was printed, and says what was measured."""
    rows = [row for row in rung(options) if row["alarm"] in names]
    assert rows, rung(options)
    first = rows[0]
    assert first["sentence"], first
    assert first["advice"], first
    flat = " ".join(said.split())
    assert " ".join(first["sentence"].split()) in flat, (first, said)
    return first


def test_a_learning_rate_of_a_hundred_times(train: Train, healthy: Options) -> None:
    _, said = train(healthy, learning_rate=1e-2, total_episodes=256)
    first = heard(healthy, said, "kl_runaway", "clipping_saturated", "gradient_spike")
    assert first["step"] <= 12


def test_a_kl_coefficient_of_a_thousandth(train: Train, healthy: Options, tmp_path: Path) -> None:
    """The policy leaves the reference for what the reward likes."""
    options = healthy | {"kl_coef": 5e-5, "total_episodes": 640, "learning_rate": 1e-3}
    _, said = train(options, reward_funcs=rewarded(tmp_path, "text.count('o') / 4"))
    heard(options, said, "kl_runaway")


def test_a_constant_reward(train: Train, healthy: Options, tmp_path: Path) -> None:
    _, said = train(healthy, reward_funcs=rewarded(tmp_path, "0.5"))
    first = heard(healthy, said, "reward_constant")
    assert first["step"] == 1
    assert first["source"] == "score"
    assert "0.5" in first["sentence"]


def test_one_constant_source_of_two(train: Train, healthy: Options, tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(
        "def flat(prompts, completions, **columns):\n    return [2.0] * len(completions)\n"
    )
    _, said = train(healthy, reward_funcs=f"{healthy['reward_funcs']},{tmp_path / 'flat.py'}:flat")
    assert heard(healthy, said, "reward_constant")["source"] == "flat"
    assert [row["source"] for row in rung(healthy)] == ["flat"]


def test_answers_that_never_end(train: Train, healthy: Options, policy: str, tmp_path: Path) -> None:
    options = healthy | {"batch_size": 128, "total_episodes": 512}
    _, said = train(options, model_name_or_path=never_ends(policy, tmp_path / "endless"))
    first = heard(options, said, "never_ending")
    assert first["step"] <= 3
    assert "16" in first["sentence"] + first["advice"]


def test_a_broken_value_head(train: Train, healthy: Options, reward_model: str, tmp_path: Path) -> None:
    """Values of a hundred times the scores, from a critic that hardly learns."""
    path = spoilt_head(reward_model, tmp_path / "critic", 100.0)
    options = healthy | {"total_episodes": 384}
    _, said = train(options, critic="separate", value_model_path=path, critic_learning_rate=1e-7)
    first = heard(options, said, "critic_useless")
    assert first["metric"] == "critic/vf_explained_var"
    assert first["value"] < 0


def test_a_reward_server_that_changes(train: Train, healthy: Options, tmp_path: Path) -> None:
    """After 160 answers the same function gives scores on another scale."""
    changed = "text.count('o') + (50.0 if seen.append(1) or len(seen) > 160 else 0.0)"
    place = rewarded(tmp_path, changed)
    (tmp_path / "reward.py").write_text("seen = []\n" + (tmp_path / "reward.py").read_text())
    options = healthy | {"total_episodes": 320}
    _, said = train(options, reward_funcs=place)
    first = heard(options, said, "reward_jump")
    assert first["step"] in (11, 12, 13)
    assert first["source"] == "score"


def test_alarms_can_be_switched_off(train: Train, healthy: Options, tmp_path: Path) -> None:
    train(healthy, reward_funcs=rewarded(tmp_path, "0.5"), alarms=False)
    assert not (Path(healthy["output_dir"]) / "alarms.jsonl").exists()
