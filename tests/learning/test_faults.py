"""What is not finite is not learned from, and the place where it began is named."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Experience, Sequences, Stats
from clearppo.engines.local import LocalEngine
from clearppo.errors import NumbersError
from clearppo.learning import Objective, Passes, learn
from clearppo.learning.faults import SKIPPED, STRICT, Fault, first_cell, guarded_step
from clearppo.learning.optimiser import adamw
from clearppo.learning.reward import RewardObjective, learn_comparisons
from clearppo.learning.sft import learn_demonstrations
from clearppo.models.policy import Policy
from tests.learning.test_learn import experience, policy_at
from tests.learning.test_reward import batch as comparisons
from tests.learning.test_reward import model_at

CPU = LocalEngine(torch.device("cpu"))


class Keeps:
    """A guard that lets everything go on."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.steps = 0

    def good(self) -> None:
        self.steps += 1

    def bad(self, fault: Fault) -> None:
        self.faults.append(fault)


def learned(policy: Policy, data: Experience, guard: Keeps, **passes: int | float | bool) -> Stats:
    optimiser = adamw(list(policy.actor.parameters()), list(policy.critic.parameters()), learning_rate=0.01)
    return learn(
        policy, data, CPU, optimiser, objective=Objective(clip=0.2, clip_value=0.2),
        passes=Passes(**{"epochs": 2, "num_mini_batches": 3, "micro_batch_size": 2, **passes}),
        generator=torch.Generator().manual_seed(0), guard=guard,
    )  # fmt: skip


def spoiled(data: Experience, name: str, row: int, token: int, value: float = math.nan) -> Experience:
    """The same with one cell that is not finite."""
    whole = data if name in ("advantages", "returns", "ref_log_probs") else data.rollout
    cells = getattr(whole, name).clone()
    cells[row, token] = value
    changed = replace(whole, **{name: cells})
    return changed if isinstance(changed, Experience) else replace(data, rollout=changed)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


@pytest.mark.parametrize(
    ("name", "phase"),
    [("old_log_probs", "sampling"), ("old_values", "sampling"), ("advantages", "feedback"), ("returns", "feedback")],
)
def test_the_mini_batch_with_the_bad_cell_is_left_out_and_the_others_are_learned_from(
    tmp_path: Path, name: str, phase: str
) -> None:
    policy, guard = policy_at(tmp_path), Keeps()
    data = spoiled(experience(), name, row=2, token=3)
    before = weights(policy)
    stats = learned(policy, data, guard)
    assert len(guard.faults) == stats.sums[SKIPPED] == 2  # one of three mini-batches, in both epochs
    assert guard.steps == 4
    assert not torch.equal(weights(policy), before)
    assert weights(policy).isfinite().all()
    assert all(math.isfinite(value) for value in stats.sums.values())
    for fault in guard.faults:
        place = fault.place
        assert (place.phase, place.tensor, place.token) == (phase, name, 3)
        assert isinstance(fault.batch, Experience)
        assert place.row is not None
        assert int(fault.batch.rollout.mask[place.row].sum()) == 6  # the row that it was
        assert f"{name} of row {place.row + 1}, token 4, is nan ({phase})" in fault.sentence
        assert "is not finite in epoch" in fault.sentence


def test_steps_that_are_left_out_change_nothing_of_those_that_are_taken(tmp_path: Path) -> None:
    """Adam's moments and the weights are those of a run that never saw the bad mini-batch."""
    data = experience()
    ends = []
    for spoil in (False, True):
        policy = policy_at(tmp_path / str(spoil))
        optimiser = adamw(list(policy.actor.parameters()), list(policy.critic.parameters()), learning_rate=0.01)
        for bad in (False, True, False):
            if bad and not spoil:
                continue
            part = data if not bad else replace(data, returns=data.returns * math.inf)
            learn(
                policy, part, CPU, optimiser, objective=Objective(), passes=Passes(epochs=1),
                generator=torch.Generator().manual_seed(0), guard=Keeps(),
            )  # fmt: skip
        ends.append(weights(policy))
    assert torch.equal(*ends)


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    policy, guard = policy_at(tmp_path), Keeps()
    mlp = policy.actor.causal_lm.model.layers[1].mlp.down_proj
    mlp.register_forward_hook(lambda _m, _i, out: torch.where(out == out.max(), math.inf, out))
    learned(policy, experience(), guard, epochs=1, num_mini_batches=1)
    (fault,) = guard.faults
    assert (fault.place.phase, fault.place.tensor) == ("learning", "log_prob")
    assert fault.place.layer is not None
    assert fault.place.layer.endswith("layers.1.mlp.down_proj")
    assert "the first layer to give such is" in fault.sentence


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    policy, guard = policy_at(tmp_path), Keeps()
    with torch.no_grad():
        policy.actor.causal_lm.model.layers[0].mlp.up_proj.weight[3, 2] = math.nan
    learned(policy, experience(), guard, epochs=1, num_mini_batches=1)
    (fault,) = guard.faults
    assert fault.place.layer is not None
    assert fault.place.layer.endswith("layers.0.mlp.up_proj.weight")
    assert fault.place.tensor == "weight"


def test_a_gradient_that_overflows_names_the_parameter_that_the_way_back_reaches_first(tmp_path: Path) -> None:
    policy, guard = policy_at(tmp_path), Keeps()
    names = [name for name, _ in policy.trainable()]
    for layer in policy.actor.causal_lm.model.layers:
        layer.self_attn.v_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    stats = learned(policy, experience(), guard, epochs=1, num_mini_batches=1)
    (fault,) = guard.faults
    assert fault.place.layer == [name for name in names if name.endswith("v_proj.weight")][-1]
    assert fault.sentence.startswith("the gradient is not finite in epoch 1 of this update: on the way back")
    assert f"(2 of {len(names)} parameters)" in fault.sentence
    assert stats.sums == {SKIPPED: 1.0}
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_a_log_prob_that_is_infinite_is_no_early_stop(tmp_path: Path) -> None:
    policy, guard = policy_at(tmp_path), Keeps()
    data = spoiled(experience(), "old_log_probs", row=1, token=0, value=-math.inf)  # ratios are cut, the loss is finite
    stats = learned(policy, data, guard, epochs=1, num_mini_batches=1, early_stop_kl=1.0)
    assert "early_stop" not in stats.sums
    assert (guard.faults[0].what, guard.faults[0].place.tensor) == ("the log-prob", "old_log_probs")


def test_without_another_guard_the_first_fault_ends_it(tmp_path: Path) -> None:
    policy = policy_at(tmp_path)
    before = weights(policy)
    with pytest.raises(NumbersError, match=r"the loss is not finite in epoch 1 .* The weights are those before it"):
        learned(policy, spoiled(experience(), "advantages", 0, 0), STRICT, num_mini_batches=1)  # type: ignore[arg-type]
    assert torch.equal(weights(policy), before)


def texts() -> Sequences:
    mask = torch.ones(3, 6, dtype=torch.bool)
    learns = mask.clone()
    learns[:, :2] = False
    return Sequences(ids=torch.randint(5, 90, (3, 6)), mask=mask, loss_mask=learns)


def test_demonstrations(tmp_path: Path) -> None:
    actor, guard = policy_at(tmp_path).actor, Keeps()
    optimiser = torch.optim.SGD(actor.parameters(), lr=0.1)
    before = weights(actor)
    hook = actor.causal_lm.model.norm.register_forward_hook(lambda _m, _i, out: out * math.inf)
    stats = learn_demonstrations(actor, texts(), CPU, optimiser, micro_batch_size=2, max_grad_norm=1.0, guard=guard)
    assert stats.sums == {SKIPPED: 1.0}
    assert torch.equal(weights(actor), before)
    place = guard.faults[0].place
    assert (place.tensor, place.row, place.token) == ("log_prob", 0, 2)
    assert place.layer is not None
    assert place.layer.endswith("norm")
    hook.remove()
    stats = learn_demonstrations(actor, texts(), CPU, optimiser, micro_batch_size=2, max_grad_norm=1.0, guard=guard)
    assert guard.steps == 1
    assert not torch.equal(weights(actor), before)


def test_comparisons(tmp_path: Path) -> None:
    model, guard = model_at(tmp_path), Keeps()
    optimiser, before = torch.optim.SGD(model.parameters(), lr=0.1), weights(model)
    hook = model.classifier.transformer.ln_f.register_forward_hook(lambda _m, _i, out: out / 0)
    more = {"objective": RewardObjective(), "micro_batch_size": 4, "guard": guard}
    assert learn_comparisons(model, comparisons(), CPU, optimiser, **more).sums == {SKIPPED: 1.0}
    assert torch.equal(weights(model), before)
    assert guard.faults[0].place.tensor == "score"
    hook.remove()
    learn_comparisons(model, comparisons(), CPU, optimiser, **more)
    assert guard.steps == 1


@pytest.mark.parametrize("name", ["loss/policy_avg", "loss", "policy/approxkl_avg"])
def test_what_is_measured_decides_before_the_step(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)

    def examine(what: str, _of_gradient: object) -> Fault:
        return Fault(what=what, place=first_cell("x", "y", torch.tensor([math.inf])), batch=texts())  # type: ignore[arg-type]

    def step(**sums: float) -> Stats:
        guard = Keeps()
        optimiser = torch.optim.SGD([parameter], lr=1.0)
        return guarded_step(
            CPU, optimiser, [("p", parameter)], None, seen=Stats(sums=sums, counts=dict.fromkeys(sums, 1.0)),
            guard=guard, examine=examine,
        )  # fmt: skip

    assert step(**{name: math.nan}).sums == {SKIPPED: 1.0}
    assert float(parameter.detach()) == 0.0
    parameter.grad = torch.ones(1)
    assert step(**{name: 1.0, "val/ratio_squared": math.inf}).sums["grad_norm"] == 1.0  # that is no loss
    assert float(parameter.detach()) == -1.0
