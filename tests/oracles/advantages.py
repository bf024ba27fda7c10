"""Returns and advantages as explicit sums over the unpadded sequence: each row is cut to its kept tokens first."""

import math


def _unpadded(row, keeps):
    return [a for a, keep in zip(row, keeps, strict=True) if keep]


def _padded(sequence, keeps):
    rest = iter(sequence)
    return [next(rest) if keep else 0.0 for keep in keeps]


def returns(rewards, mask, gamma=1.0):
    result = []
    for row, keeps in zip(rewards, mask, strict=True):
        r = _unpadded(row, keeps)
        sums = [math.fsum(gamma ** (k - j) * r[k] for k in range(j, len(r))) for j in range(len(r))]
        result.append(_padded(sums, keeps))
    return result


def gae(rewards, values, mask, gamma=1.0, lam=1.0):
    """advantage[j] = sum_l (gamma lam)^l delta[j + l], delta[j] = reward[j] + gamma value[j + 1] - value[j]."""
    all_advantages, all_returns = [], []
    for reward_row, value_row, keeps in zip(rewards, values, mask, strict=True):
        r, v = _unpadded(reward_row, keeps), [*_unpadded(value_row, keeps), 0.0]
        delta = [r[j] + gamma * v[j + 1] - v[j] for j in range(len(r))]
        a = [math.fsum((gamma * lam) ** (k - j) * delta[k] for k in range(j, len(r))) for j in range(len(r))]
        all_advantages.append(_padded(a, keeps))
        all_returns.append(_padded([a[j] + v[j] for j in range(len(r))], keeps))
    return all_advantages, all_returns


def decoupled(rewards, values, mask, gamma, lam, critic_lam):
    """The actor's advantages from one lambda, the critic's returns from another."""
    return gae(rewards, values, mask, gamma, lam)[0], gae(rewards, values, mask, gamma, critic_lam)[1]


def _groups(totals, size):
    return [totals[start : start + size] for start in range(0, len(totals), size)]


def rloo(totals, size):
    """Each total less the mean of the others in its group, which are listed one by one."""
    result = []
    for group in _groups(totals, size):
        for i, own in enumerate(group):
            others = [x for k, x in enumerate(group) if k != i]
            result.append(own - math.fsum(others) / len(others))
    return result


def grpo(totals, size, eps):
    result = []
    for group in _groups(totals, size):
        mean = math.fsum(group) / size
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in group) / (size - 1))
        result += [(x - mean) / (std + eps) for x in group]
    return result
