import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core import losses as core
from clearppo.core import masks as core_masks
from clearppo.core.masks import masked_mean
from tests.core.cases import close, masks, normals, quick, seeds, with_grad
from tests.oracles import losses as oracle

# (clip, clip_high, dual_clip)
clips = st.sampled_from([(None, None, None), (0.2, None, None), (0.2, 0.28, None), (0.1, 0.05, 1.3), (0.2, None, 3)])
counts = st.sampled_from([None, 1, 7.5, 40])


def one(*numbers):
    return [torch.tensor([[x]], dtype=torch.float64) for x in numbers]


ONE = torch.ones(1, 1, dtype=torch.bool)


@quick
@given(masks(), seeds, clips, counts)
def test_actor_loss_and_gradient_are_those_of_the_loops(mask, seed, clip, count):
    advantages, old, new = normals(seed, *[mask.shape] * 3)
    (live,) = with_grad(old + 0.5 * new)
    loss = core.actor_loss(advantages, old, live, mask, count, *clip)
    loss.backward()
    expected, gradient = oracle.actor(advantages.tolist(), old.tolist(), live.tolist(), mask.tolist(), count, *clip)
    close(loss, expected)
    close(live.grad, gradient)


@quick
@given(masks(), seeds, st.sampled_from([None, 0.05, 0.5]))
def test_actor_clipped_is_that_of_the_loops(mask, seed, clip_high):
    advantages, old, new = normals(seed, *[mask.shape] * 3)
    clipped = core.actor_clipped(advantages, old, old + 0.5 * new, mask, 0.2, clip_high)
    lists = [x.tolist() for x in (advantages, old, old + 0.5 * new, mask)]
    assert clipped.tolist() == oracle.actor_clipped(*lists, 0.2, clip_high)


@pytest.mark.parametrize(
    ("advantage", "ratio", "clip", "loss", "gradient", "clipped"),
    [
        (1.0, 1.5, {"clip": 0.2}, -1.2, 0.0, True),
        (1.0, 0.5, {"clip": 0.2}, -0.5, -0.5, False),
        (-1.0, 0.5, {"clip": 0.2}, 0.8, 0.0, True),
        (-1.0, 1.5, {"clip": 0.2}, 1.5, 1.5, False),
        (1.0, 1.25, {"clip": 0.2, "clip_high": 0.28}, -1.25, -1.25, False),
        (1.0, 1.3, {"clip": 0.2, "clip_high": 0.28}, -1.28, 0.0, True),
        (-1.0, 0.75, {"clip": 0.2, "clip_high": 0.28}, 0.8, 0.0, True),
        (-2.0, 5.0, {"clip": 0.2, "dual_clip": 3}, 6.0, 0.0, False),
        (-2.0, 2.5, {"clip": 0.2, "dual_clip": 3}, 5.0, 5.0, False),
        (2.0, 5.0, {"clip": 0.2, "dual_clip": 3}, -2.4, 0.0, True),
        (2.0, 5.0, {}, -10.0, -10.0, None),
        (0.0, 5.0, {"clip": 0.2}, 0.0, 0.0, False),
    ],
)
def test_actor_loss_by_hand(advantage, ratio, clip, loss, gradient, clipped):
    advantages, old, new = one(advantage, -1.0, -1.0 + math.log(ratio))
    (live,) = with_grad(new)
    result = core.actor_loss(advantages, old, live, ONE, **clip)
    result.backward()
    close(result, loss)
    close(live.grad, [[gradient]])
    if clipped is not None:
        clip.pop("dual_clip", None)
        assert core.actor_clipped(advantages, old, new, ONE, **clip).item() is clipped


@quick
@given(masks(), seeds, clips)
def test_at_ratio_1_the_loss_is_minus_the_mean_advantage(mask, seed, clip):
    """The first minibatch of the first epoch, clipped or not: loss -mean(a), gradient -a / n, nothing clipped."""
    advantages, old = normals(seed, mask.shape, mask.shape)
    (live,) = with_grad(old)
    loss = core.actor_loss(advantages, old, live, mask, None, *clip)
    loss.backward()
    close(loss, -masked_mean(advantages, mask))
    close(live.grad, torch.where(mask, -advantages, 0.0) / mask.sum())
    assert not core.actor_clipped(advantages, old, live, mask, 0.2).any()


@quick
@given(masks(), seeds)
def test_without_clip_it_is_equation_7(mask, seed):
    advantages, old, new = normals(seed, *[mask.shape] * 3)
    cells = [a * math.exp(n - o) for a, n, o in zip(advantages[mask], new[mask], old[mask], strict=True)]
    close(core.actor_loss(advantages, old, new, mask), -math.fsum(cells) / len(cells))
    close(core.actor_loss(advantages, old, new, mask, clip=1e9), -math.fsum(cells) / len(cells))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [{}, {"clip": 0.2}, {"clip": 0.2, "dual_clip": 3.0}])
@pytest.mark.parametrize("log_ratio", [89.0, 710.0, 1e5, math.inf, -89.0, -1e5])
def test_ratios_beyond_all_bounds_give_finite_gradients(dtype, clip, log_ratio):
    advantages = torch.tensor([[1.0, -1.0, 2.0]], dtype=dtype)
    old = torch.tensor([[-log_ratio, -log_ratio, -1.0]], dtype=dtype)
    (live,) = with_grad(torch.tensor([[0.0, 0.0, -1.0]], dtype=dtype))
    loss = core.actor_loss(advantages, old, live, torch.ones(1, 3, dtype=torch.bool), **clip)
    loss.backward()
    assert loss.isfinite()
    assert live.grad.isfinite().all()
    close(live.grad[0, 2], -2 / 3, rtol=1e-6)  # the token beside it learns as ever


@pytest.mark.parametrize("log_ratio", [-20.0, -19.9, 19.9, 20.0])
def test_up_to_20_nats_nothing_is_cut(log_ratio):
    advantages, old, new = one(-1.5, -25.0, -25.0 + log_ratio)
    (live,) = with_grad(new)
    loss = core.actor_loss(advantages, old, live, ONE)
    loss.backward()
    close(loss, 1.5 * math.exp(log_ratio))
    close(live.grad, [[1.5 * math.exp(log_ratio)]])


@quick
@given(masks(), seeds, counts)
def test_probability_loss_is_that_of_the_loops(mask, seed, count):
    advantages, raw = normals(seed, mask.shape, mask.shape)
    (live,) = with_grad(-raw.abs())
    loss = core.probability_loss(advantages, live, mask, count)
    loss.backward()
    expected, gradient = oracle.probability(advantages.tolist(), live.tolist(), mask.tolist(), count)
    close(loss, expected)
    close(live.grad, gradient)


@quick
@given(masks(), seeds, st.sampled_from([None, 0.2, 1.5]), counts)
def test_critic_loss_and_gradient_are_those_of_the_loops(mask, seed, clip, count):
    returns, old, new = normals(seed, *[mask.shape] * 3)
    (live,) = with_grad(old + new)
    loss = core.critic_loss(returns, old, live, mask, count, clip)
    loss.backward()
    expected, gradient = oracle.critic(returns.tolist(), old.tolist(), live.tolist(), mask.tolist(), count, clip)
    close(loss, expected)
    close(live.grad, gradient)
    if clip is not None:
        lists = [x.tolist() for x in (returns, old, live, mask)]
        assert core.critic_clipped(returns, old, live, mask, clip).tolist() == oracle.critic_clipped(*lists, clip)


@pytest.mark.parametrize(
    ("target", "old", "value", "loss", "gradient", "clipped"),
    [
        (1.0, 0.0, 0.5, 0.5 * 0.8**2, 0.0, True),  # towards the return, too far at once
        (-1.0, 0.0, 0.5, 0.5 * 1.5**2, 1.5, False),  # away from it: full price
        (1.0, 0.0, 0.1, 0.5 * 0.9**2, -0.9, False),  # within the range
        (1.0, 0.0, -0.5, 0.5 * 1.5**2, -1.5, False),
        (-1.0, 0.0, -0.5, 0.5 * 0.8**2, 0.0, True),
    ],
)
def test_critic_clip_by_hand(target, old, value, loss, gradient, clipped):
    returns, old_values, values = one(target, old, value)
    (live,) = with_grad(values)
    result = core.critic_loss(returns, old_values, live, ONE, clip=0.2)
    result.backward()
    close(result, loss)
    close(live.grad, [[gradient]])
    assert core.critic_clipped(returns, old_values, values, ONE, 0.2).item() is clipped


def test_no_gradient_flows_into_what_was_sampled():
    a, old, new, returns, old_values, values = with_grad(*normals(0, *[(2, 3)] * 6))
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss = core.actor_loss(a, old, new, mask, clip=0.2) + core.critic_loss(returns, old_values, values, mask, clip=0.2)
    (loss + core.probability_loss(a, new, mask)).backward()
    assert a.grad is None
    assert old.grad is None
    assert returns.grad is None
    assert old_values.grad is None
    assert new.grad is not None
    assert values.grad is not None


@quick
@given(masks(), seeds, counts)
def test_sft_loss_is_that_of_the_loops(mask, seed, count):
    (live,) = with_grad(*normals(seed, mask.shape))
    loss = core.sft_loss(live, mask, count)
    loss.backward()
    expected, gradient = oracle.sft(live.tolist(), mask.tolist(), count)
    close(loss, expected)
    close(live.grad, gradient)


@quick
@given(st.integers(1, 5), st.booleans(), seeds, counts)
def test_preference_loss_is_that_of_the_loops(rows, has_margin, seed, count):
    chosen, rejected = with_grad(*normals(seed, (rows,), (rows,)))
    margin = normals(seed + 1, (rows,))[0] if has_margin else None
    loss = core.preference_loss(chosen, rejected, margin, count)
    loss.backward()
    lists = chosen.tolist(), rejected.tolist(), margin.tolist() if has_margin else None
    expected, gradient = oracle.preference(*lists, count)
    close(loss, expected)
    close(chosen.grad, gradient)
    close(rejected.grad, [-g for g in gradient])


@quick
@given(st.integers(1, 4), st.integers(1, 5), seeds, counts)
def test_best_of_n_loss_is_that_of_the_loops(rows, n, seed, count):
    (scores,) = with_grad(*normals(seed, (rows, n)))
    choice = torch.randint(n, (rows,), generator=torch.Generator().manual_seed(seed))
    loss = core.best_of_n_loss(scores, choice, count)
    loss.backward()
    expected, gradient = oracle.best_of_n(scores.tolist(), choice.tolist(), count)
    close(loss, expected)
    close(scores.grad, gradient)


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.booleans(), seeds, counts)
def test_kwise_loss_is_that_of_the_loops(prompt, has_margin, seed, count):
    n = len(prompt)
    chosen, rejected = with_grad(*normals(seed, (n,), (n,)))
    margin = normals(seed + 1, (n,))[0] if has_margin else None
    loss = core.kwise_loss(chosen, rejected, torch.tensor(prompt), margin, count)
    loss.backward()
    lists = chosen.tolist(), rejected.tolist(), prompt, margin.tolist() if has_margin else None
    expected, gradient = oracle.kwise(*lists, count)
    close(loss, expected)
    close(chosen.grad, gradient)
    close(rejected.grad, [-g for g in gradient])


def test_a_prompt_of_many_answers_weighs_as_much_as_one_of_two():
    """By hand: one prompt of three answers (3 pairs, all costing log 2), one of two (1 pair, costing log(1 + e))."""
    chosen, rejected = torch.tensor([[1.0, 1.0, 2.0, 0.0], [1.0, 1.0, 2.0, 1.0]], dtype=torch.float64)
    prompts = torch.tensor([7, 7, 7, 2])
    close(core.kwise_loss(chosen, rejected, prompts), (math.log(2) + math.log1p(math.e)) / 2)
    close(core.preference_loss(chosen, rejected), (3 * math.log(2) + math.log1p(math.e)) / 4)


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.booleans(), seeds, counts)
def test_centring_loss_is_that_of_the_loops(prompt, by_prompt, seed, count):
    chosen, rejected = with_grad(*normals(seed, *[(len(prompt),)] * 2))
    given = {"prompt": torch.tensor(prompt)} if by_prompt else {}
    loss = core.centring_loss(chosen, rejected, count=count, **given)
    loss.backward()
    expected, gradient = oracle.centring(chosen.tolist(), rejected.tolist(), prompt if by_prompt else None, count)
    close(loss, expected)
    close(chosen.grad, gradient)
    close(rejected.grad, gradient)


TEXT = st.lists(st.integers(1, 3), min_size=1, max_size=5)


def padded(texts, width):
    """Texts as [B, T] ids, with tokens behind their ends that must not be read; and their lengths."""
    return torch.tensor([t + [9] * (width - len(t)) for t in texts]), torch.tensor([len(t) for t in texts])


@quick
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.booleans(), seeds, counts)
def test_all_token_loss_is_that_of_the_loops(pairs, has_margin, seed, count):
    left, right = zip(*pairs, strict=True)
    left_ids, left_lengths = padded(left, 5)
    right_ids, right_lengths = padded(right, 5)
    mask = core_masks.differing_span(left_ids, right_ids, left_lengths, right_lengths)
    spans = [oracle.differing_span(a, b) for a, b in pairs]
    assert mask.tolist() == [[start <= t < end for t in range(5)] for start, end in spans]
    chosen, rejected = with_grad(*normals(seed, *[(len(pairs), 5)] * 2))
    margin = normals(seed + 1, (len(pairs),))[0] if has_margin else None
    loss = core.all_token_loss(chosen, rejected, mask, margin, count)
    loss.backward()
    lists = chosen.tolist(), rejected.tolist(), spans, margin.tolist() if has_margin else None
    expected, gradient = oracle.all_token(*lists, count)
    close(loss, expected)
    close(chosen.grad, gradient)
    close(rejected.grad, [[-g for g in row] for row in gradient])


def test_all_tokens_by_hand():
    """From the first difference to the longer one's end; of an identical pair the last position, which costs log 2."""
    left, left_lengths = padded([[5, 6, 7], [5, 6]], 4)
    right, right_lengths = padded([[5, 8, 7, 7], [5, 6]], 4)
    mask = core_masks.differing_span(left, right, left_lengths, right_lengths)
    assert mask.tolist() == [[False, True, True, True], [False, True, False, False]]
    chosen = torch.tensor([[9.0, 1.0, 2.0, 0.0], [3.0, 3.0, math.nan, 8.0]], dtype=torch.float64)
    rejected = torch.tensor([[0.0, 0.0, 2.0, 0.0], [3.0, 3.0, 1.0, math.nan]], dtype=torch.float64)
    first = (math.log1p(math.exp(-1)) + 2 * math.log(2)) / 3
    close(core.all_token_loss(chosen, rejected, mask), (first + math.log(2)) / 2)
    with pytest.raises(ValueError, match="no token in the mask"):
        core.all_token_loss(chosen, rejected, torch.zeros(2, 4, dtype=torch.bool), count=3)


def test_differences_beyond_all_bounds_cost_what_they_differ():
    far = torch.tensor([2000.0, -2000.0])
    zeros, prompts = torch.zeros(2), torch.tensor([0, 1])
    assert core.kwise_loss(far, zeros, prompts) == 1000
    assert core.all_token_loss(far[:, None], zeros[:, None], torch.ones(2, 1, dtype=torch.bool)) == 1000


@quick
@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), seeds)
def test_parts_of_the_pairs_add_up_to_the_whole(prompt, seed):
    """Cut anywhere between prompts; of losses without prompts anywhere."""
    prompt = sorted(prompt)
    n = len(prompt)
    chosen, rejected, margin = normals(seed, *[(n,)] * 3)
    labels, mask = torch.tensor(prompt), torch.ones(n, 1, dtype=torch.bool)
    n_prompts = len(set(prompt))
    for cut in range(n + 1):
        parts = [slice(0, cut), slice(cut, n)]
        by_pair = [
            lambda s: core.centring_loss(chosen[s], rejected[s], count=n),
            lambda s: core.all_token_loss(chosen[s, None], rejected[s, None], mask[s], margin[s], n),
        ]
        wholes = [
            core.centring_loss(chosen, rejected),
            core.all_token_loss(chosen[:, None], rejected[:, None], mask, margin),
        ]
        if cut in (0, n) or prompt[cut - 1] != prompt[cut]:
            by_pair.append(lambda s: core.kwise_loss(chosen[s], rejected[s], labels[s], margin[s], n_prompts))
            wholes.append(core.kwise_loss(chosen, rejected, labels, margin))
        for of_part, whole in zip(by_pair, wholes, strict=True):
            close(of_part(parts[0]) + of_part(parts[1]), whole)


def test_half_precision_is_widened():
    x, mask = torch.full((1, 1000), -1.0).bfloat16(), torch.ones(1, 1000, dtype=torch.bool)
    for loss in (
        core.actor_loss(x, x, x, mask, clip=0.2),
        core.probability_loss(x, x, mask),
        core.critic_loss(x, x, x, mask, clip=0.2),
        core.sft_loss(x, mask),
        core.preference_loss(x[0], x[0]),
        core.best_of_n_loss(x, torch.tensor([0])),
        core.kwise_loss(x[0], x[0], torch.arange(1000)),
        core.centring_loss(x[0], x[0]),
        core.all_token_loss(x, x, mask),
    ):
        assert loss.dtype == torch.float32
    assert core.sft_loss(x, mask) == 1


x, mask, empty = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
TOKEN_LOSSES = {
    "actor": lambda m, count=None: core.actor_loss(x, x, x, m, count),
    "probability": lambda m, count=None: core.probability_loss(x, x, m, count),
    "critic": lambda m, count=None: core.critic_loss(x, x, x, m, count),
    "sft": lambda m, count=None: core.sft_loss(x, m, count),
}


@pytest.mark.parametrize("loss", TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)
def test_an_empty_mask_needs_a_count(loss):
    with pytest.raises(ValueError, match="empty"):
        loss(empty)
    assert loss(empty, 5) == 0
    with pytest.raises(ValueError, match="count = 0"):
        loss(mask, 0)
    assert loss(mask, torch.tensor(6)) == loss(mask, 6) == loss(mask)


def test_no_pairs_need_a_count():
    nothing = torch.zeros(0)
    for loss in (
        lambda count: core.preference_loss(nothing, nothing, count=count),
        lambda count: core.best_of_n_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), count),
        lambda count: core.kwise_loss(nothing, nothing, torch.zeros(0, dtype=torch.long), count=count),
        lambda count: core.centring_loss(nothing, nothing, count=count),
        lambda count: core.centring_loss(nothing, nothing, torch.zeros(0, dtype=torch.long), count=count),
        lambda count: core.all_token_loss(nothing[:, None], nothing[:, None], nothing[:, None].bool(), count=count),
    ):
        with pytest.raises(ValueError, match="count = 0"):
            loss(None)
        assert loss(4) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: core.actor_loss(x, x, x, mask, clip=0), "clip = 0"),
        (lambda: core.actor_loss(x, x, x, mask, clip=-0.2), "clip = -0.2"),
        (lambda: core.actor_loss(x, x, x, mask, clip=0.2, clip_high=0), "clip_high = 0"),
        (lambda: core.actor_loss(x, x, x, mask, clip=0.2, dual_clip=1), "dual_clip = 1"),
        (lambda: core.actor_loss(x, x, x, mask, clip_high=0.3), "clip_high = 0.3 has no effect"),
        (lambda: core.actor_loss(x, x, x, mask, dual_clip=3), "dual_clip = 3 has no effect"),
        (lambda: core.actor_clipped(x, x, x, mask, clip=-1), "clip = -1"),
        (lambda: core.critic_loss(x, x, x, mask, clip=0), "clip = 0"),
        (lambda: core.critic_clipped(x, x, x, mask, clip=0), "clip = 0"),
    ],
)
def test_bad_clips_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
