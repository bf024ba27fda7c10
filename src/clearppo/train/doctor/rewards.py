"""What the reward says of the policy's own answers, of the same answers cut and doubled, and of answers made up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pvariance

from clearppo.train.agreement import Agreement, quantile, spearman
from clearppo.train.doctor.asking import Replies, Source
from clearppo.train.doctor.finding import Finding, Problem, finding

LENGTH_LOOK, LENGTH_STOP = 0.5, 0.8
SURE = 1.645
"""Standard deviations: a correlation counts for what it is at least, with 95 % certainty."""
WITHIN = 0.01
"""Of the scores' variance so much lies between the answers to one prompt, at least."""
OFTEN = 0.75
"""To so many prompts a made-up answer must beat the best real one to be worth a look."""
NOISE = 0.5
SLOW = 1000.0
"""Milliseconds an answer."""


def reward_functions(sources: Sequence[Source]) -> Finding:
    """Reward functions and servers: whether they say the same twice, of each answer for itself, and how fast."""
    said, problems = [], []
    for source in sources:
        text = f"{source.name}: {source.milliseconds:.3g} ms an answer"
        text += f", none for {source.none:.0%}" if source.none else ""
        if source.by_order:
            problems.append(
                Problem(
                    "look",
                    f"What {source.name} gives an answer depends on its place in the batch, or its neighbours.",
                    "Score each answer for itself; --score_scaling brings scores to one scale.",
                )
            )
        elif source.agreement is not None:
            text += f", twice asked {source.agreement:+.2f} correlated"
            problems.append(
                Problem(
                    "stop" if source.agreement < NOISE else "look",
                    f"{source.name} gives one answer different scores: what differs is noise, and is learned from.",
                    "Take the chance out of it (a seed, temperature 0), or average several calls.",
                )
            )
        if source.milliseconds > SLOW:
            reason = f"{source.name} takes {source.milliseconds / 1e3:.1f} seconds an answer."
            problems.append(Problem("look", reason, "Score the answers of a batch together, or side by side."))
        said.append(text)
    return finding("reward_functions", "; ".join(said), problems, "The same answers get the same scores, in any order.")


def reward_failed(replies: Replies, name: str, what: str = "the policy's own answers") -> Finding:
    """The finding where a source did not give scores: its own sentence."""
    return Finding(
        name=name,
        verdict="stop",
        measured=f"no scores for {what}",
        reason=str(replies.error),
        mend="The run would end there.",
    )


def too_few(replies: Replies) -> Finding:
    """The finding where hardly an answer has a score."""
    measured = f"{len(replies.finite)} of {len(replies.total or ())} answers have a score"
    reason = "Without scores there is nothing to learn from."
    mend = "Look at what the sources say of such answers: None, or null from a server, means not applicable."
    return finding("reward_finite", measured, [Problem("stop", reason, mend)], "")


def reward_finite(replies: Replies) -> Finding:
    """Whether every answer has a score; those that are not finite were refused before."""
    scores, missing = replies.finite, len(replies.total or ()) - len(replies.finite)
    measured = f"{len(scores)} answers scored {min(scores):.4g} to {max(scores):.4g}"
    problems = []
    if missing:
        measured += f", {missing} without a score"
        share = missing / (len(scores) + missing)
        reason = f"{share:.0%} of the answers have no score and are left out of learning (--reward_missing drop)."
        mend = "Look at what the sources say of them."
        problems += [Problem("look", reason, mend)] if share > 0.2 else []
    return finding("reward_finite", measured, problems, "All scores are finite numbers.")


def reward_spread(replies: Replies, pairs: Sequence[tuple[int, int]], same: int, others: Sequence[float]) -> Finding:
    """Whether the scores differ, and between the answers to one prompt too. `pairs` are rows of answers to one prompt,
    `same` of which have the same text; `others` are scores of answers that the policy did not give."""
    scores, total = replies.finite, replies.total or ()
    spread = math.sqrt(pvariance(scores))
    if constant(scores):
        varies = [score for score in others if not constant([score, scores[0]])]
        measured = f"all {len(scores)} answers scored {scores[0]:.4g}"
        if varies:
            reason = f"The policy's answers all get one score, though others get another ({varies[0]:.4g})."
            mend = "Start from a model that succeeds now and then, bring easier prompts, or give parts of the score."
            return finding("reward_spread", measured, [Problem("look", reason, mend)], "")
        reason = "The score is a constant: there is nothing to learn from it."
        mend = "Look at the reward function: which answer should get more? Of a reward model, see reward_tokenizer."
        return finding("reward_spread", measured, [Problem("stop", reason, mend)], "")
    known = [(total[i], total[j]) for i, j in pairs if math.isfinite(total[i]) and math.isfinite(total[j])]
    within = fmean((a - b) ** 2 / 2 for a, b in known) if known else math.nan
    share = min(within / (spread**2 * len(scores) / (len(scores) - 1)), 1.0)
    measured = f"standard deviation {spread:.4g}, {share:.0%} of the variance between answers to one prompt"
    problems = []
    if same == len(pairs) and pairs:
        reason = "Both answers to each prompt are the same text: the policy hardly varies, so it finds nothing better."
        problems.append(Problem("look", reason, "Use a higher --temperature."))
    elif share < WITHIN:
        reason = "The score depends on the prompt and hardly on the answer, so there is little to learn from it."
        problems.append(Problem("look", reason, "Look at what the reward reads: is it the answer?"))
    return finding("reward_spread", measured, problems, "Better and worse answers are told apart.")


def constant(scores: Sequence[float]) -> bool:
    """Whether scores differ by rounding at most."""
    return max(scores) - min(scores) <= 1e-6 * max(map(abs, scores))


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How the score goes with length. `over_answers` is the rank correlation over the `n` answers, None where their
    lengths or scores do not vary; `same_answer` the mean over `n_same` answers of the rank correlation over that answer
    cut to a half, whole, and written twice."""

    n: int
    over_answers: float | None
    n_same: int
    same_answer: float | None


def lengths(replies: Replies, sizes: Sequence[int], rows: Sequence[int], half: Replies, double: Replies) -> Lengths:
    """From the scores of the answers, their `sizes`, and those of the answers in `rows` cut to a half and
    doubled (which may be too long to be read)."""
    total = replies.total or ()
    known = [i for i, score in enumerate(total) if math.isfinite(score)]
    found: list[float] = []
    for place, row in enumerate(rows):
        before, after = ([part.total[place]] if part.total is not None else [] for part in (half, double))
        triple = [*before, total[row], *after]
        if len(triple) > 1 and all(map(math.isfinite, triple)):
            # an answer whose score does not move speaks against, as 0
            found.append(spearman([float(k) for k in range(len(triple))], triple) or 0.0)
    return Lengths(
        n=len(known),
        over_answers=spearman([float(sizes[i]) for i in known], [total[i] for i in known]),
        n_same=len(found),
        same_answer=fmean(found) if found else None,
    )


def reward_length(seen: Lengths) -> Finding:
    """Whether the score is the length under another name."""
    over, same = seen.over_answers, seen.same_answer
    parts = ["lengths do not vary" if over is None else f"rank correlation {over:+.2f} over {seen.n} answers"]
    parts += [] if same is None else [f"{same:+.2f} over the same answer cut to a half, whole and twice"]
    problems = []
    if over is not None and _at_least(over, seen.n) > LENGTH_LOOK and over > LENGTH_STOP:
        problems.append(
            Problem(
                "stop",
                "The score is little else than length: the policy will learn to write more, whatever it says.",
                "Train the reward model on pairs in which the longer answer loses as often, or take length out of the "
                "reward function.",
            )
        )
    elif (over is not None and over > LENGTH_LOOK and _at_least(over, seen.n) > 0) or (same or 0.0) > LENGTH_STOP:
        reason = "The score grows with length."
        mend = "Watch completions/mean_length, and compare answers of one length; see also clearppo reward's report."
        problems.append(Problem("look", reason, mend))
    elif over is not None and over < -LENGTH_STOP and _at_least(-over, seen.n) > LENGTH_LOOK:
        reason = "The shorter an answer, the better its score: the policy will learn to say little."
        problems.append(Problem("look", reason, "Compare answers of one length before you train."))
    return finding("reward_length", ", ".join(parts), problems, "Length alone earns little.")


def _at_least(correlation: float, n: int) -> float:
    """What a rank correlation over n is at least (Fisher's z; its deviation by Fieller et al. 1957)."""
    if n < 5:
        return -1.0
    return math.tanh(math.atanh(min(correlation, 1 - 1e-12)) - SURE * math.sqrt(1.06 / (n - 3)))


def reward_edge_cases(real: Sequence[float], best: Sequence[float], cases: Mapping[str, Replies]) -> Finding:
    """What answers get that no good model gives, beside the policy's `real` ones; `best` is the best of these to each
    prompt of the cases."""
    said, problems = [], []
    upper = quantile(real, 0.75)
    for name, replies in cases.items():
        if replies.error is not None:
            said.append(f"{name}: error")
            reason = f"For {name} there is no score, and the policy may write one any time: {replies.error}"
            problems.append(Problem("stop", reason, "Make the source give such answers a low score."))
            continue
        scores = replies.finite
        if not scores:
            said.append(f"{name}: none")
            continue
        said.append(f"{name} {median(scores):.3g}")
        beaten = [case > other for case, other in zip(replies.total or (), best, strict=True)]
        if median(scores) > upper and sum(beaten) >= OFTEN * len(beaten) and not constant([*real, *scores]):
            reason = f"{name.capitalize()} gets {median(scores):.3g}, more than three quarters of the real answers."
            problems.append(Problem("look", reason, "The policy will find that out: make the source give it less."))
    measured = f"real answers {median(real):.3g}; {', '.join(said)}"
    return finding("reward_edge_cases", measured, problems, "None of them is worth more than most real answers.")


def reward_pairs(found: Agreement, source: str) -> Finding:
    """How often the better answer of held-out comparisons gets the higher score."""
    measured = f"{found.value:.0%} of {found.n_pairs} pairs in order ({found.low:.0%} to {found.high:.0%})"
    problems = []
    if found.high < 0.5:
        reason = f"On {source} the score prefers the worse answers: it is upside down."
        problems.append(Problem("stop", reason, "Look at the sign of the weights, and at which column is `chosen`."))
    elif found.low <= 0.5:
        reason = f"On {source} the score does no better than chance, as far as these pairs can tell."
        mend = "Look at reward_tokenizer and at the judgement template, or give more pairs."
        problems.append(Problem("stop" if found.n_pairs >= 100 else "look", reason, mend))
    return finding("reward_pairs", measured, problems, "The order is better than chance.")
