"""Rules about what the policy answers: how far it has gone, how sure it is, how long and how repetitive it is."""

from collections.abc import Iterator
from statistics import median

from clearppo.alarms.history import History
from clearppo.alarms.sight import Sight, said

KL, LENGTH, ENTROPY = "objective/kl", "completions/mean_length", "objective/entropy"
CUT, REPEATED, EXACT_ENTROPY = "completions/clipped_ratio", "completions/repetition", "policy/entropy_avg"
UNENDED_TOKENS, UNENDED_ANSWERS = 6000, 64
"""If none of so many tokens, in so many answers, has ended one, none will."""


def kl_runaway(history: History) -> Iterator[Sight]:
    """Against the start model's own entropy, which is what an answer that has become certain costs."""
    value, length = history.now(KL), history.now(LENGTH)
    of_start, its_length = history.first(ENTROPY), history.first(LENGTH)
    if value is None or length is None or of_start is None or not its_length:
        return
    entropy = of_start / its_length * length
    share = 0.5 if history.now("objective/kl_coef") else 1.0
    limit = max(share * entropy, 5.0, 2 * (history.facts.kl_target or 0.0))
    yield Sight(
        holds=value > limit,
        metric=KL,
        value=value,
        limit=limit,
        start=entropy,
        margin=0.2 * limit,
        sentence=f"the KL from the reference is {said(value)} nats an answer, and the whole entropy of such an answer "
        f"was {said(entropy)} nats at the start",
    )


def entropy_collapse(history: History) -> Iterator[Sight]:
    """A policy that has become nearly certain explores no more."""
    value, start = history.now(EXACT_ENTROPY), history.first(EXACT_ENTROPY)
    if value is None or start is None or start < 0.05:
        return
    yield Sight(
        holds=value < 0.4 * start,
        metric=EXACT_ENTROPY,
        value=value,
        limit=0.4 * start,
        margin=0.1 * start,
        start=start,
        sentence=f"the next token's entropy has fallen from {said(start)} to {said(value)} nats",
    )


def length_growth(history: History) -> Iterator[Sight]:
    """The middle one of five batches, for a batch's mean length is noisy."""
    start, lately = history.start(LENGTH), history.last(LENGTH, 5)
    if history.now(LENGTH) is None or start is None or len(lately) < 5:
        return
    value, limit = median(lately), max(1.5 * start, start + 10)
    yield Sight(
        holds=value > limit,
        metric=LENGTH,
        value=value,
        limit=limit,
        start=start,
        margin=0.2 * (limit - start),
        sentence=f"answers have grown from {said(start)} to {said(value)} tokens",
    )


def length_shrink(history: History) -> Iterator[Sight]:
    """As length_growth, the other way."""
    start, lately = history.start(LENGTH), history.last(LENGTH, 5)
    if history.now(LENGTH) is None or start is None or len(lately) < 5:
        return
    value, limit = median(lately), min(0.5 * start, start - 4)
    yield Sight(
        holds=value < limit,
        metric=LENGTH,
        value=value,
        limit=limit,
        start=start,
        margin=0.2 * (start - limit),
        sentence=f"answers have shrunk from {said(start)} to {said(value)} tokens",
    )


def repetition(history: History) -> Iterator[Sight]:
    """A policy that has found one phrase which pleases."""
    value, start = history.now(REPEATED), history.first(REPEATED)
    if value is None or start is None:
        return
    limit = max(3 * start, start + 0.15)
    yield Sight(
        holds=value > limit,
        metric=REPEATED,
        value=value,
        limit=limit,
        start=start,
        margin=0.2 * (limit - start),
        sentence=f"{value:.0%} of the answers' 4-grams repeat an earlier one of the same answer; {start:.0%} at the "
        "start",
    )


def never_ending(history: History) -> Iterator[Sight]:
    """Either none has ended in a great many tokens, or answers that used to end do so no more."""
    value, facts = history.now(CUT), history.facts
    if value is None or not facts.endings:
        return
    answers, tokens, iterations = _unended(history)
    none = tokens >= UNENDED_TOKENS and answers >= UNENDED_ANSWERS
    start, lately = history.start(CUT), history.last(CUT, 5)
    known = start is not None and len(lately) == 5
    limit = 1.0 if start is None or none else max(0.9, start + 0.3)
    stopped = known and median(lately) >= limit
    sentence = f"{value:.0%} of the answers are cut at {facts.response_length} tokens; {start or 0:.0%} at the start"
    if none:
        last = "the first iteration" if iterations == 1 else f"the last {iterations} iterations"
        sentence = f"none of the {answers} answers of {last} has ended: each was cut at {facts.response_length} tokens"
    yield Sight(
        holds=none or stopped,
        metric=CUT,
        value=value if none or not known else median(lately),
        limit=limit,
        start=start,
        margin=0.05,
        sentence=sentence,
        patience=1 if none else None,
    )


def _unended(history: History) -> tuple[int, float, int]:
    """Answers, tokens and iterations since one has ended; counted until there are enough."""
    answers, tokens, iterations = 0, 0.0, 0
    for row in reversed(history.rows):
        if CUT not in row:  # an iteration that was left out
            continue
        if row[CUT] < 1 or (tokens >= UNENDED_TOKENS and answers >= UNENDED_ANSWERS):
            break
        iterations += 1
        answers += history.facts.batch_size
        tokens += history.facts.batch_size * row.get(LENGTH, 0.0)
    return answers, tokens, iterations
