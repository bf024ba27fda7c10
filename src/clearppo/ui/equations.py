"""The equations (1) to (9) of one token, as its run had them: in symbols, in recorded numbers, and whether they agree.

Pure functions of what the record says. The numbers are computed here from scratch, in Python's double precision, and
from as little as possible: KL from log-probs, advantages from rewards and values. So a disagreement with what was
recorded is a mistake somewhere, and is shown as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from clearppo.ui.earned import GROUPED, advantage
from clearppo.ui.judged import judged
from clearppo.ui.lines import Token, beyond, bounds
from clearppo.ui.loss import losses
from clearppo.ui.story import story

__all__ = ["GROUPED", "TOKEN_LISTS", "clipped", "explain"]

TOKEN_LISTS = (
    "token_ids",
    "tokens",
    "log_probs",
    "sampler_log_probs",
    "ref_log_probs",
    "kls",
    "rewards",
    "values",
    "returns",
    "advantages",
)
"""The record's columns with one value for each token."""


def explain(
    meta: Mapping[str, Any], answer: Mapping[str, Any], index: int, group: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """All that can be said of a token: {"token": its numbers, "equations": [...], "story": {"en", "zh"}}.

    `meta` and `answer` as the record has them; `group` the scalar columns of the answers to the same prompt that an
    estimator without a critic compared, this one among them.
    """
    token = Token(meta, answer, index, group)
    lines, process = judged(token)
    more, earned = advantage(token, process)
    lines += more
    if answer["learned"]:
        lines += losses(token)
    numbers = {name: token.at(name) for name in TOKEN_LISTS if name not in ("tokens", "token_ids")}
    about = {"index": index, "text": answer["tokens"][index], "id": answer["token_ids"][index], "last": token.last}
    return {
        "token": {**about, **numbers, "ratios": token.ratios},
        "equations": [{**asdict(line), "numbers": f"= {line.numbers}"} for line in lines],
        "story": story(token, earned),
    }


def clipped(
    meta: Mapping[str, Any], advantages: Sequence[float | None] | None, ratios: Sequence[Any] | None
) -> list[list[bool] | None]:
    """For each epoch, which tokens got no gradient because the clipped term was the larger loss; None: not read.

    Without --cliprange no token is.
    """
    low, high = bounds(meta["objective"])
    rows: list[list[bool] | None] = []
    for epoch in ratios or []:
        if epoch is None or advantages is None:
            rows.append(None)
        else:
            rows.append([beyond(r, a, low, high) for r, a in zip(epoch, advantages, strict=True)])
    return rows
