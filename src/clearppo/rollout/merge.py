"""One generation from the answers that several processes have written, each to its share of the prompts."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clearppo.batch import Division, FinishReason
from clearppo.rollout.sampler import Generation


def merged(
    part: Generation, rows: Sequence[int], count: int, division: Division, text: Callable[[list[int]], str]
) -> Generation:
    """The answers to all `count` prompts, the same on every process. `part` begins with the answers to these `rows`,
    this process's share; further ones were written for company. `text` makes a completion of an answer's tokens.

    Each process fills its rows of tables of zeros, which are summed: so no number changes.
    """
    n, device = len(rows), part.mask.device
    index = torch.tensor(rows, device=device, dtype=torch.long)
    about = torch.zeros(count, 2, dtype=torch.long, device=device)
    about[index, 0] = part.mask[:n].sum(dim=1)
    about[index, 1] = torch.tensor([reason == "stop" for reason in part.finish_reasons[:n]], device=device).long()
    about = division.sum(about)
    lengths, stopped = about[:, 0], about[:, 1].tolist()
    width = int(lengths.max())

    def table(values: Tensor) -> Tensor:
        out = torch.zeros(count, width, dtype=values.dtype, device=device)
        columns = min(width, values.shape[1])
        out[index, :columns] = values[:n, :columns]
        return division.sum(out)

    responses = table(part.responses)
    of_each = zip(responses.tolist(), lengths.tolist(), strict=True)
    reasons: list[FinishReason] = ["stop" if ended else "length" for ended in stopped]
    return replace(
        part,
        responses=responses,
        mask=torch.arange(width, device=device) < lengths.unsqueeze(1),
        log_probs=table(part.log_probs),
        policy_log_probs=None if part.policy_log_probs is None else table(part.policy_log_probs),
        values=None if part.values is None else table(part.values),
        finish_reasons=tuple(reasons),
        completions=tuple(text(tokens[:length]) for tokens, length in of_each),
    )
