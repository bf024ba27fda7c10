"""Normalised scores from plain weights: mean 0, and standard deviation 1, on reference samples, whatever loads them.

lm-human-preferences keeps a gain and a bias beside its reward model; summarize-from-feedback and InstructGPT a bias.
Here both go into the weights, score' = gain * score + bias, so that no loader need know of them:

- the gain scales the head's weight w;
- the bias is the head's own, where it has one; else, where the backbone ends in a LayerNorm, that layer's bias moves
  along w, which shifts every score by the same amount exactly (GPT-2, Pythia, OPT);
- else (RMSNorm: Llama, Qwen, Mistral) there is no bias anywhere. Then a direction `a` is fitted on which the last
  hidden states h of all texts are nearly 1, and w' = gain * w + c * a, with gain and c such that mean and standard
  deviation on the reference samples are exact. a . h varies a little from text to text, so that close scores may change
  places; the result says how far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearppo.batch import ALONE, Division
from clearppo.errors import ConfigError, TrainingError
from clearppo.models.reward_model import RewardModel, length_sorted

Mode = Literal["mean", "mean-std"]
Place = Literal["head", "final norm", "constant direction"]

MOST_FITTED = 2048  # texts for the constant direction: more make the fit slow and no better
MOST_COMPARED = 1024  # texts whose order before and after is compared, each with each
ROUNDING = 1e-6  # a spread of scores below so much of the largest one is float32's rounding


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What was done to the scores, and how well. Means and standard deviations (population) are of the n references.

    score' = gain * score + bias: exactly where `place` is "head" or "final norm". Where it is "constant direction",
    the bias differs a little between texts: by `bias_spread` (standard deviation over texts that the direction was
    not fitted on, each left out in turn), in units of the scores' standard deviation; and `flipped` is the share of
    all pairs of reference samples that changed places. Both are 0 in the other two places.
    """

    mode: Mode
    n: int
    mean_before: float
    std_before: float
    mean_after: float
    std_after: float
    gain: float
    bias: float
    place: Place
    bias_spread: float
    flipped: float

    def sentence(self) -> str:
        """The same in words."""
        done = "mean 0 and standard deviation 1" if self.mode == "mean-std" else "mean 0"
        text = (
            f"Scores normalised to {done} on {self.n} reference samples "
            f"(before: {self.mean_before:.3g} ± {self.std_before:.3g})"
        )
        if self.place != "constant direction":
            return f"{text}, exactly and for every text."
        return (
            f"{text}. This model has no bias to hold the shift, so that it varies between texts by "
            f"{self.bias_spread:.1%} of the scores' standard deviation; {self.flipped:.2%} of all pairs of samples "
            "changed places."
        )


def gain_and_bias(scores: Float[Tensor, " N"], mode: Mode) -> tuple[float, float]:
    """(gain, bias) such that gain * scores + bias have mean 0, and with "mean-std" standard deviation 1 (population).

    Sources: lm-human-preferences train_reward.py:207-219; "mean": arXiv 2009.01325, section 3.4, and InstructGPT.

    Raises ConfigError if the mode is "mean-std" and all scores are equal.
    """
    mean, std = float(scores.double().mean()), float(scores.double().std(correction=0))
    if mode == "mean":
        return 1.0, -mean
    if not std > ROUNDING * float(scores.abs().max()):
        raise ConfigError(
            f"all {len(scores)} reference samples have the same score ({mean:.4g}), so it cannot be scaled to standard "
            "deviation 1. Give more varied samples as --reference_dataset_name, or use --score_normalisation mean."
        )
    return 1.0 / std, -mean / std


@torch.no_grad()
def normalise_scores(
    model: RewardModel,
    texts: Sequence[Sequence[int]],
    *,
    mode: Mode,
    micro_batch_size: int,
    division: Division = ALONE,
) -> Normalisation:
    """Change the model's weights so that its scores on `texts` (token ids as it reads them) are normalised.

    Measured without autocast, as a reward model is read in PPO. In pure bfloat16 a final norm's bias holds 8 bits, and
    the mean is exact to as many.

    Raises ConfigError if there is no text, or if all have the same score and the mode is "mean-std"; TrainingError if a
    score is not finite.
    """
    if not texts:
        raise ConfigError("there is no reference sample to normalise scores with. Give --reference_dataset_name.")
    states = _states(model, texts, micro_batch_size, division)
    head = model.head
    scores = _scores(states, head)
    if not bool(scores.isfinite().all()):
        raise TrainingError("the reward model gives scores that are not finite. Use a smaller --learning_rate.")
    gain, bias = gain_and_bias(scores, mode)
    norm = _final_norm(model, texts[0])
    spread, place = 0.0, "head" if head.bias is not None else "final norm" if norm is not None else "constant direction"
    if head.bias is not None:
        head.bias.copy_(gain * head.bias.double() + bias)
        head.weight.mul_(gain)
    elif norm is not None:
        head.weight.mul_(gain)
        shift = _shift(norm, head.weight[0], bias)
        states = states + shift
        model.moved = model.moved * gain + float(shift @ head.weight[0].double().cpu())
    else:
        gain, bias, spread = _fold_direction(states, head, mode)
    after = _scores(states, head)
    return Normalisation(
        mode=mode,
        n=len(texts),
        mean_before=float(scores.mean()),
        std_before=float(scores.std(correction=0)),
        mean_after=float(after.mean()),
        std_after=float(after.std(correction=0)),
        gain=gain,
        bias=bias,
        place=place,
        bias_spread=spread,
        flipped=_flipped(scores, after) if place == "constant direction" else 0.0,
    )


def _states(model: RewardModel, texts: Sequence[Sequence[int]], size: int, division: Division) -> Float[Tensor, "N H"]:
    """The last hidden state of every text, in float64 on the CPU."""
    found = torch.zeros((len(texts), model.head.in_features), dtype=torch.float64)
    autocast, model.autocast = model.autocast, False
    model.eval()
    try:
        for rows, ids, lengths in length_sorted(texts, size, model.device, division=division):
            states = model.last_states(ids, lengths).double().cpu()
            found[torch.tensor(rows, dtype=torch.long)] = states[: len(rows)]
    finally:
        model.autocast = autocast
    return division.sum(found)


def _scores(states: Float[Tensor, "N H"], head: nn.Linear) -> Float[Tensor, " N"]:
    scores = states @ head.weight[0].double().cpu()
    return scores if head.bias is None else scores + head.bias.double().cpu()


def _final_norm(model: RewardModel, text: Sequence[int]) -> nn.LayerNorm | None:
    """The LayerNorm with a bias whose output is the backbone's, found by reading a text; None if there is none."""
    outputs: dict[nn.Module, Tensor] = {}

    def keep(norm: nn.Module, _: Any, output: Tensor) -> None:
        outputs[norm] = output

    norms = [part for part in model.backbone.modules() if isinstance(part, nn.LayerNorm) and part.bias is not None]
    hooks = [norm.register_forward_hook(keep) for norm in norms]
    try:
        ids = torch.tensor([list(text)], device=model.device)
        last = model.last_states(ids, torch.tensor([len(text)], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    for norm in reversed(norms):
        output = outputs.get(norm)
        if output is not None and output.ndim == 3 and torch.equal(output[:, -1].to(last.dtype), last):
            return norm
    return None


def _shift(norm: nn.LayerNorm, weight: Float[Tensor, " H"], bias: float) -> Float[Tensor, " H"]:
    """Move the norm's bias along the head's weight until every score has moved by `bias`; how far the states moved."""
    if bias == 0:  # also where the weight is 0, which can shift nothing
        return torch.zeros(len(weight), dtype=torch.float64)
    weight, before = weight.double(), norm.bias.double()
    norm.bias.copy_(before + bias * weight / weight.square().sum())
    return (norm.bias.double() - before).cpu()


def _fold_direction(states: Float[Tensor, "N H"], head: nn.Linear, mode: Mode) -> tuple[float, float, float]:
    """Add a constant direction to the head's weight; (gain, mean bias, the bias' spread over unseen texts, in units of
    the new scores' standard deviation).

    With s = w . h and t = a . h the new scores are gain * (s - m t), m = mean(s) / mean(t), so that their mean is 0;
    the gain makes their standard deviation 1, or with "mean" what it was.
    """
    weight = head.weight[0].double().cpu()
    direction, unseen = constant_direction(states[:: -(-len(states) // MOST_FITTED)])
    s, t = states @ weight, states @ direction
    m = s.mean() / t.mean()
    centred_std = (s - m * t).std(correction=0)
    target = 1.0 if mode == "mean-std" else float(s.std(correction=0))
    gain = target / float(centred_std) if centred_std > ROUNDING * s.abs().max() else 1.0  # all equal: only shift
    head.weight.copy_(gain * (weight - m * direction).unsqueeze(0))
    spread = float(m.abs() * unseen) * gain / target if target > 0 else 0.0
    return gain, -gain * float(s.mean()), spread


def constant_direction(states: Float[Tensor, "N H"]) -> tuple[Float[Tensor, " H"], float]:
    """`a` with a . h close to 1 for all rows h, by ridge regression; and the standard deviation of a . h over rows that
    it was not fitted on.

    The ridge's strength is the one of a grid with the smallest squared error of rows left out in turn, which has a
    closed form: e_i / (1 - L_ii) with the residuals e and the diagonal of the smoother matrix L.
    """
    n = len(states)
    u, sizes, vh = torch.linalg.svd(states, full_matrices=False)
    ones = u.T @ torch.ones(n, dtype=states.dtype)
    best: tuple[float, Tensor, float] | None = None
    for strength in torch.logspace(-10, 1, 34, dtype=states.dtype).tolist():
        ridge = strength * float(sizes[0] ** 2)
        shrunk = sizes.square() / (sizes.square() + ridge)
        left_out = (1 - u @ (shrunk * ones)) / (1 - u.square() @ shrunk).clamp(min=1e-12)
        error = float(left_out.square().mean())
        if best is None or error < best[0]:
            best = error, vh.T @ (sizes / (sizes.square() + ridge) * ones), float(left_out.std(correction=0))
    assert best is not None
    return best[1], best[2]


def _flipped(before: Float[Tensor, " N"], after: Float[Tensor, " N"]) -> float:
    """The share of pairs whose order is another than before."""
    step = -(-len(before) // MOST_COMPARED)
    x, y = before[::step], after[::step]
    n_pairs = len(x) * (len(x) - 1)
    if n_pairs == 0:
        return 0.0
    changed = torch.sign(x[:, None] - x) * torch.sign(y[:, None] - y) < 0
    return int(changed.sum()) / n_pairs
