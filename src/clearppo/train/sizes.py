"""How large a model is, in words."""

from collections.abc import Iterable

from torch import nn


def count(parameters: Iterable[nn.Parameter]) -> str:
    """ "134.5 M", or all digits of a number below 100,000."""
    total = sum(parameter.numel() for parameter in parameters)
    return f"{total / 1e6:,.1f} M" if total >= 1e5 else f"{total:,}"


def micro_batches(rows: int, tokens: int | None) -> str:
    """ "micro-batches of at most 16 rows, 4,096 tokens"."""
    bound = "" if tokens is None else f", {tokens:,} tokens"
    return f"micro-batches of at most {rows} rows{bound}"


def trainable(parameters: Iterable[nn.Parameter]) -> str:
    """The count of those that learn."""
    return count(parameter for parameter in parameters if parameter.requires_grad)
