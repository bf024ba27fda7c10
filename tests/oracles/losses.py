"""Losses and their gradients, token by token. Each returns (loss, gradient with respect to the live input)."""

import math


def _over_tokens(token, mask, count, *inputs):
    n = count if count is not None else sum(sum(row) for row in mask)
    losses, gradient = [], []
    for i, keeps in enumerate(mask):
        gradient.append([0.0] * len(keeps))
        for j, keep in enumerate(keeps):
            if keep:
                loss, slope = token(*(x[i][j] for x in inputs))
                losses.append(loss)
                gradient[i][j] = slope / n
    return math.fsum(losses) / n, gradient


def actor(advantages, old_log_probs, log_probs, mask, count=None, clip=None, clip_high=None, dual_clip=None):
    def token(a, old, new):
        ratio = math.exp(new - old)
        loss, slope = -a * ratio, -a * ratio
        if clip is not None:
            high = 1 + (clip if clip_high is None else clip_high)
            # The pessimistic one of the two: a good token may not become more likely than `high` times, a bad one not
            # less likely than 1 - clip times.
            if a > 0 and ratio > high:
                loss, slope = -a * high, 0.0
            if a < 0 and ratio < 1 - clip:
                loss, slope = -a * (1 - clip), 0.0
        if dual_clip is not None and a < 0 and ratio > dual_clip:
            loss, slope = -a * dual_clip, 0.0
        return loss, slope

    return _over_tokens(token, mask, count, advantages, old_log_probs, log_probs)


def importance_weights_of_answers(old_log_probs, sampler_log_probs, mask, cap):
    result = []
    for old_row, drawn_row, keeps in zip(old_log_probs, sampler_log_probs, mask, strict=True):
        ratio = 1.0
        for old, drawn, keep in zip(old_row, drawn_row, keeps, strict=True):
            ratio *= math.exp(old) / math.exp(drawn) if keep else 1.0
        result.append([min(ratio, cap) if keep else 0.0 for keep in keeps])
    return result


def importance_weights(old_log_probs, sampler_log_probs, mask, cap):
    return [
        [min(math.exp(old - drawn), cap) if keep else 0.0 for old, drawn, keep in zip(*row, strict=True)]
        for row in zip(old_log_probs, sampler_log_probs, mask, strict=True)
    ]


def actor_clipped(advantages, old_log_probs, log_probs, mask, clip, clip_high=None):
    high = clip if clip_high is None else clip_high
    result = []
    for i, keeps in enumerate(mask):
        row = []
        for j, keep in enumerate(keeps):
            a, ratio = advantages[i][j], math.exp(log_probs[i][j] - old_log_probs[i][j]) if keep else 1.0
            row.append(keep and ((a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - clip)))
        result.append(row)
    return result


def probability(advantages, log_probs, mask, count=None):
    def token(a, log_prob):
        return -a * math.exp(log_prob), -a * math.exp(log_prob)

    return _over_tokens(token, mask, count, advantages, log_probs)


def critic(returns, old_values, values, mask, count=None, clip=None):
    def token(target, old, value):
        far = 0.5 * (value - target) ** 2
        if clip is not None and abs(value - old) > clip:
            near = 0.5 * (old + math.copysign(clip, value - old) - target) ** 2
            if near > far:
                return near, 0.0
        return far, value - target

    return _over_tokens(token, mask, count, returns, old_values, values)


def critic_clipped(returns, old_values, values, mask, clip):
    result = []
    for i, keeps in enumerate(mask):
        row = []
        for j, keep in enumerate(keeps):
            target, old, value = returns[i][j], old_values[i][j], values[i][j]
            near = min(max(value, old - clip), old + clip)
            row.append(keep and abs(near - target) > abs(value - target))
        result.append(row)
    return result


def sft(log_probs, mask, count=None):
    return _over_tokens(lambda log_prob: (-log_prob, -1.0), mask, count, log_probs)


def preference(chosen, rejected, margin=None, count=None):
    """(loss, gradient with respect to `chosen`); that to `rejected` is its negative."""
    n = count if count is not None else len(chosen)
    x = [c - r - (margin[i] if margin else 0.0) for i, (c, r) in enumerate(zip(chosen, rejected, strict=True))]
    loss = math.fsum(math.log1p(math.exp(-d)) for d in x) / n
    return loss, [-1 / (1 + math.exp(d)) / n for d in x]


def best_of_n(scores, choice, count=None):
    n = count if count is not None else len(scores)
    losses, gradient = [], []
    for row, best in zip(scores, choice, strict=True):
        total = math.fsum(math.exp(s) for s in row)
        losses.append(math.log(total) - row[best])
        gradient.append([(math.exp(s) / total - (k == best)) / n for k, s in enumerate(row)])
    return math.fsum(losses) / n, gradient


def _pair(chosen, rejected, margin):
    """(cost, slope) of one pair: the slope is the derivative with respect to `chosen`."""
    d = chosen - rejected - margin
    return math.log1p(math.exp(-d)), -1 / (1 + math.exp(d))


def kwise(chosen, rejected, prompt, margin=None, count=None):
    """(loss, gradient with respect to `chosen`); that to `rejected` is its negative."""
    n = count if count is not None else len(set(prompt))
    losses, gradient = [], [0.0] * len(chosen)
    for this in set(prompt):
        rows = [i for i, other in enumerate(prompt) if other == this]
        for i in rows:
            cost, slope = _pair(chosen[i], rejected[i], margin[i] if margin else 0.0)
            losses.append(cost / len(rows))
            gradient[i] = slope / len(rows) / n
    return math.fsum(losses) / n, gradient


def centring(chosen, rejected, prompt=None, count=None):
    """(loss, gradient with respect to `chosen`), which is that to `rejected` as well."""
    prompt = prompt if prompt is not None else list(range(len(chosen)))
    n = count if count is not None else len(set(prompt))
    losses, gradient = [], []
    for i, (c, r) in enumerate(zip(chosen, rejected, strict=True)):
        of_prompt = prompt.count(prompt[i])
        losses.append((c + r) ** 2 / of_prompt)
        gradient.append(2 * (c + r) / of_prompt / n)
    return math.fsum(losses) / n, gradient


def differing_span(left, right):
    """[start, end) of two lists of tokens without padding: the first difference, and the longer one's end."""
    end = max(len(left), len(right))
    for t in range(end):
        if t >= len(left) or t >= len(right) or left[t] != right[t]:
            return t, end
    return end - 1, end


def all_token(chosen, rejected, spans, margin=None, count=None):
    """(loss, gradient with respect to `chosen`); that to `rejected` is its negative."""
    n = count if count is not None else len(chosen)
    losses, gradient = [], []
    for i, (start, end) in enumerate(spans):
        gradient.append([0.0] * len(chosen[i]))
        for t in range(start, end):
            cost, slope = _pair(chosen[i][t], rejected[i][t], margin[i] if margin else 0.0)
            losses.append(cost / (end - start))
            gradient[i][t] = slope / (end - start) / n
    return math.fsum(losses) / n, gradient
