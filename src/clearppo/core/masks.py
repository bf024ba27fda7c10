"""Sums, means, variances and whitening over the cells that count.

Every other module of core reads a masked tensor through `kept` and nothing else: what stands outside the mask (padding,
prompts, tool output, NaN) can then reach neither a value nor a gradient.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def widen(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in float32 at least: half precision is widened, float32 and float64 pass through unchanged.

    A sum of a thousand bfloat16 terms keeps two digits, and exp(log-ratio) in float16 overflows at 11.1 nats.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def kept(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` where `mask` is True, 0 elsewhere, in float32 at least.

    A selection, not a product: 0 * NaN is NaN, a selected 0 is 0. The gradient outside the mask is exactly 0 too.

    Raises ValueError if `mask` is not bool or its shape is not that of `x` (a broadcast mask is a silent bug).
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; it must be torch.bool, True counts. Use mask.bool().")
    if mask.shape != x.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and the masked tensor {tuple(x.shape)}; they must be equal. "
            "Use mask.expand_as(x) if every row shares one mask."
        )
    return torch.where(mask, widen(x), 0.0)


def masked_sum(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of `x` over the cells where `mask` is True; 0 for an empty mask.

    For the sum of each sequence, for example its KL in nats, write `kept(x, mask).sum(dim=1)`.
    """
    return kept(x, mask).sum()


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `x` over the cells where `mask` is True.

    The mean of one shard. Means of shards do not average to the mean of the whole: a loss takes `count` for that.

    Raises ValueError if the mask is empty.
    """
    return masked_sum(x, mask) / cells(mask)


def masked_var(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], unbiased: bool = False) -> Float[Tensor, ""]:
    """Variance of `x` over the n cells where `mask` is True: sum (x - mean)^2 / n, or / (n - 1) if `unbiased`.

    One cell has no unbiased variance: the result is then NaN, as torch.var's is.

    Raises ValueError if the mask is empty.
    """
    deviation = kept(kept(x, mask) - masked_mean(x, mask), mask)
    return deviation.square().sum() / (cells(mask) - int(unbiased))


def whiten(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    shift_mean: bool = True,
    unbiased: bool = False,
    eps: float | int = 1e-8,
) -> Float[Tensor, "*shape"]:
    """(x - mean) / sqrt(var + eps) over the cells where `mask` is True, 0 elsewhere; plus the mean if not `shift_mean`.

    `shift_mean=False` scales around the mean and keeps it: lm-human-preferences whitens rewards so.
    Source: lm-human-preferences core.py:336-341 (population variance); TRL's whitening is the `unbiased` one.
    The statistics are those of this tensor alone: on several processes each whitens its own part.

    Without a spread the result is 0 (the mean if not `shift_mean`); one cell with `unbiased` gives NaN.

    Raises ValueError if the mask is empty.
    """
    mean, factor = whitening(x, mask, unbiased, eps)
    # Through `kept` here too: a NaN selected away only at the end would return in the gradient of the product.
    scaled = (kept(x, mask) - mean) * factor
    return kept(scaled if shift_mean else scaled + mean, mask)


def whitening(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], unbiased: bool = False, eps: float | int = 1e-8
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What `whiten` takes off, the mean, and what it multiplies with, 1 / sqrt(var + eps).

    Raises ValueError if the mask is empty.
    """
    return masked_mean(x, mask), torch.rsqrt(masked_var(x, mask, unbiased) + eps)


def last_index(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Index of the last True cell of each row; -1 for a row without one (its last token stands before the first).

    Compare with it (`arange(T) == last_index(mask)[:, None]` is False everywhere for an empty row) rather than index by
    it: Python's x[-1] would wrap round to the last cell.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(dim=1)


def differing_span(
    left: Int[Tensor, "B T"],
    right: Int[Tensor, "B T"],
    left_lengths: Int[Tensor, " B"],
    right_lengths: Int[Tensor, " B"],
) -> Bool[Tensor, "B T"]:
    """True from the first token in which the two texts of a row differ to the end of the longer one.

    A text that has ended differs from one that goes on; what stands behind an end is not read. Two equal texts have
    their last position. Source: DeepSpeed-Chat, dschat/utils/model/reward_model.py:85-105.
    """
    positions = torch.arange(left.shape[1], device=left.device)
    in_left, in_right = positions < left_lengths.unsqueeze(1), positions < right_lengths.unsqueeze(1)
    differs = (in_left != in_right) | (in_left & in_right & (left != right))
    end = torch.maximum(left_lengths, right_lengths)
    first = torch.where(differs.any(dim=1), differs.int().argmax(dim=1), end - 1)
    return (positions >= first.unsqueeze(1)) & (positions < end.unsqueeze(1))


def cells(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, ""]:
    """How many cells of `mask` are True, for use as a denominator.

    Raises ValueError if there is none. The check waits for the device; a loss that is given `count` does not make it.
    """
    count = mask.sum()
    if count == 0:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} is empty; a mean needs one True cell at least. Drop the batch, or give "
            "the loss the global `count`, with which an empty shard adds 0."
        )
    return count
