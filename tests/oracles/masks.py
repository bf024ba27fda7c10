"""Sums over kept cells by loops over lists: x and mask are lists of rows."""

import math


def cells(x, mask):
    return [a for row, keeps in zip(x, mask, strict=True) for a, keep in zip(row, keeps, strict=True) if keep]


def mean(x, mask):
    a = cells(x, mask)
    return math.fsum(a) / len(a)


def variance(x, mask, unbiased=False):
    a = cells(x, mask)
    mu = math.fsum(a) / len(a)
    squares = math.fsum((v - mu) ** 2 for v in a)
    if unbiased:
        return squares / (len(a) - 1) if len(a) > 1 else math.nan
    return squares / len(a)


def whiten(x, mask, shift_mean=True, unbiased=False, eps=1e-8):
    mu, var = mean(x, mask), variance(x, mask, unbiased)
    result = []
    for row, keeps in zip(x, mask, strict=True):
        scaled = [(a - mu) / math.sqrt(var + eps) + (0.0 if shift_mean else mu) for a in row]
        result.append([a if keep else 0.0 for a, keep in zip(scaled, keeps, strict=True)])
    return result


def last_index(mask):
    return [max((t for t, keep in enumerate(row) if keep), default=-1) for row in mask]
