"""A token's equations against numbers worked out by hand: the expected ones are literals, from nothing of ours."""

import math
from typing import Any

import pytest

from clearppo.ui.equations import clipped, explain
from tests.ui.rows import meta, one, row


def lines(answer: dict[str, Any], index: int, about: dict[str, Any], group: Any = ()) -> list[dict[str, Any]]:
    found = explain(about, answer, index, group)["equations"]
    assert [line["name"]["en"] for line in found if line["agrees"] is False] == []
    return found


def value(found: list[dict[str, Any]], number: str, name: str = "", epoch: int | None = None) -> float:
    """The value of the only line of this number (and name, and epoch)."""
    chosen = [
        line["value"]
        for line in found
        if line["number"] == number and name in line["name"]["en"] and epoch in (None, line["epoch"])
    ]
    assert len(chosen) == 1, [(line["number"], line["name"]["en"], line["epoch"]) for line in found]
    return chosen[0]


def symbols(found: list[dict[str, Any]], number: str) -> str:
    return next(line["symbols"] for line in found if line["number"] == number)


# --------------------------------------------------------------------------------------------- the article


def test_the_article() -> None:
    """Rewards -0.5, 0.25, 2; returns 1.75, 2.25, 2; less the values 0.5, 0.25, 1 the advantages are 1.25, 2, 1."""
    first = lines(row(), 0, meta())
    assert [line["number"] for line in first] == ["1", "2", "3", "4", "7", "7", "8", "9"]
    assert value(first, "1") == -0.5
    assert value(first, "2") == -0.5
    assert value(first, "3") == 1.75
    assert value(first, "4") == 1.25
    assert value(first, "7", epoch=1) == -1.25
    assert value(first, "7", epoch=2) == -1.875
    assert value(first, "8") == 0.78125  # 1/2 (0.5 - 1.75)^2
    assert value(first, "9") == pytest.approx(-1.171875)  # -1.25 + 0.1 * 0.78125
    assert all(line["agrees"] for line in first if line["number"] in "1234")
    assert symbols(first, "1") == "process_reward = ref_log_prob - old_log_prob"
    assert symbols(first, "3") == "return = reward + next return"
    assert symbols(first, "4") == "advantage = return - old_value"
    assert symbols(first, "9") == "loss = actor_loss + vf_coef * critic_loss"
    assert next(line["numbers"] for line in first if line["number"] == "1") == "= -1.5 - (-1)"
    last = lines(row(), 2, meta())
    assert value(last, "", "score") == 2
    assert value(last, "2") == 2
    assert value(last, "3") == 2
    assert value(last, "4") == 1
    assert symbols(last, "2") == "reward = process_reward + score"
    assert symbols(last, "3") == "return = reward"


def test_what_was_recorded_and_does_not_follow_is_said() -> None:
    wrong = row(rewards=[-0.5, 0.26, 2.0], advantages=[1.25, 2.0, 1.1])
    by_number = {line["number"]: line["agrees"] for line in explain(meta(), wrong, 1)["equations"]}
    assert by_number["1"] is True
    assert by_number["2"] is False  # 0.26 and not 0.25
    assert by_number["3"] is False
    assert [line["agrees"] for line in explain(meta(), wrong, 2)["equations"] if line["number"] == "4"] == [False]


def test_float32_is_no_disagreement() -> None:
    third = row(rewards=[-0.5000001, 0.2500001, 2.0000002], advantages=[1.2500002, 2.0000002, 1.0000001])
    assert all(line["agrees"] is not False for line in explain(meta(), third, 0)["equations"])


# --------------------------------------------------------------------------------------------- the reward


def test_the_coefficient_is_that_of_the_iteration() -> None:
    """An adaptive coefficient stood at 0.044 then: -0.044 * 0.5."""
    answer = row(rewards=[-0.022, 0.011, 2.0], returns=[1.989, 2.011, 2.0], advantages=[1.489, 1.761, 1.0])
    found = lines(answer, 0, meta(kl_coef=0.044))
    assert value(found, "1") == pytest.approx(-0.022)
    assert symbols(found, "1") == "process_reward = kl_coef * (ref_log_prob - old_log_prob)"
    assert found[0]["numbers"] == "= 0.044 * (-1.5 - (-1))"


@pytest.mark.parametrize(("estimator", "kl"), [("k1", 0.69314718), ("k2", 0.24022651), ("k3", 0.19314718)])
def test_each_estimator_of_the_kl(estimator: str, kl: float) -> None:
    """d = log 2: k1 = d, k2 = d^2 / 2, k3 = 1/2 - 1 + d."""
    answer = row(
        log_probs=[-1.0, -2.0, -0.5], ref_log_probs=[-1.69314718, -2.0, -0.5], kls=[kl, 0.0, 0.0],
        rewards=[-kl / 2, 0.0, 2.0],
    )  # fmt: skip
    found = explain(meta(kl_coef=0.5, kl_estimator=estimator), answer, 0)["equations"]
    assert found[0]["value"] == pytest.approx(-kl / 2, rel=1e-6)
    assert found[0]["agrees"]
    assert found[1]["agrees"]


def test_the_full_kl_is_taken_from_the_record() -> None:
    answer = row(kls=[0.3, 0.1, 0.0], rewards=[-0.3, -0.1, 2.0])
    found = explain(meta(kl_estimator="full"), answer, 0)["equations"]
    assert found[0]["value"] == -0.3
    assert found[0]["agrees"] is None
    assert "vocabulary" in found[0]["note"]["en"]


def test_the_score_is_scaled_then_clipped_then_fined() -> None:
    """(5 - 1) / 2 = 2, cut to 1.5, less 1 for an answer that never ended: 0.5."""
    about = meta(score_scaling={"kind": "running", "mean": 1.0, "std": 2.0}, score_clip=1.5, missing_eos_penalty=1.0)
    found = explain(about, one(raw_score=5.0, score=0.5, rewards=[0.5], finish_reason="length"), 0)["equations"]
    score = next(line for line in found if line["name"]["en"] == "score")
    assert score["value"] == 0.5
    assert score["agrees"]
    assert score["symbols"] == "score = clip((raw_score - mean) / std, -c, c) - missing_eos_penalty"
    assert score["numbers"] == "= clip((5 - 1) / 2, -1.5, 1.5) - 1"
    ended = explain(about, one(raw_score=5.0, score=1.5, rewards=[1.5]), 0)["equations"]
    assert next(line for line in ended if line["name"]["en"] == "score")["agrees"]


def test_a_score_that_takes_the_place_of_another() -> None:
    found = explain(meta(missing_eos_score=-1.0), one(score=-1.0, rewards=[-1.0], finish_reason="length"), 0)
    score = next(line for line in found["equations"] if line["name"]["en"] == "score")
    assert (score["value"], score["agrees"]) == (-1.0, True)


def test_whitened_rewards() -> None:
    """(0.25 + 1) * 0.5 = 0.625; the plain reward is held against nothing."""
    answer = row(rewards=[0.25, 0.625, 1.5])
    found = explain(meta(whiten_rewards={"shift": 1.0, "scale": 0.5}), answer, 1)["equations"]
    assert found[1]["value"] == 0.25
    assert found[1]["agrees"] is None
    assert found[2]["value"] == 0.625
    assert found[2]["agrees"]


def test_an_answer_without_a_score_earns_nothing_and_is_not_learned_from() -> None:
    answer = row(
        score=None, raw_score=None, rewards=[0.0, 0.0, 0.0], learned=False, returns=None, advantages=None, ratios=None
    )
    found = explain(meta(), answer, 2)
    assert [line["number"] for line in found["equations"]] == ["1", "2"]
    assert found["equations"][1]["value"] == 0
    assert found["equations"][1]["agrees"]
    assert "left out" in found["story"]["en"]
    assert "没有得分" in found["story"]["zh"]


# --------------------------------------------------------------------------------------------- the advantage

GAE = row(
    score=1.0, raw_score=1.0, length=2, token_ids=[1, 2], tokens=["a", "b"], log_probs=[-1.0, -3.0],
    ref_log_probs=[-2.0, -1.0], sampler_log_probs=[-1.0, -3.0], kls=[1.0, -2.0], rewards=[-0.1, 1.2],
    values=[1.0, 2.0], returns=[0.7, 1.2], advantages=[1.0, -1.0], ratios=[[1.0, 1.0]],
)  # fmt: skip
"""kl_coef 0.1, gamma = lam = 0.5: deltas -0.1 + 0.5 * 2 - 1 = -0.1 and 1.2 - 2 = -0.8; advantages -0.8 and
-0.1 + 0.25 * -0.8 = -0.3; returns -0.3 + 1 and -0.8 + 2. Their mean is -0.55 and their deviation 0.25."""
WHITE = {"shift": 0.55, "scale": 4.0}


def test_gae_whitened() -> None:
    about = meta(kl_coef=0.1, gamma=0.5, lam=0.5, whiten_advantages=WHITE)
    first, second = lines(GAE, 0, about), lines(GAE, 1, about)
    assert value(first, "", "TD error") == pytest.approx(-0.1)
    assert value(first, "4") == pytest.approx(-0.3)
    assert value(first, "3") == pytest.approx(0.7)
    assert value(first, "", "whitened") == pytest.approx(1.0)
    assert symbols(first, "4") == "advantage = delta + gamma * lam * next advantage"
    assert value(second, "", "TD error") == pytest.approx(-0.8)
    assert value(second, "4") == pytest.approx(-0.8)
    assert value(second, "3") == pytest.approx(1.2)
    assert value(second, "", "whitened") == pytest.approx(-1.0)
    compared = {line["name"]["en"] for line in first if line["agrees"] is not None}
    assert compared == {"process reward", "reward", "return", "advantage, whitened"}


def test_a_lambda_of_the_critics_own() -> None:
    """At critic_lam 1 the targets are the discounted rewards: 1.2, and -0.1 + 0.5 * 1.2 = 0.5."""
    about = meta(kl_coef=0.1, gamma=0.5, lam=0.5, critic_lam=1.0, whiten_advantages=WHITE)
    found = lines(GAE | {"returns": [0.5, 1.2]}, 0, about)
    assert value(found, "3") == pytest.approx(0.5)
    assert value(found, "4") == pytest.approx(-0.3)


GROUP = [{"row": 3, "reward": 1.0}, {"row": 4, "reward": 2.0}, {"row": 5, "reward": 6.0}]


def test_rloo() -> None:
    """2 - (1 + 6) / 2."""
    answer = one(row=4, reward=2.0, values=None, advantages=[-1.5])
    found = lines(answer, 0, meta({"vf_coef": 0.0}, estimator="rloo", group_size=3), GROUP)
    assert value(found, "4") == -1.5
    assert [line["number"] for line in found] == ["1", "", "2", "3", "4", "7", "9"]


def test_grpo() -> None:
    """The mean is 3 and the deviation over n - 1 sqrt(14 / 2): -1 / (2.6457513 + 0.0001)."""
    answer = one(row=4, reward=2.0, values=None, advantages=[-0.37795019])
    found = lines(answer, 0, meta({"vf_coef": 0.0}, estimator="grpo", group_size=3), GROUP)
    assert value(found, "4") == pytest.approx(-0.37795019, abs=1e-7)
    equal = [{"row": i, "reward": 2.0} for i in (3, 4, 5)]
    found = lines(answer | {"advantages": [0.0]}, 0, meta({"vf_coef": 0.0}, estimator="grpo", group_size=3), equal)
    assert value(found, "4") == 0


def test_a_group_that_is_not_recorded_whole() -> None:
    answer = one(row=4, reward=2.0, values=None, advantages=[-3.0])
    white = {"shift": 0.5, "scale": 2.0}
    about = meta({"vf_coef": 0.0}, estimator="rloo", group_size=3, whiten_advantages=white)
    found = explain(about, answer, 0, GROUP[:2])["equations"]
    line = next(line for line in found if line["number"] == "4")
    assert line["value"] == -2.0  # -3 / 2 - 0.5
    assert "--record_answers" in line["note"]["en"]


def test_reinforce_plus_plus() -> None:
    """The return itself, then whitened: (1.75 - 1.5) * 2."""
    answer = row(values=None, advantages=[0.5, 1.5, 1.0])
    white = {"shift": -1.5, "scale": 2.0}
    found = lines(answer, 0, meta({"vf_coef": 0.0}, estimator="reinforce++", whiten_advantages=white))
    assert value(found, "4") == 1.75
    assert value(found, "", "whitened") == 0.5


# --------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "loss", "cut"),
    [
        (2.0, 1.5, {}, -3.0, False),
        (2.0, 1.5, {"clip": 0.2}, -2.4, True),
        (2.0, 1.1, {"clip": 0.2}, -2.2, False),
        (-2.0, 1.5, {"clip": 0.2}, 3.0, False),
        (-2.0, 0.5, {"clip": 0.2}, 1.6, True),
        (2.0, 0.5, {"clip": 0.2}, -1.0, False),
        (2.0, 1.4, {"clip": 0.2, "clip_high": 0.5}, -2.8, False),
        (2.0, 1.6, {"clip": 0.2, "clip_high": 0.5}, -3.0, True),
        (-1.0, 5.0, {"clip": 0.2, "dual_clip": 3.0}, 3.0, False),
        (0.0, 5.0, {"clip": 0.2}, 0.0, False),
    ],
)
def test_clips(advantage: float, ratio: float, objective: dict[str, float], loss: float, cut: bool) -> None:
    about, answer = meta(objective), one(advantages=[advantage], ratios=[None, [ratio]])
    found = explain(about, answer, 0)["equations"]
    line = next(line for line in found if line["number"] == "7")
    assert line["epoch"] == 2
    assert line["value"] == pytest.approx(loss)
    assert ("Clipped" in line["note"]["en"]) == cut
    assert clipped(about, [advantage], [None, [ratio]]) == [None, [cut]]


def test_a_ratio_at_the_bound_is_not_clipped_in_either_precision() -> None:
    about = meta({"clip": 0.2})
    assert clipped(about, [1.0, -1.0], [[1.2000000476837158, 0.800000011920929], [1.2, 0.8]]) == [[False] * 2] * 2
    assert clipped(about, None, [[1.0, 1.0]]) == [None]
    assert clipped(about, None, None) == []


def test_importance_weights() -> None:
    """p_old is 4 times p_sampler and the cap is 2: twice the loss."""
    answer = one(sampler_log_probs=[-0.5 - math.log(4)], advantages=[1.0], ratios=[[1.5]])
    found = explain(meta({"importance_cap": 2.0}), answer, 0)["equations"]
    assert value(found, "", "importance") == pytest.approx(2)
    assert value(found, "7") == pytest.approx(-3)


def test_an_importance_weight_of_the_whole_answer() -> None:
    """The answer is e^(0.5 - 0.2) times as likely to the policy as to the sampler, and so weighs every token."""
    answer = row(
        length=2, log_probs=[-1.0, -1.0], sampler_log_probs=[-1.5, -0.8], advantages=[1.0, 1.0], ratios=[[1.0, 1.0]]
    )
    for token in (0, 1):
        found = explain(meta({"importance_cap": 2.0, "importance_level": "sequence"}), answer, token)["equations"]
        assert value(found, "", "importance") == pytest.approx(math.exp(0.3))
        assert value(found, "7") == pytest.approx(-math.exp(0.3))


def test_kl_in_the_loss() -> None:
    """Ratio 2: the live log-prob is -0.5 + log 2, the reference's -0.5; k3 = 1/2 - 1 + log 2."""
    answer = one(advantages=[1.0], ratios=[[2.0]], values=None)
    found = explain(meta({"kl_loss_coef": 0.1, "vf_coef": 0.0}), answer, 0)["equations"]
    assert value(found, "", "KL in the loss") == pytest.approx(0.19314718)
    assert value(found, "9") == pytest.approx(-2 + 0.019314718)
    full = explain(meta({"kl_loss_coef": 0.1, "kl_loss_estimator": "full"}), answer, 0)["equations"]
    assert "vocabulary" in full[-1]["note"]["en"]


# --------------------------------------------------------------------------------------------- the story


def test_the_story_says_why() -> None:
    told = explain(meta({"clip": 0.2}), row(), 0)["story"]
    assert told["en"] == (
        "“A” was rewarded: its advantage is +1.25. From here to the end it earned +1.75: −0.5 for its KL from the "
        "reference, and the tokens after it brought +2.25. The critic had expected +0.5. In epoch 2 its probability "
        "had already risen by 50 %, beyond the clip, so it pushed no further."
    )
    assert told["zh"].startswith("“A” 得到了奖励：优势为 +1.25。")
    assert "第 2 轮" in told["zh"]
    last = explain(meta({"clip": 0.2}), row(advantages=[1.25, 2.0, 1.0]), 2)["story"]["en"]
    assert "“↵”" in last
    assert "and +2 for the score" in last
    hidden = explain(meta(), row(tokens=["a \u202e\tb", "", ""]), 0)["story"]["en"]
    assert hidden.startswith("“a·⟨202E⟩→b” was")


def test_the_story_of_a_token_that_whitening_turned() -> None:
    about = meta(kl_coef=0.1, gamma=0.5, lam=0.5, whiten_advantages=WHITE)
    told = explain(about, GAE, 0)["story"]["en"]
    assert "was rewarded: its advantage is +1: −0.3 by itself, but more than the batch's mean." in told
    assert "the critic's expectation went from +1 to +2, and what the later tokens did counts −0.2 here" in told


def test_the_story_of_a_group_and_of_a_warm_up() -> None:
    answer = one(row=4, reward=2.0, values=None, advantages=[-1.5])
    told = explain(meta({"vf_coef": 0.0}, estimator="rloo", group_size=3), answer, 0, GROUP)["story"]
    assert "earned +2, the other answers to this prompt +3.5 on average" in told["en"]
    assert "同一提示的其他回答平均 +3.5" in told["zh"]
    assert "only the critic learned" in explain(meta(critic_only=True), row(), 0)["story"]["en"]
