"""Where something not finite begins: in what was handed to learning, in a weight, in a layer, or on the way back.

Slow and thorough: one more pass over a batch that was not learned from, without gradients and with the same weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clearppo.batch import Experience, Rollout, Sequences, portions
from clearppo.data.comparisons import ComparisonBatch
from clearppo.learning.faults import Place, first_cell, first_layer, first_weight
from clearppo.models.actor import Actor
from clearppo.models.layout import lay_out
from clearppo.models.policy import Policy
from clearppo.models.reward_model import RewardModel

OF_SAMPLING = ("old_log_probs", "old_values", "sampler_log_probs")
OF_FEEDBACK = ("ref_log_probs", "advantages", "returns")
UNKNOWN = Place(phase="learning", tensor="loss", words="every number on the way to it is finite")
OF_TEXTS = Place(phase="learning", tensor="loss/ptx_avg", words="the answers are; it comes from the texts of PPO-ptx")


def of_sampling(rollout: Rollout) -> Place | None:
    """What sampling handed on that is not finite."""
    cells = ((name, getattr(rollout, name)) for name in OF_SAMPLING)
    return next(filter(None, (first_cell("sampling", name, cell, mask=rollout.mask) for name, cell in cells)), None)


def of_answers(experience: Experience) -> Place | None:
    """What sampling and feedback handed to learning that is not finite."""
    mask, cells = experience.rollout.mask, ((name, getattr(experience, name)) for name in OF_FEEDBACK)
    of_feedback = (first_cell("feedback", name, cell, mask=mask) for name, cell in cells)
    return of_sampling(experience.rollout) or next(filter(None, of_feedback), None)


@torch.no_grad()
def examine_answers(
    policy: Policy,
    experience: Experience,
    of_gradient: Place | None = None,
    *,
    texts: bool = False,
    **bounds: int | None,
) -> Place:
    """The place in a mini-batch of PPO; with `texts` those of PPO-ptx were learned from too. `bounds` are those of
    `micro_batches`."""
    if found := of_answers(experience) or first_weight(policy):
        return found
    policy.eval()
    rollout = experience.rollout
    lengths = (rollout.prompts.mask.sum(dim=1) + rollout.mask.sum(dim=1)).tolist()
    for rows in _portions(lengths, **bounds):
        micro = experience.select(rows).rollout
        layout = lay_out(micro.prompts, micro.responses, micro.mask)
        with first_layer(policy) as layers:
            analysis = policy.read(layout, temperature=micro.temperature)
        cells = {"log_prob": analysis.log_probs, "value": analysis.values, "entropy": analysis.entropy}
        for name, cell in cells.items():
            if found := first_cell("learning", name, cell, rows, micro.mask):
                return _with_layer(found, layers)
    return of_gradient or (OF_TEXTS if texts else UNKNOWN)


@torch.no_grad()
def examine_texts(actor: Actor, batch: Sequences, of_gradient: Place | None = None, **bounds: int | None) -> Place:
    """The place in a batch of demonstrations; the token is the column in the whole text."""
    if found := first_weight(actor):
        return found
    actor.eval()
    for rows in _portions(batch.mask.sum(dim=1).tolist(), **bounds):
        micro = batch.select(rows)
        with first_layer(actor) as layers:
            log_probs = actor.sequence_log_probs(micro)
        table = torch.zeros(micro.ids.shape, dtype=log_probs.dtype, device=log_probs.device)
        table[micro.loss_mask] = log_probs
        if found := first_cell("learning", "log_prob", table, rows):
            return _with_layer(found, layers)
    return of_gradient or UNKNOWN


@torch.no_grad()
def examine_comparisons(
    model: RewardModel, batch: ComparisonBatch, of_gradient: Place | None = None, **bounds: int | None
) -> Place:
    """The place in a batch of comparisons; a row is an answer."""
    if found := first_cell("data", "margin", batch.margins) or first_weight(model):
        return found
    model.eval()
    batch = batch.to(model.device)
    lengths = batch.mask.sum(dim=1)
    for rows in _portions(lengths.tolist(), **bounds):
        index = torch.tensor(rows, device=batch.ids.device)
        width = int(lengths[index].max())
        with first_layer(model) as layers:
            scores: Tensor = model.scores(batch.ids[index, :width], lengths[index])
        if found := first_cell("learning", "score", scores, rows):
            return _with_layer(found, layers)
    return of_gradient or UNKNOWN


def _portions(
    lengths: Sequence[int], *, micro_batch_size: int | None = None, micro_batch_tokens: int | None = None
) -> Iterator[list[int]]:
    yield from portions(lengths, max_rows=micro_batch_size, max_tokens=micro_batch_tokens)


def _with_layer(place: Place, layers: Sequence[str]) -> Place:
    """The place with the layer that gave it, if one did."""
    if not layers:
        return place
    return replace(place, layer=layers[0], words=f"{place.words}, and the first layer to give such is {layers[0]}")
