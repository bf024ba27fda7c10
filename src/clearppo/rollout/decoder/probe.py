"""Whether our own decoder computes what the model itself computes: asked once, on a few tokens."""

import torch

from clearppo.models.actor import Actor
from clearppo.rollout.decoder.base import Decoder

LENGTHS = (7, 4)
STEPS = 2
# Parts of the largest logit. Rounding stays far below; a wrong layer, position or mask far above.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
COARSE = 0.08


@torch.no_grad()
def difference(decoder: Decoder, actor: Actor, *, work: torch.dtype) -> str | None:
    """How the decoder's logits differ from the model's full forward pass; None where they are the same to rounding.

    Two prompts of different lengths, the second one twice, and two steps; `work` is the precision of its linear layers.
    """
    size = actor.causal_lm.get_output_embeddings().weight.shape[0]
    total = max(LENGTHS) + STEPS
    rows = [[(5 + 7 * row + 3 * i) % size for i in range(length + STEPS)] for row, length in enumerate(LENGTHS)]
    decoder.begin(rows=3, length=total)
    found = [decoder.start([row[:-STEPS] for row in rows], [1, 2])]
    for step in range(STEPS):
        column = [row[length + step] for row, length in zip(rows, LENGTHS, strict=True)]
        found.append(decoder.step(torch.tensor([column[0], column[1], column[1]], device=actor.device)))
    logits = torch.stack([decoder.logits(hidden) for hidden in found])  # [1 + STEPS, 3, V]
    mixed = torch.autocast(actor.device.type, dtype=torch.bfloat16, enabled=actor.autocast or work == torch.bfloat16)
    worst, largest = 0.0, 1.0
    for place, row in ((0, rows[0]), (1, rows[1]), (2, rows[1])):
        with mixed:
            expected = actor.causal_lm(input_ids=torch.tensor([row], device=actor.device), use_cache=False).logits[0]
        expected = expected[-STEPS - 1 :].to(logits.dtype)
        worst = max(worst, float((logits[:, place] - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    if worst <= TOLERANCES.get(work, COARSE) * largest:
        return None
    return f"its logits would differ by {worst:.2g} from the model's (the largest is {largest:.2g})"
