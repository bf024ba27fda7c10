"""(3) and (4) of one token, by each of the estimators of advantages."""

import math
from typing import Any

from clearppo.ui.equation_words import NAMES, NOTES, Words
from clearppo.ui.lines import (
    Earned,
    Equation,
    Token,
    bracketed,
    compared,
    discounted,
    plain,
    times,
    whitened,
)

GROUPED = ("rloo", "grpo")
"""The estimators that compare an answer with others to its prompt."""
GRPO_EPS = 1e-4


def advantage(token: Token, process: float) -> tuple[list[Equation], Earned]:
    """The lines from the rewards to what the actor learns from, and what the advantage is made of."""
    score = token.answer["score"] if token.last and token.scored else 0.0
    parts: dict[str, Any] = {"process": process, "score": score, "reward": token.at("rewards") or 0.0}
    if not token.answer["learned"]:
        return [], Earned(**parts)
    estimator = token.meta["estimator"]
    if estimator in GROUPED:
        lines, found = _by_group(token)
    elif estimator == "reinforce++":
        lines, found = _by_return(token)
    elif token.lam == (1, 1):
        lines, found = _as_the_article(token)
    else:
        lines, found = _by_gae(token)
    value, white = found["plain"], token.meta["whiten_advantages"]
    found["final"] = value
    if white and value is not None:
        lines.append(whitened(value, white, token.at("advantages"), "advantage"))
        found["final"] = lines[-1].value
    return lines, Earned(**parts, **found)


def _recorded(token: Token) -> float | None:
    """What the plain advantage is held against: nothing, where it is whitened afterwards."""
    return None if token.meta["whiten_advantages"] else token.at("advantages")


def _return(token: Token) -> Equation:
    """(3), a step of its recursion."""
    gamma, returns, reward = token.meta["gamma"], token.returns, token.whole("rewards")[token.index]
    value, after = returns[token.index], 0.0 if token.last else returns[token.index + 1]
    front, factor = times("gamma", gamma)
    terms = [abs(x) for x in token.whole("rewards")[token.index :]]
    return compared(
        token.at("returns"), terms, number="3", name=NAMES["return"], value=value,
        symbols="return = reward" if token.last else f"return = reward + {front}next return",
        numbers=plain(reward) if token.last else f"{plain(reward)} + {factor}{bracketed(after)}",
        note=NOTES["last"] if token.last else None,
    )  # fmt: skip


def _as_the_article(token: Token) -> tuple[list[Equation], dict[str, Any]]:
    """lambda = 1: what came, less what was expected."""
    first, old = _return(token), token.at("values") or 0.0
    earned = first.value or 0.0
    value = earned - old
    terms = [abs(x) for x in token.whole("rewards")[token.index :]] + [old]
    second = compared(
        _recorded(token), terms, number="4", name=NAMES["advantage"], value=value,
        symbols="advantage = return - old_value", numbers=f"{plain(earned)} - {bracketed(old)}",
    )  # fmt: skip
    later = earned - token.whole("rewards")[token.index]
    return [first, second], {"later": later, "expected": old, "total": earned, "plain": value}


def _by_gae(token: Token) -> tuple[list[Equation], dict[str, Any]]:
    """delta, its recursion, and the critic's target."""
    meta, j, (lam, critic_lam) = token.meta, token.index, token.lam
    gamma, deltas, values = meta["gamma"], token.deltas, token.whole("values")
    advantages = discounted(deltas, gamma * lam)
    value, old, reward = advantages[j], values[j], token.whole("rewards")[j]
    following = 0.0 if token.last else values[j + 1]
    front, factor = times("gamma", gamma)
    delta = Equation(
        number="", name=NAMES["delta"], value=deltas[j],
        symbols=f"delta = reward + {front}next value - old_value",
        numbers=f"{plain(reward)} + {factor}{bracketed(following)} - {bracketed(old)}",
        note=NOTES["last"] if token.last else None,
    )  # fmt: skip
    after = 0.0 if token.last else advantages[j + 1]
    terms = [abs(r) + 2 * abs(v) for r, v in zip(token.whole("rewards")[j:], values[j:], strict=True)]
    recursion = compared(
        _recorded(token), terms, number="4", name=NAMES["advantage"], value=value,
        symbols=f"advantage = delta + {front}lam * next advantage",
        numbers=f"{plain(deltas[j])} + {factor}{plain(lam)} * {bracketed(after)}",
    )  # fmt: skip
    target = value if critic_lam == lam else discounted(deltas, gamma * critic_lam)[j]
    what = "advantage" if critic_lam == lam else f"advantage with lam {plain(critic_lam)}"
    third = compared(
        token.at("returns"), [*terms, old], number="3", name=NAMES["return"], value=target + old,
        symbols=f"return = {what} + old_value", numbers=f"{plain(target)} + {bracketed(old)}",
    )  # fmt: skip
    later = gamma * lam * after
    return [delta, recursion, third], {"later": later, "expected": old, "following": following, "plain": value}


def _by_return(token: Token) -> tuple[list[Equation], dict[str, Any]]:
    """REINFORCE++: the return itself."""
    first = _return(token)
    value = first.value or 0.0
    terms = [abs(x) for x in token.whole("rewards")[token.index :]]
    second = compared(
        _recorded(token), terms, number="4", name=NAMES["advantage"], value=value, symbols="advantage = return",
        numbers=plain(value),
    )  # fmt: skip
    later = value - token.whole("rewards")[token.index]
    return [first, second], {"later": later, "total": value, "plain": value}


def _by_group(token: Token) -> tuple[list[Equation], dict[str, Any]]:
    """RLOO and GRPO: the whole answer against the others to its prompt."""
    first = _return(token)
    totals, own = [row["reward"] for row in token.group], token.answer["reward"]
    if len(totals) < token.meta["group_size"]:
        recorded = token.at("advantages")
        white = token.meta["whiten_advantages"]
        value = recorded if recorded is None or not white else recorded / white["scale"] - white["shift"]
        line = Equation(
            number="4", name=NAMES["advantage"], symbols="advantage of the answer", numbers=plain(value), value=value,
            note=NOTES["group_cut"],
        )  # fmt: skip
        return [first, line], {"total": own, "plain": value}
    others = [total for row, total in zip(token.group, totals, strict=True) if row["row"] != token.answer["row"]]
    compare = _rloo if token.meta["estimator"] == "rloo" else _grpo
    value, expected, symbols, numbers, note = compare(own, others)
    line = compared(
        _recorded(token), [*map(abs, totals), own], number="4", name=NAMES["advantage"], value=value, symbols=symbols,
        numbers=numbers, note=note,
    )  # fmt: skip
    return [first, line], {"expected": expected, "total": own, "plain": value}


Comparison = tuple[float, float, str, str, Words]
"""Advantage, what was expected, symbols, numbers, note."""


def _rloo(own: float, others: list[float]) -> Comparison:
    mean = sum(others) / len(others)
    symbols = "advantage = reward of the answer - mean of the prompt's other answers"
    return own - mean, mean, symbols, f"{plain(own)} - {bracketed(mean)}", NOTES["same"]


def _grpo(own: float, others: list[float]) -> Comparison:
    totals = [own, *others]
    mean = sum(totals) / len(totals)
    std = math.sqrt(sum((total - mean) ** 2 for total in totals) / (len(totals) - 1))
    symbols = "advantage = (reward of the answer - mean) / (std + 1e-4), over the prompt's answers"
    if max(totals) == min(totals):
        return 0.0, mean, symbols, "0", NOTES["equal"]
    numbers = f"({plain(own)} - {bracketed(mean)}) / ({plain(std)} + 1e-4)"
    return (own - mean) / (std + GRPO_EPS), mean, symbols, numbers, NOTES["same"]
