"""Prompts and responses as whole texts, and where in them each response token is predicted."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearppo.batch import Prompts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """B texts, each a prompt and its response without a gap, padded on the right; and their N response tokens.

    The response tokens are counted row by row: n is token `steps[n]` of response `rows[n]`. It is predicted at the text
    token before it: `cells[n]` = rows[n] * L + column. The last token of a text is a condition for none and left out.
    """

    ids: Int[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    tokens: Int[Tensor, " N"]
    rows: Int[Tensor, " N"]
    steps: Int[Tensor, " N"]
    cells: Int[Tensor, " N"]
    width: int

    def spread(self, values: Float[Tensor, " N"]) -> Float[Tensor, "B T"]:
        """The tokens' values in the columns of the responses; cells without a token hold 0."""
        out = torch.zeros(self.ids.shape[0], self.width, dtype=values.dtype, device=values.device)
        return out.index_put((self.rows, self.steps), values)


def lay_out(prompts: Prompts, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Layout:
    """The texts of left-padded prompts and right-padded responses."""
    P = prompts.ids.shape[1]
    n_prompt, n_response = prompts.mask.sum(dim=1), mask.sum(dim=1)
    lengths = n_prompt + n_response - 1
    L = max(int(lengths.max()), 1)
    # A prompt ends in column P - 1 and its response begins in column P: taking out the gap on the left is all.
    columns = torch.arange(L, device=responses.device)
    padded = torch.cat([prompts.ids, responses], dim=1)
    source = (columns + (P - n_prompt).unsqueeze(1)).clamp(max=padded.shape[1] - 1)
    ids = padded.gather(1, source).masked_fill(columns >= lengths.unsqueeze(1), 0)
    rows, steps = mask.nonzero(as_tuple=True)
    return Layout(
        ids=ids,
        lengths=lengths,
        tokens=responses[rows, steps],
        rows=rows,
        steps=steps,
        cells=rows * L + n_prompt[rows] - 1 + steps,
        width=responses.shape[1],
    )
