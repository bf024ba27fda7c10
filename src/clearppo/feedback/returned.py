"""What a source of scores gave back: one finite number a row, or an error of one sentence that names the rows."""

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import Prompts, Rollout
from clearppo.errors import RewardError, ScoreError
from clearppo.feedback.scorer import rows_in_words


def require_json(columns: Mapping[str, Sequence[Any]], to: str, mend: str) -> None:
    """Raises RewardError for a column whose values JSON does not have, so that they cannot be carried `to` a source
    in another process; `mend` ends "Write it as text or numbers, or ..."."""
    for name, values in columns.items():
        try:
            json.dumps(values)
        except (TypeError, ValueError, RecursionError) as error:
            raise RewardError(
                f"the prompts' column `{name}` holds {in_words(values[0])}, which JSON cannot carry to {to}. "
                f"Write it as text or numbers, or {mend}."
            ) from error


def finite_scores(returned: Any, prompts: Prompts, who: str) -> Float[Tensor, " B"]:
    """A list, tuple, array or tensor with one number a row, as float32; None (not applicable) becomes NaN.

    `who` begins the messages ("reward function `f`"). Raises RewardError for another count, for what is no number, and
    for a number that is not finite.
    """
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, list | tuple):
        raise RewardError(
            f"{who} returned {in_words(returned)}; it must return a list with one number "
            f"for each of the {len(prompts)} completions."
        )
    if len(values) != len(prompts):
        raise RewardError(
            f"{who} returned {len(values)} scores for {len(prompts)} completions. Return one number for each."
        )
    scores = [_number(value) for value in values]
    if wrong := [row for row, score in enumerate(scores) if score is None]:
        raise RewardError(
            f"{who} returned {in_words(values[wrong[0]])} instead of a number for "
            f"{rows_in_words(wrong, prompts)}. Return numbers, or None where it does not apply."
        )
    total = torch.tensor([math.nan if score is None else score for score in scores], dtype=torch.float32)
    absent = torch.tensor([value is None for value in values])
    # In float32, where 1e300 is infinite too.
    if unusable := (~total.isfinite() & ~absent).nonzero().flatten().tolist():
        raise ScoreError(
            f"{who} returned {values[unusable[0]]} for {rows_in_words(unusable, prompts)}. "
            "Return finite numbers, or None where it does not apply."
        )
    return total


def given_completions(rollout: Rollout) -> list[Any]:
    """The answers as a source of scores is given them: strings, or messages where the prompt is messages."""
    pairs = zip(rollout.prompts.texts, rollout.completions, strict=True)
    return [text if isinstance(prompt, str) else [{"role": "assistant", "content": text}] for prompt, text in pairs]


def in_words(value: Any) -> str:
    """What a value is, with the beginning of it: "a str, 'abc'"."""
    if value is None:
        return "None"
    if isinstance(value, Tensor) or hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return f"a {type(value).__name__}, {text if len(text) <= 60 else text[:59] + '…'}"


def _number(value: Any) -> float | None:
    """A number (bool and 0-d arrays and tensors too) as a float, None as NaN; None if it is no number."""
    if value is None:
        return math.nan
    if hasattr(value, "tolist"):  # an element of an array or tensor
        value = value.tolist()
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
