"""The numbers of a made iteration: drawn where a model would give them, and computed by equations (1) to (4) where a
run would compute them, in float32 and without torch. Cells outside the mask hold 0."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.pages.words import BAD_IDS, GOOD_IDS, ODD, PROMPTS, Answer, answer, of_pieces

Array = NDArray[Any]
f32 = np.float32


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The options of a made run, by the names of the command line."""

    seed: int = 1
    n_steps: int = 12
    batch_size: int = 32
    response_length: int = 24
    likely_end: float = 0.6
    """How likely an answer ends after a sentence."""
    num_generations: int = 1
    advantage_estimator: str = "gae"
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float | None = 0.2
    vf_coef: float = 0.1
    num_ppo_epochs: int = 2
    num_mini_batches: int = 2
    learning_rate: float = 4e-5
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    score_scaling: str | None = None
    score_clip: float | None = None
    missing_eos_penalty: float | None = None
    sources: tuple[str, ...] = ("reward",)
    exact: bool = False
    """Whether the sampler's numbers are the learner's."""
    dropped: tuple[tuple[int, int], ...] = ()
    """(step, row) of answers that nobody scored."""
    stopped_early: tuple[int, ...] = ()
    """Steps whose last mini-batch was not read."""


@dataclass(kw_only=True)
class Numbers:
    """One iteration: [B, T] arrays, and [epochs, B, T] of ratios, where NaN stands for "not read"."""

    spec: Spec
    step: int
    prompts: list[Any]
    answers: Sequence[Answer]
    mask: Array
    learned: Array
    parts: dict[str, Array]
    raw_scores: Array
    scores: Array
    scaling: dict[str, Any] | None
    old_log_probs: Array
    sampler_log_probs: Array
    ref_log_probs: Array
    kl: Array
    rewards: Array
    values: Array
    returns: Array
    advantages: Array
    ratios: Array
    whitenings: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

    @property
    def lengths(self) -> Array:
        return self.mask.sum(axis=1)

    @property
    def clipped(self) -> Array:
        """[epochs, B, T]: where the clipped term is strictly the larger loss."""
        ratio = np.nan_to_num(self.ratios, nan=1.0)
        near = np.clip(ratio, f32(1 - self.spec.cliprange), f32(1 + self.spec.cliprange))
        return (-self.advantages * near > -self.advantages * ratio) & self.mask


def iteration(spec: Spec, step: int) -> Numbers:
    """Iteration `step` of a run: the same for the same options and step."""
    rng = np.random.default_rng([spec.seed, step])
    progress = (step - 1) / max(spec.n_steps - 1, 1)
    prompts, answers = _texts(spec, step, rng, progress)
    lengths = np.array([len(a.ids) for a in answers])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    for row, one in zip(ids, answers, strict=True):
        row[: len(one.ids)] = one.ids
    learned = np.array([(step, row) not in spec.dropped for row in range(len(answers))])
    parts, raw, scores, scaling = _scores(spec, answers, learned, rng)
    old, sampler, ref = _log_probs(spec, ids, mask, rng, progress)
    kl = _kl(spec, old, ref) * mask
    earning = mask & learned[:, None]
    is_last = np.arange(mask.shape[1]) == (lengths - 1)[:, None]
    rewards = np.where(is_last & earning, np.nan_to_num(scores)[:, None], f32(0)) - f32(spec.kl_coef) * (kl * earning)
    whitenings: dict[str, dict[str, float]] = {}
    if spec.whiten_rewards:
        rewards = _whitened(rewards, earning, whitenings, "whiten_rewards", keep_mean=True)
    values = _values(spec, scores, mask, rng)
    advantages, returns = _credit(spec, rewards, values, earning)
    if spec.whiten_advantages and spec.advantage_estimator != "grpo":
        advantages = _whitened(advantages, earning, whitenings, "whiten_advantages")
    made = Numbers(
        spec=spec, step=step, prompts=prompts, answers=answers, mask=mask, learned=learned, parts=parts,
        raw_scores=raw, scores=scores, scaling=scaling, old_log_probs=old, sampler_log_probs=sampler, ref_log_probs=ref,
        kl=kl, rewards=rewards.astype(f32), values=values, returns=returns, advantages=advantages,
        ratios=_ratios(spec, step, advantages, earning, rng), whitenings=whitenings,
    )  # fmt: skip
    for name in ("old_log_probs", "ref_log_probs", "kl", "rewards", "values", "returns", "advantages", "ratios"):
        assert getattr(made, name).dtype == f32, name
    return made


def _texts(spec: Spec, step: int, rng: np.random.Generator, progress: float) -> tuple[list[Any], list[Answer]]:
    per_prompt = max(spec.num_generations, 2)
    prompts = [PROMPTS[(row // per_prompt) % len(PROMPTS)] for row in range(spec.batch_size)]
    answers = [
        answer(rng, good=0.35 + 0.6 * progress, longest=spec.response_length, likely_end=spec.likely_end)
        for _ in range(spec.batch_size)
    ]
    for row, odd in enumerate(ODD):
        if 2 * row < len(answers):
            answers[2 * row] = of_pieces(odd, spec.response_length)
    return prompts, answers


def _scores(
    spec: Spec, answers: Sequence[Answer], learned: Array, rng: np.random.Generator
) -> tuple[dict[str, Array], Array, Array, dict[str, Any] | None]:
    mood = np.array([a.mood for a in answers])
    nobody = np.where(learned, f32(0), f32(np.nan))
    parts = {spec.sources[0]: (mood * 1.3 + rng.normal(0.2, 0.35, len(mood))).astype(f32) + nobody}
    for name in spec.sources[1:]:
        parts[name] = (np.array([len(a.ids) for a in answers]) / f32(100)).astype(f32) + nobody
    raw = np.sum(list(parts.values()), axis=0, dtype=f32)
    scores, scaling = raw, None
    if spec.score_scaling is not None:
        mean, std = float(np.nanmean(raw)), float(np.nanstd(raw))
        scaling = {"kind": spec.score_scaling, "mean": mean, "std": std}
        scores = (raw - f32(mean)) / f32(std)
    if spec.score_clip is not None:
        scores = np.clip(scores, f32(-spec.score_clip), f32(spec.score_clip))
    if spec.missing_eos_penalty is not None:
        cut = np.array([a.finish_reason == "length" for a in answers])
        parts["missing_eos_penalty"] = np.where(cut, f32(-spec.missing_eos_penalty), f32(0))
        scores = scores + parts["missing_eos_penalty"]
    return parts, raw, scores, scaling


def _log_probs(
    spec: Spec, ids: Array, mask: Array, rng: np.random.Generator, progress: float
) -> tuple[Array, Array, Array]:
    shape = mask.shape
    old = (-rng.gamma(1.3, 1.1 - 0.3 * progress, shape)).astype(f32)
    mood = np.isin(ids, list(GOOD_IDS)) * 1.0 - np.isin(ids, list(BAD_IDS)) * 0.6
    moved = rng.normal(0.12, 0.35, shape) + 1.1 * mood + rng.exponential(0.15, shape)
    ref = (old - (progress * moved).astype(f32)).astype(f32)
    ref = np.minimum(ref, f32(-1e-4))
    sampler = old if spec.exact else np.minimum(old + rng.normal(0, 0.03, shape).astype(f32), f32(-1e-5))
    return old * mask, sampler * mask, ref * mask


def _kl(spec: Spec, old: Array, ref: Array) -> Array:
    d = old - ref
    match spec.kl_estimator:
        case "k1":
            return d
        case "k2":
            return np.square(d) / f32(2)
        case _:
            return np.maximum(np.expm1(-d) + d, f32(0))


def _values(spec: Spec, scores: Array, mask: Array, rng: np.random.Generator) -> Array:
    if spec.advantage_estimator != "gae":
        return np.zeros(mask.shape, dtype=f32)
    share = np.arange(mask.shape[1]) / np.maximum(mask.sum(axis=1, keepdims=True) - 1, 1)
    mean = np.nanmean(scores)
    known = mean + (np.nan_to_num(scores, nan=mean)[:, None] - mean) * share * 0.8
    return ((known + rng.normal(0, 0.12, mask.shape)) * mask).astype(f32)


def _credit(spec: Spec, rewards: Array, values: Array, mask: Array) -> tuple[Array, Array]:
    if spec.advantage_estimator == "gae":
        now = values * mask
        following = np.concatenate([now[:, 1:], np.zeros_like(now[:, :1])], axis=1)
        deltas = rewards + f32(spec.gamma) * following - now
        advantages = _sums(deltas, mask, spec.gamma * spec.lam)
        return advantages, (advantages + now).astype(f32)
    returns = _sums(rewards, mask, spec.gamma)
    if spec.advantage_estimator == "reinforce++":
        return returns, returns
    groups = rewards.sum(axis=1, dtype=f32).reshape(-1, spec.num_generations)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if spec.advantage_estimator == "rloo":
        of_answer = centred * f32(spec.num_generations / (spec.num_generations - 1))
    else:
        of_answer = centred / (groups.std(axis=1, keepdims=True, ddof=1) + f32(1e-4))
    return (of_answer.reshape(-1, 1) * mask).astype(f32), returns


def _sums(x: Array, mask: Array, decay: float) -> Array:
    """y[j] = x[j] + decay * y[j + 1], from the right."""
    result = np.zeros(x.shape, dtype=f32)
    running = np.zeros(len(x), dtype=f32)
    for j in reversed(range(x.shape[1])):
        running = np.where(mask[:, j], x[:, j] + f32(decay) * running, running).astype(f32)
        result[:, j] = np.where(mask[:, j], running, f32(0))
    return result


def _whitened(x: Array, mask: Array, kept: dict[str, dict[str, float]], name: str, *, keep_mean: bool = False) -> Array:
    """(x + shift) * scale over the mask. Rewards keep their mean, as x * s + m * (1 - s) does."""
    cells = x[mask].astype(np.float64)
    mean, scale = float(cells.mean()), float(1 / np.sqrt(cells.var() + 1e-8))
    shift = mean / scale - mean if keep_mean else -mean
    kept[name] = {"shift": shift, "scale": scale}
    return (((x + f32(shift)) * f32(scale)) * mask).astype(f32)


def _ratios(spec: Spec, step: int, advantages: Array, mask: Array, rng: np.random.Generator) -> Array:
    """Mini-batch k of epoch e is read after e * n + k steps, moved by the advantage and a little noise."""
    n, epochs = spec.num_mini_batches, spec.num_ppo_epochs
    rows = np.arange(len(mask))
    result = np.full((epochs, *mask.shape), np.nan, dtype=f32)
    push = 0.05 * np.tanh(advantages)
    for epoch in range(epochs):
        part_of = rng.permutation(rows) % n
        for part in range(n):
            steps = epoch * n + part
            if step in spec.stopped_early and steps == epochs * n - 1:
                continue
            moved = push * steps + rng.normal(0, 0.045 * np.sqrt(steps), mask.shape) if steps else np.zeros(mask.shape)
            result[epoch] = np.where((part_of == part)[:, None], np.exp(moved.astype(f32)), result[epoch])
    return np.where(mask, result, np.where(np.isnan(result), result, f32(0))).astype(f32)
