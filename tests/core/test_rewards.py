import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core import kl as core_kl
from clearppo.core import rewards as core
from tests.core.cases import close, masks, normals, quick, seeds
from tests.oracles import rewards as oracle

estimators = st.sampled_from(["k1", "k2", "k3"])


@quick
@given(masks(), seeds, st.sampled_from([0, 0.05, 1.0]), estimators)
def test_rewards_are_those_of_the_loops(mask, seed, kl_coef, estimator):
    old, ref, scores = normals(seed, mask.shape, mask.shape, (mask.shape[0],))
    expected = oracle.rewards(scores.tolist(), old.tolist(), ref.tolist(), mask.tolist(), kl_coef, estimator)
    close(core.rewards(scores, old, ref, mask, kl_coef, estimator), expected)
    close(core.rewards_from_kl(scores, core_kl.kl(old, ref, estimator), mask, kl_coef), expected)


@quick
@given(masks(), seeds)
def test_without_kl_each_row_holds_its_score_once(mask, seed):
    old, ref, scores = normals(seed, mask.shape, mask.shape, (mask.shape[0],))
    result = core.rewards(scores, old, ref, mask, kl_coef=0)
    assert result.sum(dim=1).tolist() == torch.where(mask.any(dim=1), scores, 0.0).tolist()
    assert ((result != 0).sum(dim=1) <= 1).all()


def test_the_article_by_hand():
    """(2): the score only on the last token; ref - old on all; a likelier token than the reference's costs."""
    result = core.rewards(
        scores=torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64),
        old_log_probs=torch.tensor([[-1.0, -2.0, math.nan], [math.nan] * 3, [-1.0, math.nan, -0.5]]).double(),
        ref_log_probs=torch.tensor([[-1.5, -1.0, math.nan], [math.nan] * 3, [-1.0, math.nan, -1.0]]).double(),
        mask=torch.tensor([[True, True, False], [False, False, False], [True, False, True]]),
    )
    close(result, [[-0.5, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.5]])


def test_the_score_of_an_empty_row_is_never_read():
    zeros, mask = torch.zeros(2, 2), torch.tensor([[False, False], [True, False]])
    result = core.rewards(torch.tensor([math.nan, 1.0]), zeros, zeros, mask)
    assert result.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_a_negative_coefficient_is_refused():
    zeros, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    for call in (
        lambda: core.rewards(torch.zeros(1), zeros, zeros, mask, kl_coef=-0.1),
        lambda: core.rewards_from_kl(torch.zeros(1), zeros, mask, kl_coef=math.nan),
    ):
        with pytest.raises(ValueError, match="kl_coef"):
            call()
