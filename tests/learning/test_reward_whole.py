"""From a file of comparisons to a reward model's directory, its scores elsewhere, and its report; each part real."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from clearppo.data import JudgementTemplate, encode_comparisons, load_comparisons, split_comparisons
from clearppo.engines.local import LocalEngine
from clearppo.feedback.model import RewardModelScorer
from clearppo.learning.reward import (
    Loss,
    RewardObjective,
    check_comparisons,
    learn_comparisons,
    measure_comparisons,
    score_texts,
)
from clearppo.models.normalise import normalise_scores
from clearppo.models.reward_model import load_classifier, make_reward_model
from clearppo.train.reward_report import reward_report, scored
from tests.tiny import tiny_causal_lm, tiny_rollout

GOOD, BAD = "wonderful good happy delight".split(), "dull bad".split()  # noqa: SIM905


def rows() -> list[dict[str, object]]:
    """Four answers a prompt; an answer's score is the number of its good words less that of its bad ones."""
    generator = random.Random(0)
    written = []
    for number in range(60):
        answers, scores = [], []
        while len(answers) < 4:
            words = [generator.choice(GOOD + BAD * 2 + ["the", "dog"]) for _ in range(generator.randint(2, 5))]
            score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
            if score not in scores:
                answers.append(" " + " ".join(words))
                scores.append(score)
        written.append({"prompt": f"The film {number} was", "completions": answers, "scores": scores})
    return written


@pytest.mark.parametrize("loss", ["pairwise", "k-wise", "best-of-n", "all-token"])
def test_a_reward_model_from_beginning_to_end(tmp_path: Path, loss: Loss) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    start = tiny_causal_lm(tmp_path / "start")
    tokenizer, template = AutoTokenizer.from_pretrained(start), JudgementTemplate("{conversation}. It is")
    kept, held = split_comparisons(load_comparisons(str(tmp_path / "rows.jsonl")), 0.2, seed=0)
    train, held_out = (
        encode_comparisons(part, tokenizer, template, max_length=100, source="rows.jsonl") for part in (kept, held)
    )
    model = make_reward_model(load_classifier(start))
    objective = RewardObjective(loss=loss)
    check_comparisons(train, objective, "rows.jsonl")
    optimiser = torch.optim.Adam([p for _, p in model.trainable()], lr=3e-3)
    everything = held_out.batch(range(len(held_out)), tokenizer.pad_token_id)
    before, _ = measure_comparisons(model, everything, objective=objective, micro_batch_size=16)
    engine = LocalEngine(torch.device("cpu"))
    for step in range(24):
        indices = [(12 * step + k) % len(train) for k in range(12)]
        learn_comparisons(
            model, train.batch(indices, tokenizer.pad_token_id), engine, optimiser, objective=objective,
            micro_batch_size=16, max_grad_norm=1.0,
        )  # fmt: skip
    after, scores = measure_comparisons(model, everything, objective=objective, micro_batch_size=16)
    assert after.mean("loss") < 0.8 * before.mean("loss")
    assert after.mean("accuracy") > 0.7  # before: 0.5 or so
    report = reward_report(scored(held_out, scores.tolist()), clear_gap=1.0)
    assert report.accuracy.value == pytest.approx(after.mean("accuracy"))
    assert report.accuracy.n_prompts == len(held_out)
    assert report.margin_kind == "labels"

    normalised = normalise_scores(model, [text for texts in train.ids for text in texts], mode="mean-std",
                                  micro_batch_size=16)  # fmt: skip
    model.save(tmp_path / "end", tokenizer, template)
    scorer = RewardModelScorer.load(
        str(tmp_path / "end"), device=torch.device("cpu"), dtype=torch.float32, batch_size=16
    )
    asked = tiny_rollout([c.prompt for c in held for _ in c.answers], [a for c in held for a in c.answers])
    elsewhere = scorer(asked).total
    again = score_texts(model, [text for texts in held_out.ids for text in texts], micro_batch_size=16)
    torch.testing.assert_close(elsewhere, again, atol=1e-4, rtol=1e-4)
    exact = normalised.gain * scores + normalised.bias
    assert float((again - exact).std()) == pytest.approx(normalised.bias_spread, abs=0.05)
