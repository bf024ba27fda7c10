"""Prompts and responses as whole texts without gaps, read without an attention mask."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from clearppo.batch import Prompts
from clearppo.models.actor import Actor
from clearppo.models.build import make_policy
from clearppo.models.layout import lay_out
from clearppo.models.loading import load_causal_lm
from clearppo.models.network import Network
from tests.models.test_actor import LENGTHS, one_by_one, ragged
from tests.tiny import FAMILIES, tiny_causal_lm


def test_texts_by_hand() -> None:
    prompts = Prompts(
        ids=torch.tensor([[0, 0, 5], [6, 7, 8]]),
        mask=torch.tensor([[False, False, True], [True, True, True]]),
        texts=("", ""),
        columns={},
    )
    responses = torch.tensor([[11, 12, 0, 99], [13, 0, 0, 99]])  # what stands behind an end is not read
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    texts = lay_out(prompts, responses, mask)
    assert texts.ids.tolist() == [[5, 11, 0], [6, 7, 8]]  # without each row's last token
    assert texts.lengths.tolist() == [2, 3]
    assert texts.tokens.tolist() == [11, 12, 13]
    assert (texts.rows.tolist(), texts.steps.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert texts.cells.tolist() == [0, 1, 3 + 2]
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    spread = texts.spread(values)
    assert spread.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]
    (spread * torch.arange(8.0).view(2, 4)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 4]


def masks_made(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The attention masks that reach torch's attention from now on."""
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((kwargs.get("attn_mask"), kwargs.get("is_causal")))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    assert model.config._attn_implementation == "sdpa"
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_makes_no_mask(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole ragged batch is causal attention and nothing else; but Mistral, here, sees no more than 8 tokens."""
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, family=family)))
    prompts, responses, mask = ragged(*LENGTHS)
    seen = masks_made(policy.actor.causal_lm, monkeypatch)
    policy.analyze(prompts, responses, mask, temperature=1.0)
    assert len(seen) == 2  # one a layer
    if family != "mistral":
        assert seen == [(None, True)] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_behind_an_end_is_not_read(tmp_path: Path, family: str) -> None:
    actor = Actor(load_causal_lm(tiny_causal_lm(tmp_path, family=family), dtype=torch.float64))
    ids, lengths = torch.randint(5, 100, (3, 9)), torch.tensor([9, 4, 1])
    behind = torch.arange(9) >= lengths.unsqueeze(1)
    with torch.no_grad():
        states = actor.hidden_states(ids, lengths)
        other = actor.hidden_states(ids.masked_fill(behind, 7), lengths)
    torch.testing.assert_close(other[~behind], states[~behind], atol=1e-12, rtol=1e-10)


def test_gpt2_does_not_warn_of_texts_that_end_in_the_padding_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path, family="gpt2"))
    actor, pad = Actor(model), model.config.pad_token_id
    assert isinstance(pad, int)
    with torch.no_grad():
        actor.hidden_states(torch.tensor([[pad, 5, pad]]), torch.tensor([3]))
    assert "attention_mask" not in caplog.text


def both_ways(decoder: bool) -> BertLMHeadModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        initializer_range=0.3, is_decoder=decoder, pad_token_id=None,
    )  # fmt: skip
    return BertLMHeadModel(config).double().eval()


def test_a_model_that_looks_ahead_gets_the_mask() -> None:
    """Which it is shows on a probe."""
    ids, lengths = torch.randint(5, 100, (3, 9)), torch.tensor([9, 4, 1])
    for decoder in (True, False):
        model = both_ways(decoder)
        network = Network(model)
        assert network._needs_mask is not decoder
        with torch.no_grad():
            states = network.hidden_states(ids, lengths)
            for row, length in enumerate(lengths.tolist()):
                alone = model.bert(ids[row : row + 1, :length]).last_hidden_state[0]
                torch.testing.assert_close(states[row, :length], alone, atol=1e-10, rtol=1e-8)


def test_gradients_are_those_of_each_row_alone(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64)
    policy, (prompts, responses, mask) = make_policy(model), ragged(*LENGTHS, extra_left=2, extra_right=1)
    weights = torch.arange(1.0, 1 + int(mask.sum()), dtype=torch.float64)
    log_probs = policy.analyze(prompts, responses, mask, temperature=0.8).log_probs
    found = torch.autograd.grad((log_probs[mask] * weights).sum(), list(model.parameters()))
    alone = torch.cat(one_by_one(model, prompts, responses, mask, 0.8))
    expected = torch.autograd.grad((alone * weights).sum(), list(model.parameters()))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-11, rtol=1e-8)
