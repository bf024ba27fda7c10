"""Normalised scores in plain weights: what transformers says afterwards, for models with and without a bias."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from clearppo.errors import ConfigError, TrainingError
from clearppo.models.build import Lora
from clearppo.models.normalise import constant_direction, gain_and_bias, normalise_scores
from clearppo.models.reward_model import RewardModel, load_classifier, make_reward_model
from tests.models.test_reward_model import Template
from tests.tiny import FAMILIES, tiny_reward_model, tiny_tokenizer

CASES = {
    case["id"]: case for case in json.loads((Path(__file__).parents[1] / "golden" / "golden.json").read_text())["cases"]
}
WITH_LAYER_NORM = ("gpt2", "gpt_neox")


def texts(n: int, seed: int = 0, ending: tuple[int, ...] = (20, 21, 22)) -> list[list[int]]:
    """Texts of 4 to 14 tokens that end alike, as under a judgement template."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (n,), generator=generator).tolist()
    return [[*torch.randint(7, 150, (k,), generator=generator).tolist(), *ending] for k in lengths]


def scores(model: RewardModel, read: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        each = [model.scores(torch.tensor([text]), torch.tensor([len(text)])) for text in read]
    return torch.cat(each).double()


def model_at(path: Path, family: str, *, dtype: torch.dtype = torch.float32, **options: Any) -> RewardModel:
    """A model whose scores are far from normalised."""
    model = make_reward_model(load_classifier(tiny_reward_model(path, family=family), dtype=dtype), **options)
    hidden = model.last_states(torch.tensor([[20, 21, 22]]), torch.tensor([3]))[0].detach()
    with torch.no_grad():
        model.head.weight.mul_(2).add_(6 * hidden / hidden.square().sum())
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_G14_gain_and_bias(dtype: torch.dtype) -> None:
    i, e = CASES["G14"]["inputs"], CASES["G14"]["expected"]
    raw = torch.tensor(i["raw_rewards"], dtype=dtype)
    gain, bias = gain_and_bias(raw, "mean-std")
    assert gain == pytest.approx(e["gain"], rel=1e-9)
    assert gain != pytest.approx(e["gain_if_unbiased_std"], rel=1e-3)
    assert bias == pytest.approx(e["bias"], rel=1e-9)
    assert (gain * raw.double() + bias).tolist() == pytest.approx(e["normalized"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_G22_bias_alone(dtype: torch.dtype) -> None:
    i, e = CASES["G22"]["inputs"], CASES["G22"]["expected"]
    reference = torch.tensor(i["reference_rewards"], dtype=dtype)
    gain, bias = gain_and_bias(reference, "mean")
    assert gain == 1.0
    assert bias == pytest.approx(-e["bias"], rel=1e-7)
    assert (reference.double() + bias).tolist() == pytest.approx(e["shifted_reference"], rel=1e-6, abs=1e-7)
    policy = torch.tensor(i["policy_rewards"]).double()
    assert (policy + bias).tolist() == pytest.approx(e["shifted_policy"], rel=1e-6)


@pytest.mark.parametrize("mode", ["mean", "mean-std"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_normalised_on_the_references(tmp_path: Path, family: str, mode: Any) -> None:
    model, reference = model_at(tmp_path, family), texts(60)
    before = scores(model, reference)
    assert abs(before.mean()) > 0.1
    assert abs(before.std() - 1) > 0.1
    result = normalise_scores(model, reference, mode=mode, micro_batch_size=7)
    after = scores(model, reference)
    assert float(after.mean()) == pytest.approx(0, abs=2e-5)
    expected_std = 1.0 if mode == "mean-std" else float(before.std(correction=0))
    assert float(after.std(correction=0)) == pytest.approx(expected_std, rel=1e-4)
    assert result.n == 60
    assert result.mean_before == pytest.approx(float(before.mean()), rel=1e-4)
    assert result.std_before == pytest.approx(float(before.std(correction=0)), rel=1e-4)
    assert result.mean_after == pytest.approx(0, abs=1e-5)
    assert result.std_after == pytest.approx(expected_std, rel=1e-5)


@pytest.mark.parametrize("mode", ["mean", "mean-std"])
@pytest.mark.parametrize("family", WITH_LAYER_NORM)
def test_a_layer_norm_shifts_every_text_exactly(tmp_path: Path, family: str, mode: Any) -> None:
    """Also texts that were no reference: gain * score + bias, to float64's last digits."""
    model = model_at(tmp_path, family, dtype=torch.float64)
    unseen = texts(40, seed=9)
    before = scores(model, unseen)
    result = normalise_scores(model, texts(30), mode=mode, micro_batch_size=8)
    assert result.place == "final norm"
    assert (result.bias_spread, result.flipped) == (0.0, 0.0)
    # gpt_neox rotates positions in float32
    torch.testing.assert_close(scores(model, unseen), result.gain * before + result.bias, atol=1e-6, rtol=1e-6)
    assert "exactly and for every text" in result.sentence()


@pytest.mark.parametrize("mode", ["mean", "mean-std"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_without_a_bias_it_says_how_far_scores_may_move(tmp_path: Path, family: str, mode: Any) -> None:
    """The spread that it foretells for unseen texts is the one that unseen texts of the same kind show."""
    model, unseen = model_at(tmp_path, family), texts(400, seed=9)
    before = scores(model, unseen)
    result = normalise_scores(model, texts(200), mode=mode, micro_batch_size=8)
    assert result.place == "constant direction"
    after = scores(model, unseen)
    target = 1.0 if mode == "mean-std" else result.std_before
    deviation = (after - (result.gain * before + result.bias)) / target
    assert float(deviation.std()) == pytest.approx(result.bias_spread, rel=0.4)
    assert result.bias_spread > 0
    signs = torch.sign(before[:, None] - before) * torch.sign(after[:, None] - after)
    assert float((signs < 0).double().mean()) == pytest.approx(result.flipped, abs=0.05)
    assert f"{result.flipped:.2%} of all pairs of samples changed places" in result.sentence()


def test_what_is_saved_gives_normalised_scores_to_anyone(tmp_path: Path) -> None:
    """Adapters and autocast too: transformers' own classifier in float32 is the judge."""
    for family in ("llama", "gpt2"):
        lora = Lora(r=2, alpha=4, target_modules="all-linear")
        model = model_at(tmp_path / family, family, lora=lora, autocast=True)
        with torch.no_grad():
            for _, parameter in model.trainable():
                parameter.add_(0.03)
        normalise_scores(model, texts(50), mode="mean-std", micro_batch_size=8)
        assert model.autocast
        model.save(tmp_path / "end" / family, tiny_tokenizer(), Template())
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end" / family).eval()
        with torch.no_grad():
            found = torch.tensor([plain(input_ids=torch.tensor([text])).logits.item() for text in texts(50)])
        assert float(found.mean()) == pytest.approx(0, abs=1e-3)
        assert float(found.std(correction=0)) == pytest.approx(1, rel=1e-3)


def test_a_head_with_a_bias_of_its_own(tmp_path: Path) -> None:
    model = model_at(tmp_path, "llama")
    head = torch.nn.Linear(32, 1)
    head.weight.data.copy_(model.head.weight)
    model.classifier.score = head
    before = scores(model, texts(20))
    result = normalise_scores(model, texts(20), mode="mean-std", micro_batch_size=4)
    assert result.place == "head"
    torch.testing.assert_close(scores(model, texts(20)), result.gain * before + result.bias, atol=1e-5, rtol=1e-5)
    assert float(scores(model, texts(20)).mean()) == pytest.approx(0, abs=1e-5)


def test_a_constant_direction_is_found_where_there_is_one() -> None:
    """One coordinate of constant value among noise: the fit takes it, and left-out rows show no spread."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn((40, 12), generator=generator, dtype=torch.float64)
    states[:, 5] = 2.0
    direction, spread = constant_direction(states)
    torch.testing.assert_close(states @ direction, torch.ones(40, dtype=torch.float64), atol=1e-6, rtol=0)
    assert spread < 1e-6
    assert float(direction[5]) == pytest.approx(0.5, abs=1e-6)
    # More dimensions than texts: a fit of those texts alone is perfect and worthless, which left-out rows tell.
    noise = torch.randn((20, 60), generator=generator, dtype=torch.float64)
    assert constant_direction(noise)[1] > 0.1


def test_left_out_errors_are_those_of_leaving_out(tmp_path: Path) -> None:
    """The closed form against fitting n times, with the ridge strength that was chosen."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn((25, 6), generator=generator, dtype=torch.float64) + 1.0
    direction, spread = constant_direction(states)

    def fit(rows: torch.Tensor, ridge: float) -> torch.Tensor:
        gram = rows.T @ rows + ridge * torch.eye(6, dtype=torch.float64)
        return torch.linalg.solve(gram, rows.sum(dim=0))

    largest = float(torch.linalg.svdvals(states)[0] ** 2)
    ridges = [strength * largest for strength in torch.logspace(-10, 1, 34, dtype=torch.float64).tolist()]
    ridge = min(ridges, key=lambda r: float((fit(states, r) - direction).abs().max()))
    torch.testing.assert_close(fit(states, ridge), direction, atol=1e-8, rtol=1e-6)
    left_out = []
    for row in range(25):
        rest = torch.cat([states[:row], states[row + 1 :]])
        left_out.append(1 - float(states[row] @ fit(rest, ridge)))
    assert float(torch.tensor(left_out).std(correction=0)) == pytest.approx(spread, rel=1e-5)


def test_what_cannot_be_normalised(tmp_path: Path) -> None:
    model = model_at(tmp_path, "llama")
    with pytest.raises(ConfigError, match="there is no reference sample"):
        normalise_scores(model, [], mode="mean", micro_batch_size=4)
    with pytest.raises(ConfigError, match=r"all 3 reference samples have the same score.*--score_normalisation mean"):
        normalise_scores(model, [[5, 6]] * 3, mode="mean-std", micro_batch_size=2)
    weight = model.head.weight.clone()
    one = normalise_scores(model, [[5, 6]] * 3, mode="mean", micro_batch_size=2)
    assert float(scores(model, [[5, 6]])) == pytest.approx(0, abs=1e-5)
    assert one.gain == 1.0
    assert not torch.allclose(model.head.weight, weight)
    assert float(scores(model, texts(50)).std()) > 0.1  # other texts keep their differences
    assert one.n == 3
    model.head.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="scores that are not finite"):
        normalise_scores(model, texts(5), mode="mean", micro_batch_size=4)
