"""Moments of a list of scores, all of them at once: no merging of parts."""

import math


def mean(scores):
    return math.fsum(scores) / len(scores)


def std(scores, unbiased):
    squares = math.fsum((x - mean(scores)) ** 2 for x in scores)
    return math.sqrt(squares / (len(scores) - int(unbiased)))
