"""Whole texts, for SFT and PPO-ptx: the log-probabilities of the tokens to be learned, and nothing else."""

from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from clearppo.batch import Sequences
from clearppo.models.actor import Actor
from clearppo.models.build import Lora, make_policy
from clearppo.models.loading import load_causal_lm
from tests.tiny import FAMILIES, tiny_causal_lm

LENGTHS, STARTS = (5, 9, 2, 7), (1, 4, 1, 6)


def texts(*, extra: int = 0) -> Sequences:
    """Right-padded texts of these lengths; the loss is on everything from the row's start, but for one hole."""
    L = max(LENGTHS) + extra
    generator = torch.Generator().manual_seed(5)
    columns, lengths = torch.arange(L), torch.tensor(LENGTHS)[:, None]
    mask = columns < lengths
    ids = torch.randint(5, 100, (len(LENGTHS), max(LENGTHS)), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, extra), value=7).masked_fill(~mask, 3)
    loss_mask = mask & (columns >= torch.tensor(STARTS)[:, None])
    loss_mask[1, 6] = False
    return Sequences(ids=ids, mask=mask, loss_mask=loss_mask)


def one_by_one(model, batch: Sequences) -> torch.Tensor:
    """Each row alone, without padding, by the plain model."""
    picked = []
    for ids, mask, wanted in zip(batch.ids, batch.mask, batch.loss_mask, strict=True):
        row = ids[mask]
        log_p = model(row[None]).logits[0].double().log_softmax(-1)
        picked += [log_p[t - 1, row[t]] for t in range(len(row)) if wanted[t]]
    return torch.stack(picked)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_each_row_alone(tmp_path: Path, family: str) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path, family=family))
    found = Actor(model).sequence_log_probs(texts())
    expected = one_by_one(model, texts())
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


def test_gradients_are_those_of_the_plain_model(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64)
    weights = torch.arange(1.0, 1 + int(texts().loss_mask.sum()), dtype=torch.float64)
    expected = torch.autograd.grad((one_by_one(model, texts()) * weights).sum(), list(model.parameters()))
    found = torch.autograd.grad((Actor(model).sequence_log_probs(texts()) * weights).sum(), list(model.parameters()))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-11, rtol=1e-8)


def test_padding_and_company_change_nothing(tmp_path: Path) -> None:
    actor = Actor(load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64))
    with torch.no_grad():
        whole = actor.sequence_log_probs(texts())
        assert torch.allclose(actor.sequence_log_probs(texts(extra=3)), whole, atol=1e-12)
        parts = [actor.sequence_log_probs(texts(extra=2).select([row])) for row in range(len(LENGTHS))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-12, rtol=1e-10)


def test_a_head_that_is_not_plain_goes_by_the_models_own_rule() -> None:
    config = Gemma2Config(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.5,
        final_logit_softcapping=2.0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        found, expected = Actor(model).sequence_log_probs(texts()), one_by_one(model, texts())
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"]])
def test_adapters_are_applied_in_the_head_too(tmp_path: Path, targets: list[str] | str) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64)
    policy = make_policy(model, lora=Lora(r=4, alpha=8, target_modules=targets))
    with torch.no_grad():
        for name, parameter in policy.actor.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        found = policy.actor.sequence_log_probs(texts())
        torch.testing.assert_close(found, one_by_one(policy.actor.model, texts()), atol=1e-11, rtol=1e-9)
        with policy.actor.model.disable_adapter():
            assert not torch.allclose(policy.actor.sequence_log_probs(texts()), found, atol=1e-3)


def test_a_part_is_cut_to_its_own_width() -> None:
    part = texts(extra=4).select([2, 0])
    assert part.ids.shape == (2, 5)
    assert len(part) == 2
    assert part.loss_mask.sum(dim=1).tolist() == [1, 4]
    assert torch.equal(part.to(torch.device("cpu")).ids, part.ids)
