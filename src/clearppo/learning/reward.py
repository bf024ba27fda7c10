"""学习 for a reward model: from comparisons of answers to scores that agree with them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import ALONE, Division, Stats, portions
from clearppo.core.losses import all_token_loss, best_of_n_loss, centring_loss, kwise_loss, preference_loss
from clearppo.core.masks import differing_span
from clearppo.data.comparisons import ComparisonBatch, ComparisonSet
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError, DataError
from clearppo.learning.examine import examine_comparisons
from clearppo.learning.faults import STRICT, Fault, Guard, Place, guarded_step
from clearppo.models.reward_model import RewardModel, length_sorted

Loss = Literal["pairwise", "k-wise", "best-of-n", "all-token"]
Bounds = tuple[int, int | None]
"""At most so many texts in the model at once, and at most so many tokens with their padding."""
Pieces = list[tuple[Tensor, int]]
"""Rows of a part that are in the model at once, and the width that they need."""


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
    micro_batch_tokens: int | None = None,
    max_grad_norm: float | None = None,
    guard: Guard = STRICT,
) -> Stats:
    """One optimiser step on a batch of comparisons; at most `micro_batch_size` texts are in the model at once, of at
    most `micro_batch_tokens` tokens with their padding.

    Each text is read once, and the gradient does not depend on these bounds. Only a prompt with more answers than that
    is read twice: first for its scores, then for their gradients.

    Stats: `loss`; over pairs `accuracy` (a tie is wrong), `margin` (better minus worse), `mean_chosen`,
    `mean_rejected`; over answers `mean_score`, `squared_score`; `grad_norm` before clipping.
    If loss or gradient is not finite, no step is taken and `guard` decides; unless another is given, it raises
    NumbersError.
    """
    stats, count = Stats.empty(), torch.tensor(objective.count(batch), device=engine.device)
    batch, bounds = batch.to(engine.device), (micro_batch_size, micro_batch_tokens)
    model.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for part, rows in _parts(batch, bounds, engine):
            if not rows:  # for company
                outputs = _outputs(model, part, objective)
                engine.backward(0.0 * outputs.sum())
            elif len(pieces := _pieces(part, bounds)) == 1:
                outputs = _outputs(model, part, objective)
                engine.backward(comparison_loss(outputs, part, objective, count))
            else:
                outputs = _learn_in_pieces(model, part, engine, objective, count, pieces)
            stats += _measured(outputs.detach(), part, objective, counts=bool(rows))
        stats = stats.over(engine)
    finally:
        model.eval()
    settings = {"micro_batch_size": micro_batch_size, "micro_batch_tokens": micro_batch_tokens}

    def examine(what: str, of_gradient: Place | None) -> Fault:
        place = examine_comparisons(model, batch, of_gradient, **settings)
        return Fault(what=what, place=place, batch=batch, settings={**settings, "objective": asdict(objective)})

    named = model.trainable()
    return guarded_step(engine, optimiser, named, max_grad_norm, seen=stats, guard=guard, examine=examine)


@torch.no_grad()
def measure_comparisons(
    model: RewardModel,
    batch: ComparisonBatch,
    *,
    objective: RewardObjective,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    division: Division = ALONE,
) -> tuple[Stats, Float[Tensor, " N"]]:
    """What `learn_comparisons` would say of these comparisons, but the gradient's norm, and each answer's score.

    The scores stand on the CPU in the order of the rows of `batch`.
    """
    model.eval()
    stats, bounds = Stats.empty(), (micro_batch_size, micro_batch_tokens)
    scores = torch.zeros(len(batch.ids), dtype=model.head.weight.dtype)
    for part, rows in _parts(batch, bounds, division):
        part = part.to(model.device)
        outputs = _in_pieces(model, part, objective, _pieces(part, bounds))
        stats += _measured(outputs, part, objective, counts=bool(rows))
        scores[torch.tensor(rows, dtype=torch.long)] = _end_scores(outputs, _lengths(part)).cpu()[: len(rows)]
    return stats.over(division), division.sum(scores)


@torch.no_grad()
def score_texts(
    model: RewardModel,
    ids: Sequence[Sequence[int]],
    *,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    division: Division = ALONE,
) -> Float[Tensor, " N"]:
    """The score of each text of token ids, on the CPU, in their order; similar lengths are read together."""
    model.eval()
    scores = torch.zeros(len(ids), dtype=model.head.weight.dtype)
    for rows, texts, lengths in length_sorted(
        ids, micro_batch_size, model.device, tokens=micro_batch_tokens, division=division
    ):
        scores[torch.tensor(rows, dtype=torch.long)] = model.scores(texts, lengths).cpu()[: len(rows)]
    return division.sum(scores)


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


def _pieces(part: ComparisonBatch, bounds: Bounds) -> Pieces:
    """One piece, the whole, unless a single comparison has more or longer answers than may be in the model at once."""
    lengths = _lengths(part).tolist()
    groups = portions(lengths, max_rows=bounds[0], max_tokens=bounds[1])
    return [(torch.tensor(rows, device=part.ids.device), max(lengths[row] for row in rows)) for rows in groups]


def _in_pieces(model: RewardModel, part: ComparisonBatch, objective: RewardObjective, pieces: Pieces) -> Tensor:
    """`_outputs` without gradients, a piece at a time."""
    if len(pieces) == 1:
        return _outputs(model, part, objective)
    lengths = _lengths(part)
    shape = part.ids.shape if objective.loss == "all-token" else lengths.shape
    whole = torch.zeros(shape, dtype=model.head.weight.dtype, device=part.ids.device)
    for rows, width in pieces:
        if objective.loss == "all-token":
            whole[rows, :width] = model.token_scores(part.ids[rows, :width], lengths[rows])
        else:
            whole[rows] = model.scores(part.ids[rows, :width], lengths[rows])
    return whole


def _learn_in_pieces(
    model: RewardModel, part: ComparisonBatch, engine: Engine, objective: RewardObjective, count: Tensor, pieces: Pieces
) -> Tensor:
    """The gradient of a prompt with more answers than may be in the model at once, by the chain rule:
    d loss / d weights = sum over texts of (d loss / d score) * (d score / d weights). Returns the scores."""
    with torch.no_grad():
        outputs = _in_pieces(model, part, objective, pieces)
    outputs.requires_grad_(True)
    (slopes,) = torch.autograd.grad(comparison_loss(outputs, part, objective, count), outputs)
    lengths = _lengths(part)
    for rows, width in pieces:
        if objective.loss == "all-token":
            again = model.token_scores(part.ids[rows, :width], lengths[rows])
            engine.backward((again * slopes[rows, :width]).sum())
        else:
            engine.backward((model.scores(part.ids[rows, :width], lengths[rows]) * slopes[rows]).sum())
    return outputs


def _measured(outputs: Tensor, part: ComparisonBatch, objective: RewardObjective, *, counts: bool = True) -> Stats:
    """The numbers of a part; zeros under the same names if it does not count."""
    scores = _end_scores(outputs, _lengths(part))
    chosen, rejected = scores[part.pairs[:, 0]], scores[part.pairs[:, 1]]
    of_pairs = {
        "accuracy": (chosen > rejected).sum(),
        "margin": (chosen - rejected).sum(),
        "mean_chosen": chosen.sum(),
        "mean_rejected": rejected.sum(),
    }
    of_answers = {"mean_score": scores.sum(), "squared_score": scores.square().sum()}
    cells = {"loss": comparison_loss(outputs, part, objective, 1), **of_pairs, **of_answers}
    sums = torch.stack([cell.to(scores.dtype) for cell in cells.values()]).tolist()  # one transfer from the device
    over = {
        "loss": float(objective.count(part)),
        **dict.fromkeys(of_pairs, float(len(part.pairs))),
        **dict.fromkeys(of_answers, float(len(scores))),
    }
    if not counts:
        return Stats(sums=dict.fromkeys(cells, 0.0), counts=dict.fromkeys(over, 0.0))
    return Stats(sums=dict(zip(cells, sums, strict=True)), counts=over)


def _lengths(part: ComparisonBatch) -> Tensor:
    return part.mask.sum(dim=1)


def _end_scores(outputs: Tensor, lengths: Tensor) -> Tensor:
    return outputs if outputs.ndim == 1 else outputs.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)


def _held(outputs: Tensor, lengths: Tensor) -> Tensor:
    """Token scores [N, L] with each text's last one repeated behind its end: what has ended keeps its score."""
    positions = torch.arange(outputs.shape[1], device=outputs.device)
    return outputs.gather(1, torch.minimum(positions, lengths.unsqueeze(1) - 1))


def _parts(
    batch: ComparisonBatch, bounds: Bounds, division: Division = ALONE
) -> Iterator[tuple[ComparisonBatch, list[int]]]:
    """This process's comparisons, whole, similar lengths together, as many as the bounds allow but one at least; with
    their rows. A part without rows is read for company only."""
    lengths = _lengths(batch).tolist()
    rows: list[list[int]] = [[] for _ in range(len(batch))]
    for row, comparison in enumerate(batch.comparison.tolist()):
        rows[comparison].append(row)
    longest = [max(lengths[row] for row in members) for members in rows]
    costs = [len(members) * width for members, width in zip(rows, longest, strict=True)]
    groups: list[list[int]] = []
    for comparison in sorted(division.deal(costs), key=lambda c: longest[c], reverse=True):
        if groups and _fit([*groups[-1], comparison], rows, longest[groups[-1][0]], bounds):
            groups[-1].append(comparison)
        else:
            groups.append([comparison])
    idle = division.passes(len(groups)) - len(groups)  # asked before the first pass: all processes must be here
    for taken in groups:
        yield _select(batch, taken, rows, lengths)
    cheapest = min(range(len(batch)), key=lambda c: costs[c])
    for _ in range(idle):
        yield _select(batch, [cheapest], rows, lengths)[0], []


def _fit(comparisons: list[int], rows: list[list[int]], width: int, bounds: Bounds) -> bool:
    """Whether all answers of these comparisons may be in the model at once, padded to `width`."""
    n_texts, (size, tokens) = sum(len(rows[comparison]) for comparison in comparisons), bounds
    return n_texts <= size and (tokens is None or n_texts * width <= tokens)


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
