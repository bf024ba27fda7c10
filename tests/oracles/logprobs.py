"""One position at a time: `logits` is the list of the V logits there."""

import math


def log_softmax(logits, temperature=1.0):
    z = [a / temperature for a in logits]
    top = max(z)
    log_total = math.log(math.fsum(math.exp(a - top) for a in z))
    return [(a - top) - log_total for a in z]


def log_prob(logits, token, temperature=1.0):
    return log_softmax(logits, temperature)[token]


def entropy(logits, temperature=1.0):
    return math.fsum(-math.exp(a) * a for a in log_softmax(logits, temperature) if a > -700)


def log_prob_gradient(logits, token, temperature=1.0):
    """d log p(token) / d logit_v = (1[v = token] - p_v) / temperature."""
    p = [math.exp(a) for a in log_softmax(logits, temperature)]
    return [((v == token) - p_v) / temperature for v, p_v in enumerate(p)]


def entropy_gradient(logits, temperature=1.0):
    """dH / d logit_v = -p_v (log p_v + H) / temperature."""
    h = entropy(logits, temperature)
    return [-math.exp(a) * (a + h) / temperature for a in log_softmax(logits, temperature)]
