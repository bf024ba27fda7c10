"""SFT's step: gradients by hand, and what they must not depend on."""

import math
from pathlib import Path

import pytest
import torch

from clearppo.batch import Sequences
from clearppo.engines.local import LocalEngine
from clearppo.errors import TrainingError
from clearppo.learning.optimiser import adamw
from clearppo.learning.sft import learn_demonstrations, measure_demonstrations
from clearppo.models.actor import Actor
from clearppo.models.build import Lora, make_actor
from clearppo.models.loading import load_causal_lm
from tests.tiny import tiny_causal_lm


def actor_at(tmp_path: Path, **more) -> Actor:
    return make_actor(load_causal_lm(tiny_causal_lm(tmp_path), dtype=torch.float64), **more)


def sequences(prompts=(3, 1, 5, 2, 4, 1), completions=(4, 6, 1, 3, 2, 9), *, pad: int = 1, extra: int = 0) -> Sequences:
    """Random texts whose completions are learned; `extra` columns of padding more than needed, filled with `pad`."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor(prompts) + torch.tensor(completions)
    width = int(lengths.max())
    ids = torch.randint(7, 100, (len(prompts), width), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, extra))
    columns = torch.arange(width + extra)
    mask = columns < lengths[:, None]
    return Sequences(
        ids=ids.masked_fill(~mask, pad), mask=mask, loss_mask=mask & (columns >= torch.tensor(prompts)[:, None])
    )


class Recorder(LocalEngine):
    """An engine that keeps the step's gradients and does not move the weights."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.gradients: list[torch.Tensor] = []

    def step(self, optimiser, parameters, max_norm) -> float:
        self.gradients = [parameter.grad.clone() for parameter in parameters]
        optimiser.zero_grad(set_to_none=True)
        return 1.0


def gradients(actor: Actor, batch: Sequences, micro_batch_size: int = 6) -> tuple[list[torch.Tensor], float]:
    engine = Recorder()
    stats = learn_demonstrations(
        actor, batch, engine, torch.optim.SGD(actor.parameters(), lr=0.0),
        micro_batch_size=micro_batch_size, max_grad_norm=None,
    )  # fmt: skip
    assert stats.counts["loss"] == int(batch.loss_mask.sum())
    return engine.gradients, stats.mean("loss")


def by_hand(actor: Actor, batch: Sequences) -> torch.Tensor:
    """Mean -log p of the learned tokens, row by row and token by token from the plain model; no clearppo.core."""
    total, n = torch.zeros((), dtype=torch.float64), 0
    for ids, mask, learned in zip(batch.ids, batch.mask, batch.loss_mask, strict=True):
        text = ids[mask]
        log_p = actor.causal_lm(text[None]).logits[0].log_softmax(-1)
        for t in range(1, len(text)):
            if learned[t]:
                total, n = total - log_p[t - 1, text[t]], n + 1
    return total / n


def test_the_gradient_is_that_of_the_mean_over_learned_tokens(tmp_path: Path) -> None:
    actor, batch = actor_at(tmp_path), sequences()
    loss = by_hand(actor, batch)
    loss.backward()
    expected = [parameter.grad.clone() for parameter in actor.parameters()]
    actor.zero_grad()
    found, measured = gradients(actor, batch)
    assert measured == pytest.approx(float(loss.detach()), rel=1e-12)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_the_micro_batch_size_changes_nothing(tmp_path: Path, size: int) -> None:
    actor, batch = actor_at(tmp_path), sequences()
    (whole, loss), (parts, summed) = gradients(actor, batch), gradients(actor, batch, size)
    assert summed == pytest.approx(loss, rel=1e-12)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    actor = actor_at(tmp_path)
    (bare, loss), (padded, same) = gradients(actor, sequences()), gradients(actor, sequences(pad=42, extra=7))
    assert same == pytest.approx(loss, rel=1e-12)
    for a, b in zip(padded, bare, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_a_row_without_learned_tokens_counts_for_nothing(tmp_path: Path) -> None:
    actor, batch = actor_at(tmp_path), sequences()
    loss_mask = batch.loss_mask.clone()
    loss_mask[0] = False
    without = Sequences(ids=batch.ids, mask=batch.mask, loss_mask=loss_mask)
    (five, loss), (six, same) = gradients(actor, batch.select([1, 2, 3, 4, 5]), 2), gradients(actor, without, 1)
    assert same == pytest.approx(loss, rel=1e-12)
    for a, b in zip(six, five, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    nothing = Sequences(ids=batch.ids, mask=batch.mask, loss_mask=torch.zeros_like(batch.mask))
    with pytest.raises(ValueError, match="no token"):
        gradients(actor, nothing)


def test_checkpointed_activations_give_the_same_gradient(tmp_path: Path) -> None:
    plain, _ = gradients(actor_at(tmp_path / "a"), sequences())
    again, _ = gradients(actor_at(tmp_path / "b", gradient_checkpointing=True), sequences())
    for a, b in zip(again, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_with_lora_only_the_adapters_move(tmp_path: Path) -> None:
    actor = actor_at(tmp_path, lora=Lora(r=4, alpha=8, target_modules="all-linear"))
    before = {name: weight.clone() for name, weight in actor.named_parameters()}
    learning = [parameter for parameter in actor.parameters() if parameter.requires_grad]
    for _ in range(2):
        learn_demonstrations(
            actor, sequences(), LocalEngine(torch.device("cpu")), adamw(learning, learning_rate=1e-2),
            micro_batch_size=3, max_grad_norm=1.0,
        )  # fmt: skip
    moved = {name for name, weight in actor.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_a_memorisable_set_is_learned_by_heart_and_measured_so(tmp_path: Path) -> None:
    actor, batch = actor_at(tmp_path), sequences()
    engine, optimiser = LocalEngine(torch.device("cpu")), adamw(list(actor.parameters()), learning_rate=1e-2)
    start = measure_demonstrations(actor, batch, micro_batch_size=4)
    for _ in range(60):
        stats = learn_demonstrations(actor, batch, engine, optimiser, micro_batch_size=6, max_grad_norm=1.0)
    end = measure_demonstrations(actor, batch, micro_batch_size=2)
    assert start.mean("loss") > 3
    assert end.mean("loss") < 0.05
    assert start.counts == end.counts == {"loss": float(batch.loss_mask.sum())}
    assert "grad_norm" in stats.sums
    assert not actor.training


def test_a_step_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    actor = actor_at(tmp_path)
    with torch.no_grad():
        actor.causal_lm.get_input_embeddings().weight[8:].fill_(math.nan)
    before = [weight.clone() for weight in actor.parameters()]
    with pytest.raises(TrainingError, match="--learning_rate"):
        learn_demonstrations(
            actor, sequences(), LocalEngine(torch.device("cpu")), torch.optim.SGD(actor.parameters(), lr=1.0),
            micro_batch_size=6, max_grad_norm=1.0,
        )  # fmt: skip
    for now, then in zip(actor.parameters(), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
