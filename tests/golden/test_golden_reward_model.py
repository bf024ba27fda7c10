"""The golden cases of reward models that are not losses: which token is scored, positions, labels' statistics.

The losses (G15, G21) are bound in test_golden_core.py, normalisation (G14, G22) in tests/models/test_normalise.py. Not
bound are G16's two regressions on scalar labels: no recipe uses them.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clearppo.core.masks import last_index
from clearppo.models.reward_model import RewardModel
from clearppo.train.agreement import pearson

CASES = {case["id"]: case for case in json.loads(Path(__file__).with_name("golden.json").read_text())["cases"]}


def case(number: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return CASES[number]["inputs"], CASES[number]["expected"]


class Backbone(torch.nn.Module):
    """Hidden states that are the case's own numbers: column t of row i is values[i][t], whatever is read."""

    def __init__(self, values: list[list[float]]) -> None:
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        n, length = input_ids.shape
        values = self.values.expand(max(n, len(self.values)), -1) if len(self.values) == 1 else self.values
        return SimpleNamespace(last_hidden_state=values[:n, :length].unsqueeze(-1))


class Classifier(torch.nn.Module):
    """As transformers' decoder classifiers are laid out; its head hands the one hidden unit on."""

    base_model_prefix = "model"

    def __init__(self, values: list[list[float]]) -> None:
        super().__init__()
        self.model = Backbone(values)
        self.score = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
        torch.nn.init.ones_(self.score.weight)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.score


def scored(ids: list[list[int]], lengths: list[int], values: list[list[float]]) -> list[float]:
    model = RewardModel(Classifier(values))
    return model.scores(torch.tensor(ids), torch.tensor(lengths)).tolist()


def test_G16_correlation_of_labels_and_predictions() -> None:
    i, e = case("G16")
    assert pearson(i["rating_labels"], i["rating_pred"]) == pytest.approx(e["corr"], rel=1e-9)


def test_G17_the_last_token() -> None:
    """(Its positions are bound in test_golden_lm_human_preferences.py: those of a text without a gap.)"""
    i, e = case("G17")
    real = torch.tensor(i["tokens"]) != i["padding_token"]
    assert last_index(real).tolist() == e["rm_scored_index"]


def test_G20_the_score_is_that_of_the_eos_itself() -> None:
    i, e = case("G20")
    lengths = [sum(token != i["padding_token"] for token in row) for row in e["processed"]]
    ids = [[max(token, 0) for token in row] for row in e["processed"]]
    assert scored(ids, lengths, i["per_token_reward_after_token"]) == pytest.approx(e["reward"], rel=1e-9)
    assert [length - 1 for length in lengths] == e["last_response_index"]


def test_G38_deepspeed_chat_scores_before_the_eos_where_that_pads() -> None:
    """The same number by lengths, if the text is given without its EOS. Here the EOS is the padding token: 2."""
    i, e = case("G38")
    rows, start = i["input_ids"], i["prompt_length"]
    lengths = [row.index(2, start) if 2 in row[start:] else len(row) for row in rows]
    assert scored(rows, lengths, i["values"]) == pytest.approx(e["end_scores"], rel=1e-9)
    assert [length - 1 for length in lengths] == e["end_index"]
