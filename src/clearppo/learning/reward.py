"""学习 for a reward model: from comparisons of answers to scores that agree with them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import Stats
from clearppo.core.losses import all_token_loss, best_of_n_loss, centring_loss, kwise_loss, preference_loss
from clearppo.core.masks import differing_span
from clearppo.data.comparisons import ComparisonBatch, ComparisonSet
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError, DataError
from clearppo.learning.optimiser import finite_step
from clearppo.models.reward_model import RewardModel, length_sorted

Loss = Literal["pairwise", "k-wise", "best-of-n", "all-token"]


@dataclass(frozen=True, kw_only=True)
class RewardObjective:
    """How comparisons become a loss: core.losses.preference_loss, kwise_loss, best_of_n_loss or all_token_loss.

    In `pairwise` and `all-token` every pair weighs the same, in `k-wise` and `best-of-n` every prompt. `center_coef`
    times core.losses.centring_loss is added, with the same weights. all-token reads a text that has ended at its last
    token, where DeepSpeed-Chat reads the model's numbers at padding.

    Raises ConfigError if `center_coef` is given with best-of-n or all-token.
    """

    loss: Loss = "k-wise"
    center_coef: float = 0.0

    def __post_init__(self) -> None:
        if self.center_coef and self.loss in ("best-of-n", "all-token"):
            raise ConfigError(
                f"center_coef = {self.center_coef} has no effect with rm_loss = {self.loss}, which compares no pairs "
                "of end scores. Use --rm_loss pairwise or k-wise, or leave --center_coef out."
            )

    def count(self, batch: ComparisonBatch) -> int:
        """What the loss is a mean over: pairs or comparisons."""
        return len(batch.pairs) if self.loss in ("pairwise", "all-token") else len(batch)


def check_comparisons(comparisons: ComparisonSet, objective: RewardObjective, source: str) -> None:
    """Raises DataError if the loss is best-of-n and a comparison does not say which answer is the one best."""
    if objective.loss != "best-of-n":
        return
    for row, comparison in enumerate(comparisons.comparisons, start=1):
        if comparison.choice is None:
            place = comparison.where or f"row {row}"
            raise DataError(
                f"{source} {place}: several answers share the first place, and rm_loss = best-of-n needs the one that "
                "was chosen. Use --rm_loss k-wise, or give the row a `choice`."
            )


def learn_comparisons(
    model: RewardModel,
    batch: ComparisonBatch,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    *,
    objective: RewardObjective,
    micro_batch_size: int,
    max_grad_norm: float | None = None,
) -> Stats:
    """One optimiser step on a batch of comparisons; at most `micro_batch_size` texts are in the model at once.

    Each text is read once, and the gradient does not depend on `micro_batch_size`. Only a prompt with more answers than
    that is read twice: first for its scores, then for their gradients.

    Stats: `loss`; over pairs `accuracy` (a tie is wrong), `margin` (better minus worse), `mean_chosen`,
    `mean_rejected`; over answers `mean_score`, `squared_score`; `grad_norm` before clipping.
    Raises TrainingError if the gradient is not finite; the step is then not taken.
    """
    stats, count = Stats.empty(), engine.sum(torch.tensor(objective.count(batch), device=engine.device))
    batch = batch.to(engine.device)
    model.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for part, _ in _parts(batch, micro_batch_size):
            if len(part.ids) <= micro_batch_size:
                outputs = _outputs(model, part, objective)
                engine.backward(comparison_loss(outputs, part, objective, count))
            else:
                outputs = _learn_in_pieces(model, part, engine, objective, count, micro_batch_size)
            stats += _measured(outputs.detach(), part, objective)
    finally:
        model.eval()
    learning = [parameter for _, parameter in model.trainable()]
    norm = finite_step(engine, optimiser, learning, max_grad_norm)
    return stats + Stats(sums={"grad_norm": norm}, counts={"grad_norm": 1.0})


@torch.no_grad()
def measure_comparisons(
    model: RewardModel, batch: ComparisonBatch, *, objective: RewardObjective, micro_batch_size: int
) -> tuple[Stats, Float[Tensor, " N"]]:
    """What `learn_comparisons` would say of these comparisons, but the gradient's norm, and each answer's score.

    The scores stand on the CPU in the order of the rows of `batch`.
    """
    model.eval()
    stats = Stats.empty()
    scores = torch.zeros(len(batch.ids), dtype=model.head.weight.dtype)
    for part, rows in _parts(batch, micro_batch_size):
        part = part.to(model.device)
        outputs = _in_pieces(model, part, objective, micro_batch_size)
        stats += _measured(outputs, part, objective)
        scores[torch.tensor(rows)] = _end_scores(outputs, _lengths(part)).cpu()
    return stats, scores


@torch.no_grad()
def score_texts(model: RewardModel, ids: Sequence[Sequence[int]], *, micro_batch_size: int) -> Float[Tensor, " N"]:
    """The score of each text of token ids, on the CPU, in their order; similar lengths are read together."""
    model.eval()
    scores = torch.zeros(len(ids), dtype=model.head.weight.dtype)
    for rows, texts, lengths in length_sorted(ids, micro_batch_size, model.device):
        scores[torch.tensor(rows)] = model.scores(texts, lengths).cpu()
    return scores


def comparison_loss(outputs: Tensor, part: ComparisonBatch, objective: RewardObjective, count: Tensor | int) -> Tensor:
    """The loss of a part of a batch over the whole batch's `count`; `outputs` are the scores [N], or [N, L] of all
    tokens for all-token."""
    better, worse = part.pairs.unbind(dim=1)
    match objective.loss:
        case "all-token":
            lengths = _lengths(part)
            mask = differing_span(part.ids[better], part.ids[worse], lengths[better], lengths[worse])
            held = _held(outputs, lengths)
            return all_token_loss(held[better], held[worse], mask, part.margins, count)
        case "best-of-n":
            return best_of_n_loss(*_choices(outputs, part), count=count)
        case "k-wise":
            loss = kwise_loss(outputs[better], outputs[worse], part.pair_comparison, part.margins, count)
        case "pairwise":
            loss = preference_loss(outputs[better], outputs[worse], part.margins, count)
    if objective.center_coef:
        prompt = part.pair_comparison if objective.loss == "k-wise" else None
        loss = loss + objective.center_coef * centring_loss(outputs[better], outputs[worse], prompt, count)
    return loss


def _choices(scores: Tensor, part: ComparisonBatch) -> tuple[Tensor, Tensor]:
    """[C, n] scores, n the largest number of answers, -inf where a comparison has fewer; and each one's choice."""
    _, n_answers = torch.unique_consecutive(part.comparison, return_counts=True)
    first = n_answers.cumsum(0) - n_answers
    columns = torch.arange(int(n_answers.max()), device=scores.device)
    there = columns < n_answers.unsqueeze(1)
    index = torch.where(there, first.unsqueeze(1) + columns, 0)
    return scores[index].masked_fill(~there, -math.inf), part.choice - first


def _outputs(model: RewardModel, part: ComparisonBatch, objective: RewardObjective) -> Tensor:
    read = model.token_scores if objective.loss == "all-token" else model.scores
    return read(part.ids, _lengths(part))


def _pieces(part: ComparisonBatch, size: int) -> Iterator[tuple[slice, int]]:
    """At most `size` rows at a time, and the width that they need."""
    lengths = _lengths(part).tolist()
    for start in range(0, len(lengths), size):
        yield slice(start, start + size), max(lengths[start : start + size])


def _in_pieces(model: RewardModel, part: ComparisonBatch, objective: RewardObjective, size: int) -> Tensor:
    """`_outputs` without gradients, at most `size` texts in the model at once."""
    if len(part.ids) <= size:
        return _outputs(model, part, objective)
    lengths = _lengths(part)
    if objective.loss != "all-token":
        return torch.cat([model.scores(part.ids[rows, :width], lengths[rows]) for rows, width in _pieces(part, size)])
    whole = torch.zeros(part.ids.shape, dtype=model.head.weight.dtype, device=part.ids.device)
    for rows, width in _pieces(part, size):
        whole[rows, :width] = model.token_scores(part.ids[rows, :width], lengths[rows])
    return whole


def _learn_in_pieces(
    model: RewardModel, part: ComparisonBatch, engine: Engine, objective: RewardObjective, count: Tensor, size: int
) -> Tensor:
    """The gradient of a prompt with more answers than may be in the model at once, by the chain rule:
    d loss / d weights = sum over texts of (d loss / d score) * (d score / d weights). Returns the scores."""
    with torch.no_grad():
        outputs = _in_pieces(model, part, objective, size)
    outputs.requires_grad_(True)
    (slopes,) = torch.autograd.grad(comparison_loss(outputs, part, objective, count), outputs)
    lengths = _lengths(part)
    for rows, width in _pieces(part, size):
        if objective.loss == "all-token":
            again = model.token_scores(part.ids[rows, :width], lengths[rows])
            engine.backward((again * slopes[rows, :width]).sum())
        else:
            engine.backward((model.scores(part.ids[rows, :width], lengths[rows]) * slopes[rows]).sum())
    return outputs


def _measured(outputs: Tensor, part: ComparisonBatch, objective: RewardObjective) -> Stats:
    scores = _end_scores(outputs, _lengths(part))
    chosen, rejected = scores[part.pairs[:, 0]], scores[part.pairs[:, 1]]
    of_pairs = {
        "accuracy": (chosen > rejected).sum(),
        "margin": (chosen - rejected).sum(),
        "mean_chosen": chosen.sum(),
        "mean_rejected": rejected.sum(),
    }
    of_answers = {"mean_score": scores.sum(), "squared_score": scores.square().sum()}
    sums = {"loss": comparison_loss(outputs, part, objective, 1), **of_pairs, **of_answers}
    counts = {
        "loss": float(objective.count(part)),
        **dict.fromkeys(of_pairs, float(len(part.pairs))),
        **dict.fromkeys(of_answers, float(len(scores))),
    }
    return Stats(sums={name: float(value) for name, value in sums.items()}, counts=counts)


def _lengths(part: ComparisonBatch) -> Tensor:
    return part.mask.sum(dim=1)


def _end_scores(outputs: Tensor, lengths: Tensor) -> Tensor:
    return outputs if outputs.ndim == 1 else outputs.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)


def _held(outputs: Tensor, lengths: Tensor) -> Tensor:
    """Token scores [N, L] with each text's last one repeated behind its end: what has ended keeps its score."""
    positions = torch.arange(outputs.shape[1], device=outputs.device)
    return outputs.gather(1, torch.minimum(positions, lengths.unsqueeze(1) - 1))


def _parts(batch: ComparisonBatch, size: int) -> Iterator[tuple[ComparisonBatch, list[int]]]:
    """Whole comparisons, similar lengths together, as many as make `size` texts but one at least; with their rows."""
    lengths = _lengths(batch).tolist()
    rows: list[list[int]] = [[] for _ in range(len(batch))]
    for row, comparison in enumerate(batch.comparison.tolist()):
        rows[comparison].append(row)
    order = sorted(range(len(batch)), key=lambda c: max(lengths[row] for row in rows[c]), reverse=True)
    taken: list[int] = []
    for comparison in order:
        if taken and sum(len(rows[c]) for c in taken) + len(rows[comparison]) > size:
            yield _select(batch, taken, rows, lengths)
            taken = []
        taken.append(comparison)
    if taken:
        yield _select(batch, taken, rows, lengths)


def _select(
    batch: ComparisonBatch, comparisons: list[int], rows: list[list[int]], lengths: list[int]
) -> tuple[ComparisonBatch, list[int]]:
    """These comparisons as a batch of their own, the answers of each sorted by length, without unneeded padding."""
    device = batch.ids.device
    chosen_rows = [row for c in comparisons for row in sorted(rows[c], key=lambda row: lengths[row], reverse=True)]
    width = max(lengths[row] for row in chosen_rows)
    index = torch.tensor(chosen_rows, device=device)
    place = torch.full((len(batch.ids),), -1, device=device)
    place[index] = torch.arange(len(chosen_rows), device=device)
    number = torch.full((len(batch),), -1, device=device)
    number[torch.tensor(comparisons, device=device)] = torch.arange(len(comparisons), device=device)
    # Sorted by the new numbers, so that the pairs of one comparison stay adjacent and comparisons are in order.
    pair_rows = torch.nonzero(number[batch.pair_comparison] >= 0).squeeze(1)
    pair_rows = pair_rows[torch.argsort(number[batch.pair_comparison[pair_rows]], stable=True)]
    choice = batch.choice[torch.tensor(comparisons, device=device)]
    part = ComparisonBatch(
        ids=batch.ids[index, :width],
        mask=batch.mask[index, :width],
        comparison=number[batch.comparison[index]],
        pairs=place[batch.pairs[pair_rows]],
        pair_comparison=number[batch.pair_comparison[pair_rows]],
        margins=batch.margins[pair_rows],
        divergence=batch.divergence[pair_rows],
        choice=torch.where(choice >= 0, place[choice.clamp(min=0)], -1),
    )
    return part, chosen_rows
