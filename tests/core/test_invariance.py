"""What must not matter to any masked function of core: the masked cells, the order of the rows, the padding, the split.

`FUNCTIONS` names each with its masked inputs [B, T]. Results are scalars, [B, T] tensors, or tuples of them.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core import advantages, losses, masks, rewards
from tests.core.cases import close, normals, poisoned, quick, same_bits, seeds, with_grad
from tests.core.cases import masks as random_masks


def scores(mask):
    """[B], a number of the row's own that no layout changes."""
    return 1.0 + mask.sum(dim=1).double()


LOSSES = {
    "actor_loss": (3, lambda m, n, a, o, p: losses.actor_loss(a, o, p, m, n)),
    "actor_loss clip": (3, lambda m, n, a, o, p: losses.actor_loss(a, o, p, m, n, clip=0.2)),
    "actor_loss high": (3, lambda m, n, a, o, p: losses.actor_loss(a, o, p, m, n, clip=0.2, clip_high=0.3)),
    "actor_loss dual": (3, lambda m, n, a, o, p: losses.actor_loss(a, o, p, m, n, clip=0.2, dual_clip=2.0)),
    "probability_loss": (2, lambda m, n, a, p: losses.probability_loss(a, p, m, n)),
    "critic_loss": (3, lambda m, n, r, o, v: losses.critic_loss(r, o, v, m, n)),
    "critic_loss clip": (3, lambda m, n, r, o, v: losses.critic_loss(r, o, v, m, n, clip=0.2)),
    "sft_loss": (1, lambda m, n, p: losses.sft_loss(p, m, n)),
}


def of_the_whole(loss):
    return lambda m, *x: loss(m, None, *x)


FUNCTIONS = {name: (inputs, of_the_whole(loss)) for name, (inputs, loss) in LOSSES.items()} | {
    "kept": (1, lambda m, x: masks.kept(x, m)),
    "masked_sum": (1, lambda m, x: masks.masked_sum(x, m)),
    "masked_mean": (1, lambda m, x: masks.masked_mean(x, m)),
    "masked_var": (1, lambda m, x: masks.masked_var(x, m)),
    "masked_var unbiased": (1, lambda m, x: masks.masked_var(x, m, unbiased=True)),
    "whiten": (1, lambda m, x: masks.whiten(x, m)),
    "whiten around the mean": (1, lambda m, x: masks.whiten(x, m, shift_mean=False, eps=1e-3)),
    "whiten unbiased": (1, lambda m, x: masks.whiten(x, m, unbiased=True)),
    "rewards k1": (2, lambda m, o, r: rewards.rewards(scores(m), o, r, m)),
    "rewards k2": (2, lambda m, o, r: rewards.rewards(scores(m), o, r, m, 0.1, "k2")),
    "rewards k3": (2, lambda m, o, r: rewards.rewards(scores(m), o, r, m, 0.1, "k3")),
    "rewards_from_kl": (1, lambda m, k: rewards.rewards_from_kl(scores(m), k, m, 0.1)),
    "returns": (1, lambda m, r: advantages.returns(r, m, 0.9)),
    "gae": (2, lambda m, r, v: advantages.gae(r, v, m, 0.9, 0.8)),
    "gae decoupled": (2, lambda m, r, v: advantages.gae(r, v, m, 0.9, 0.8, 1.0)),
    "actor_clipped": (3, lambda m, a, o, p: losses.actor_clipped(a, o, p, m, 0.2)),
    "critic_clipped": (3, lambda m, r, o, v: losses.critic_clipped(r, o, v, m, 0.2)),
}

each_function = pytest.mark.parametrize(("inputs", "function"), FUNCTIONS.values(), ids=FUNCTIONS)
each_loss = pytest.mark.parametrize(("inputs", "loss"), LOSSES.values(), ids=LOSSES)


def results_and_gradients(function, mask, inputs, weights):
    """All results, then the gradient to each input of their sum, cell t of [B, T] weighted by `weights`."""
    live = with_grad(*inputs)
    results = function(mask, *live)
    results = results if isinstance(results, tuple) else (results,)
    smooth = [r * (weights if r.dim() else 1.0) for r in results if r.requires_grad]
    if smooth:
        sum(s.sum() for s in smooth).backward()
    return [r.detach() for r in results], [x.grad for x in live]


@each_function
def test_masked_cells_are_never_read(inputs, function):
    @quick
    @given(random_masks(), seeds)
    def check(mask, seed):
        *x, weights = normals(seed, *[mask.shape] * (inputs + 1))
        bad = [poisoned(a, mask) for a in x]
        before = [a.clone() for a in bad]
        results, gradients = results_and_gradients(function, mask, x, weights)
        again, bad_gradients = results_and_gradients(function, mask, bad, weights)
        for a, b in zip(results, again, strict=True):
            same_bits(a, b)
            if a.dim():
                assert not b[~mask].any()  # 0 there, or False
        for a, b in zip(gradients, bad_gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                same_bits(a, b)
                assert not b[~mask].any()
        for a, b in zip(before, bad, strict=True):
            same_bits(a, b)  # inputs are left as they were

    check()


@each_function
def test_rows_commute(inputs, function):
    @quick
    @given(random_masks(), seeds, st.randoms(use_true_random=False))
    def check(mask, seed, random):
        order = list(range(mask.shape[0]))
        random.shuffle(order)
        x = normals(seed, *[mask.shape] * inputs)
        for whole, permuted in zip(
            results_and_gradients(function, mask, x, torch.ones_like(x[0])),
            results_and_gradients(function, mask[order], [a[order] for a in x], torch.ones_like(x[0])),
            strict=True,
        ):
            for a, b in zip(whole, permuted, strict=True):
                if a is not None:
                    close(b.double(), (a[order] if a.dim() else a).double())

    check()


@st.composite
def layouts(draw):
    """(tight, loose): masks of the same rows, right-padded to the longest, and laid out anyhow with room to spare."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    lengths[0] = max(lengths[0], 1)
    length = max(lengths)
    tight = torch.tensor([[t < n for t in range(length)] for n in lengths])
    room = length + draw(st.integers(0, 4))
    loose = []
    for n in lengths:
        where = draw(st.one_of(st.just(range(room - n, room)), st.permutations(range(room)).map(lambda p, n=n: p[:n])))
        loose.append([t in where for t in range(room)])
    return tight, torch.tensor(loose)


@each_function
def test_padding_changes_nothing(inputs, function):
    """Left, right or in the middle, much or little: the kept cells of each row are all there is."""

    @quick
    @given(layouts(), seeds)
    def check(layout, seed):
        tight, loose = layout
        x = normals(seed, *[tight.shape] * inputs)
        spread = []
        for a in x:
            filler = torch.full(loose.shape, 7.7, dtype=a.dtype)
            spread.append(filler.masked_scatter(loose, a[tight]))  # both masks list the same cells in the same order
        for a, b in zip(
            results_and_gradients(function, tight, x, torch.ones(tight.shape)),
            results_and_gradients(function, loose, spread, torch.ones(loose.shape)),
            strict=True,
        ):
            for one, other in zip(a, b, strict=True):
                if one is not None and one.dim():
                    one, other = one[tight], other[loose]
                if one is not None:
                    close(other.double(), one.double())

    check()


@each_loss
def test_shards_add_up(inputs, loss):
    """Any split, row by row or cell by cell, empty shards too: with the global count, values and gradients add up."""

    @quick
    @given(random_masks(), seeds, st.integers(1, 4), st.booleans())
    def check(mask, seed, shards, by_row):
        x = normals(seed, *[mask.shape] * inputs)
        generator = torch.Generator().manual_seed(seed)
        shape = (mask.shape[0], 1) if by_row else mask.shape
        shard = torch.randint(shards, shape, generator=generator).expand(mask.shape)
        whole_live, live = with_grad(*x), with_grad(*x)
        whole = loss(mask, None, *whole_live)
        whole.backward()
        total = torch.zeros(())
        for k in range(shards):
            rows = (shard == k).any(dim=1)
            if rows.any():
                part = (mask & (shard == k))[rows]
                share = loss(part, int(mask.sum()), *(a[rows] for a in live))
                share.backward()
                total = total + share.detach()
        close(total.double(), whole)
        for a, b in zip(whole_live, live, strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None:
                close(b.grad, a.grad)

    check()


@quick
@given(st.integers(1, 6), st.integers(1, 3), seeds)
def test_shards_of_pairs_add_up(rows, cut, seed):
    chosen, rejected = normals(seed, (rows,), (rows,))
    parts = [losses.preference_loss(chosen[s], rejected[s], count=rows) for s in (slice(cut), slice(cut, None))]
    close(parts[0] + parts[1], losses.preference_loss(chosen, rejected))
    (four,) = normals(seed, (rows, 4))
    choice = torch.arange(rows) % 4
    parts = [losses.best_of_n_loss(four[s], choice[s], count=rows) for s in (slice(cut), slice(cut, None))]
    close(parts[0] + parts[1], losses.best_of_n_loss(four, choice))
