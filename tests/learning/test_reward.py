"""Learning from comparisons: gradients by hand, and what they must not depend on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.data.comparisons import Comparison, ComparisonBatch, ComparisonSet
from clearppo.engines.local import LocalEngine
from clearppo.errors import ConfigError, DataError, TrainingError
from clearppo.learning.reward import (
    RewardObjective,
    check_comparisons,
    learn_comparisons,
    measure_comparisons,
    score_texts,
)
from clearppo.models.build import Lora
from clearppo.models.reward_model import RewardModel, load_classifier, make_reward_model
from tests.tiny import tiny_reward_model

# Texts of one comparison share a beginning, as prompts make them; one is the beginning of another.
TEXTS = [
    [[7, 8, 30, 31, 32], [7, 8, 33], [7, 8, 30, 31, 32, 34, 35]],
    [[9, 40], [9, 41, 42]],
    [[10, 11, 12, 50], [10, 11, 12, 51], [10, 11, 12, 52, 53, 54], [10, 11, 12, 55, 56]],
    [[13, 60, 61], [13, 62]],
]
PAIRS = [[(0, 1), (0, 2), (2, 1)], [(1, 0)], [(3, 0), (3, 1), (3, 2), (0, 2), (1, 2)], [(0, 1)]]
MARGINS = [[0.5, 0.0, 1.0], [0.25], [0.0, 0.0, 2.0, 0.0, 0.1], [0.0]]
CHOICE = [0, 1, 3, 0]
OBJECTIVES = [
    RewardObjective(loss="pairwise"),
    RewardObjective(loss="pairwise", center_coef=0.1),
    RewardObjective(loss="k-wise"),
    RewardObjective(loss="k-wise", center_coef=0.1),
    RewardObjective(loss="best-of-n"),
    RewardObjective(loss="all-token"),
]
BY_NAME = [f"{o.loss}{' centred' if o.center_coef else ''}" for o in OBJECTIVES]


def batch(order: tuple[int, ...] = (0, 1, 2, 3), fill: int = 3) -> ComparisonBatch:
    """The comparisons in this order, padded with `fill`."""
    texts = [text for c in order for text in TEXTS[c]]
    first = [sum(len(TEXTS[c]) for c in order[:i]) for i in range(len(order))]
    width = max(map(len, texts)) + 1
    lengths = torch.tensor([len(text) for text in texts])
    pairs = [(f + a, f + b) for f, c in zip(first, order, strict=True) for a, b in PAIRS[c]]
    return ComparisonBatch(
        ids=torch.tensor([text + [fill] * (width - len(text)) for text in texts]),
        mask=torch.arange(width) < lengths[:, None],
        comparison=torch.tensor([i for i, c in enumerate(order) for _ in TEXTS[c]]),
        pairs=torch.tensor(pairs),
        pair_comparison=torch.tensor([i for i, c in enumerate(order) for _ in PAIRS[c]]),
        margins=torch.tensor([m for c in order for m in MARGINS[c]]),
        divergence=torch.zeros(len(pairs), dtype=torch.long),
        choice=torch.tensor([f + CHOICE[c] for f, c in zip(first, order, strict=True)]),
    )


def model_at(path: Path, **options: Any) -> RewardModel:
    # GPT-2: of the families the one that computes in float64 throughout (RMSNorm of Llama is float32 inside).
    classifier = load_classifier(tiny_reward_model(path, family="gpt2"), dtype=torch.float64)
    return make_reward_model(classifier, **options)


class Recorder(LocalEngine):
    """Keeps each step's gradients, does not move the weights, and counts the rows that run backwards."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.gradients: list[list[torch.Tensor]] = []

    def step(self, optimiser, parameters, max_norm) -> float:
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        optimiser.zero_grad(set_to_none=True)
        return 1.0


def gradients(
    model: RewardModel, data: ComparisonBatch, objective: RewardObjective, micro: int = 100, tokens: int | None = None
):
    engine = Recorder()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    bounds = {"micro_batch_size": micro, "micro_batch_tokens": tokens}
    stats = learn_comparisons(model, data, engine, optimiser, objective=objective, **bounds)
    return engine.gradients[0], stats


def cost(difference: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(-difference))


def by_hand(model: RewardModel, objective: RewardObjective) -> torch.Tensor:
    """The loss pair by pair in Python, each text alone in transformers' classifier; no clearppo.core."""

    def at_tokens(text: list[int]) -> torch.Tensor:
        hidden = model.classifier.transformer(torch.tensor([text])).last_hidden_state[0]
        return model.classifier.score(hidden).squeeze(-1)

    every_pair, every_prompt = [], []
    for texts, pairs, margins, choice in zip(TEXTS, PAIRS, MARGINS, CHOICE, strict=True):
        tokens = [at_tokens(text) for text in texts]
        scores = torch.stack([row[-1] for row in tokens])
        costs, centring = [], []
        for (a, b), margin in zip(pairs, margins, strict=True):
            if objective.loss == "all-token":
                longest = max(len(texts[a]), len(texts[b]))
                same = [x == y for x, y in zip(texts[a], texts[b], strict=False)] + [False]
                span = range(same.index(False), longest)
                held = [(tokens[a][min(t, len(texts[a]) - 1)], tokens[b][min(t, len(texts[b]) - 1)]) for t in span]
                costs.append(torch.stack([cost(x - y - margin) for x, y in held]).mean())
            else:
                costs.append(cost(scores[a] - scores[b] - margin))
            centring.append(objective.center_coef * (scores[a] + scores[b]) ** 2)
        if objective.loss == "best-of-n":
            every_prompt.append(torch.logsumexp(scores, 0) - scores[choice])
        else:
            every_prompt.append(torch.stack(costs).mean() + torch.stack(centring).mean())
            every_pair += [x + y for x, y in zip(costs, centring, strict=True)]
    return torch.stack(every_pair if objective.loss in ("pairwise", "all-token") else every_prompt).mean()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_gradients_are_those_of_the_equations(tmp_path: Path, objective: RewardObjective) -> None:
    model = model_at(tmp_path)
    loss = by_hand(model, objective)
    expected = torch.autograd.grad(loss, [p for _, p in model.trainable()])
    found, stats = gradients(model, batch(), objective)
    assert stats.mean("loss") == pytest.approx(loss.item(), rel=1e-9)
    assert max(float(e.abs().max()) for e in expected) > 1e-3
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_neither_the_micro_batch_nor_the_order_changes_anything(
    tmp_path: Path, objective: RewardObjective, micro: int
) -> None:
    """Smaller than one prompt's answers, not dividing anything, other padding: the same gradient and numbers."""
    model = model_at(tmp_path)
    whole, whole_stats = gradients(model, batch(), objective)
    parts, stats = gradients(model, batch(order=(2, 0, 3, 1), fill=99), objective, micro)
    for g, e in zip(parts, whole, strict=True):
        torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)
    assert stats.counts == whole_stats.counts
    for name in whole_stats.sums:
        assert stats.mean(name) == pytest.approx(whole_stats.mean(name), rel=1e-9), name


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_each_text_is_read_once(tmp_path: Path, objective: RewardObjective) -> None:
    """With room for a prompt's answers; without it, twice. And never more at once than allowed."""
    model = model_at(tmp_path)
    seen: list[int] = []
    model.backbone.register_forward_hook(lambda _m, _i, out: seen.append(len(out.last_hidden_state)))
    gradients(model, batch(), objective, micro=4)
    assert sum(seen) == 11
    assert max(seen) <= 4
    seen.clear()
    gradients(model, batch(), objective, micro=3)
    assert sum(seen) == 11 + 4
    assert max(seen) <= 3


def test_texts_are_padded_to_their_neighbours_only(tmp_path: Path) -> None:
    model = model_at(tmp_path)
    cells: list[int] = []
    model.backbone.register_forward_hook(lambda _m, _i, out: cells.append(out.last_hidden_state.shape[:2].numel()))
    gradients(model, batch(), RewardObjective(), micro=4)
    tokens = sum(len(text) for texts in TEXTS for text in texts)
    assert tokens <= sum(cells) <= 1.5 * tokens
    cells.clear()
    score_texts(model, [text for texts in TEXTS for text in texts], micro_batch_size=2)
    assert sum(cells) <= 1.2 * tokens


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    model = model_at(tmp_path)
    objective = RewardObjective()
    stats, scores = measure_comparisons(model, batch(), objective=objective, micro_batch_size=3)
    rows = [text for texts in TEXTS for text in texts]
    alone = [model.scores(torch.tensor([row]), torch.tensor([len(row)])).item() for row in rows]
    assert scores.tolist() == pytest.approx(alone, abs=1e-9)
    assert score_texts(model, rows, micro_batch_size=2).tolist() == pytest.approx(alone, abs=1e-9)
    pairs = [(alone[a], alone[b]) for a, b in batch().pairs.tolist()]
    assert stats.mean("accuracy") == sum(a > b for a, b in pairs) / 10
    assert stats.mean("margin") == pytest.approx(sum(a - b for a, b in pairs) / 10)
    assert stats.mean("mean_chosen") == pytest.approx(sum(a for a, _ in pairs) / 10)
    assert stats.mean("mean_rejected") == pytest.approx(sum(b for _, b in pairs) / 10)
    assert stats.mean("mean_score") == pytest.approx(sum(alone) / 11)
    assert stats.mean("squared_score") == pytest.approx(sum(x * x for x in alone) / 11)
    assert stats.counts == {"loss": 4, "accuracy": 10, "margin": 10, "mean_chosen": 10, "mean_rejected": 10,
                            "mean_score": 11, "squared_score": 11}  # fmt: skip
    assert not scores.requires_grad
    assert not scores.is_inference()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_measuring_is_learning_without_the_step(tmp_path: Path, objective: RewardObjective) -> None:
    model = model_at(tmp_path)
    _, learned = gradients(model, batch(), objective)
    for micro in (1, 3, 100):
        measured, _ = measure_comparisons(model, batch(), objective=objective, micro_batch_size=micro)
        for name, value in measured.sums.items():
            assert value == pytest.approx(learned.sums[name], rel=1e-9)


def test_ties_are_wrong(tmp_path: Path) -> None:
    model = model_at(tmp_path)
    torch.nn.init.zeros_(model.head.weight)
    stats, _ = measure_comparisons(model, batch(), objective=RewardObjective(), micro_batch_size=4)
    assert stats.mean("accuracy") == 0.0
    assert stats.mean("loss") > math.log(2)  # the margins
    none = replace(batch(), margins=torch.zeros(10))
    stats, _ = measure_comparisons(model, none, objective=RewardObjective(), micro_batch_size=4)
    assert stats.mean("loss") == pytest.approx(math.log(2))
    best, _ = measure_comparisons(model, none, objective=RewardObjective(loss="best-of-n"), micro_batch_size=4)
    assert best.mean("loss") == pytest.approx((math.log(3) + 2 * math.log(2) + math.log(4)) / 4)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8, target_modules="all-linear")], ids=["full", "lora"])
def test_it_learns_the_comparisons(tmp_path: Path, objective: RewardObjective, lora: Lora | None) -> None:
    model = model_at(tmp_path, lora=lora, gradient_checkpointing=lora is not None)
    optimiser = torch.optim.Adam([p for _, p in model.trainable()], lr=0.02)
    engine = LocalEngine(torch.device("cpu"))
    data = replace(batch(), margins=torch.zeros(10))
    first = last = None
    for _ in range(30):
        last = learn_comparisons(
            model, data, engine, optimiser, objective=objective, micro_batch_size=4, max_grad_norm=1.0
        )
        first = first or last
    assert first is not None
    assert last is not None
    # A ranking that contradicts the choice is not all learned by best-of-n: it knows no second place.
    assert last.mean("accuracy") >= (0.7 if objective.loss == "best-of-n" else 1.0)
    assert last.mean("loss") < 0.5 * first.mean("loss")
    assert not model.training


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_weights(tmp_path: Path) -> None:
    model = model_at(tmp_path)
    before = [p.clone() for p in model.parameters()]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    broken = replace(batch(), margins=torch.full((10,), math.nan))
    with pytest.raises(TrainingError, match=r"the loss is not finite: margin of row 1 is nan \(data\)"):
        learn_comparisons(
            model, broken, LocalEngine(torch.device("cpu")), optimiser, objective=RewardObjective(), micro_batch_size=4
        )
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("loss", ["best-of-n", "all-token"])
def test_centring_where_it_has_no_effect(loss: Any) -> None:
    with pytest.raises(ConfigError, match=f"center_coef = 0.01 has no effect with rm_loss = {loss}"):
        RewardObjective(loss=loss, center_coef=0.01)


def test_a_choice_that_is_missing() -> None:
    def compared(choice: int | None, where: str = "") -> Comparison:
        return Comparison(
            prompt="a", answers=("b", "c"), pairs=((0, 1),), margins=(0.0,), choice=choice, labels=None, where=where
        )

    def comparisons(*rows: Comparison) -> ComparisonSet:
        n = len(rows)
        return ComparisonSet(
            comparisons=rows, ids=(((5, 6), (5, 7)),) * n, answer_tokens=((1, 1),) * n, n_too_long=0, longest=2
        )

    best_of_n = RewardObjective(loss="best-of-n")
    check_comparisons(comparisons(compared(0), compared(1)), best_of_n, "rows.jsonl")
    check_comparisons(comparisons(compared(None)), RewardObjective(), "rows.jsonl")
    with pytest.raises(DataError, match=r"^rows.jsonl line 7: several answers share the first place.*--rm_loss k-wise"):
        check_comparisons(comparisons(compared(0), compared(None, "line 7")), best_of_n, "rows.jsonl")
    with pytest.raises(DataError, match=r"^rows.jsonl row 1: "):
        check_comparisons(comparisons(compared(None)), best_of_n, "rows.jsonl")
