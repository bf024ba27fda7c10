"""(1) and (2) of one token: its KL, what became of the answer's score, and the reward."""

import math

from clearppo.ui.equation_words import NAMES, NOTES
from clearppo.ui.lines import Equation, Token, bracketed, compared, plain, times, whitened


def judged(token: Token) -> tuple[list[Equation], float]:
    """The lines up to the reward, and the process reward as it was recorded."""
    kl = token.at("kls")
    process = -token.meta["kl_coef"] * (kl or 0.0)
    lines = [_process_reward(token)]
    if token.last and token.scored:
        lines.append(_score(token))
    return lines + _reward(token, process), process


def _process_reward(token: Token) -> Equation:
    kl, old, ref = token.at("kls"), token.at("log_probs"), token.at("ref_log_probs")
    coef, estimator = token.meta["kl_coef"], token.meta["kl_estimator"]
    recorded = None if kl is None else -coef * kl
    name, number = NAMES["process_reward"], "1"
    if estimator == "full" or old is None or ref is None:
        return Equation(
            number=number, name=name, symbols="process_reward = -kl_coef * KL",
            numbers=f"-{plain(coef)} * {bracketed(kl)}", value=recorded, note=NOTES["full_kl"],
        )  # fmt: skip
    front, factor = times("kl_coef", coef)
    d, minus = f"{plain(old)} - {bracketed(ref)}", "old_log_prob - ref_log_prob"
    difference = old - ref
    match estimator:
        case "k1":
            value, sign = difference, ""
            symbols, numbers = "(ref_log_prob - old_log_prob)", f"({plain(ref)} - {bracketed(old)})"
        case "k2":
            value, sign = difference**2 / 2, "-"
            symbols, numbers = f"({minus})^2 / 2", f"({d})^2 / 2"
        case _:
            value, sign = max(math.expm1(min(-difference, 700.0)) + difference, 0.0), "-"
            symbols = f"(exp(ref_log_prob - old_log_prob) - 1 + {minus})"
            numbers = f"(exp({plain(ref)} - {bracketed(old)}) - 1 + {d})"
    if estimator == "k1" and not front:
        symbols, numbers = symbols[1:-1], numbers[1:-1]
    return compared(
        recorded, (coef * old, coef * ref, coef * value), number=number, name=name, value=-coef * value,
        symbols=f"process_reward = {sign}{front}{symbols}", numbers=f"{sign}{factor}{numbers}",
    )  # fmt: skip


def _score(token: Token) -> Equation:
    """What became of the raw score: scaled, then clipped, then fined."""
    meta, answer = token.meta, token.answer
    raw, recorded = answer["raw_score"], answer["score"]
    value, symbols, numbers, terms = raw, "raw_score", plain(raw), [raw]
    if scaling := meta["score_scaling"]:
        mean, std = scaling["mean"], scaling["std"]
        value, terms = (raw - mean) / std, [raw / std, mean / std]
        symbols, numbers = "(raw_score - mean) / std", f"({plain(raw)} - {bracketed(mean)}) / {plain(std)}"
    if (clip := meta["score_clip"]) is not None:
        value = min(max(value, -clip), clip)
        symbols, numbers = f"clip({symbols}, -c, c)", f"clip({numbers}, {plain(-clip)}, {plain(clip)})"
    if answer["finish_reason"] == "length":
        if (penalty := meta["missing_eos_penalty"]) is not None:
            value, terms = value - penalty, [*terms, penalty]
            symbols, numbers = f"{symbols} - missing_eos_penalty", f"{numbers} - {plain(penalty)}"
        elif (instead := meta["missing_eos_score"]) is not None:
            value, symbols, numbers, terms = instead, "missing_eos_score", plain(instead), [instead]
    return compared(
        recorded, terms, number="", name=NAMES["score"], value=value, symbols=f"score = {symbols}", numbers=numbers
    )


def _reward(token: Token, process: float) -> list[Equation]:
    recorded, white = token.at("rewards"), token.meta["whiten_rewards"]
    if not token.scored:
        return [
            Equation(
                number="2", name=NAMES["reward"], symbols="reward = 0", numbers="0", value=0.0, recorded=recorded,
                agrees=recorded == 0, note=NOTES["no_score"],
            )
        ]  # fmt: skip
    score = token.answer["score"] if token.last else 0.0
    symbols = "reward = process_reward" + (" + score" if token.last else "")
    numbers = plain(process) + (f" + {bracketed(score)}" if token.last else "")
    value = process + score
    line = compared(
        None if white else recorded, (process, score), number="2", name=NAMES["reward"], value=value, symbols=symbols,
        numbers=numbers,
    )  # fmt: skip
    return [line] if not white else [line, whitened(value, white, recorded, "reward")]
