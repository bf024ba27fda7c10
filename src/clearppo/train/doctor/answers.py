"""What sampled answers tell: whether they come to an end, and whether all who read them see the same numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clearppo.batch import Prompts, Rollout
from clearppo.feedback.reference import Reference
from clearppo.models.layout import lay_out
from clearppo.models.policy import Policy, analyze_in_micro_batches
from clearppo.train.doctor.finding import Finding, Problem, finding
from clearppo.train.doctor.template import evenly

N_PROMPTS, N_ANSWERS, FEWEST = 16, 2, 8
MOST_TOKENS = 16384
"""So many tokens are sampled at most: with long answers, fewer prompts."""
TOKENS_READ = 1024
"""Before so many tokens of the answers the probability of an end is computed."""
FEW_END = 0.05
"""Where no answer ended, and fewer than so many would, it is looked at whether any can."""
UNREACHABLE, IN_CHAT = 1e-5, 1e-3
"""An end that is less probable than this behind a whole sentence is none; in a chat more is expected."""
SHORT, LONG = 16, 128
"""In so many tokens an answer could have come to an end: one of a chat, any."""
ROUNDED, ANOTHER = 0.1, 0.5
"""Where sampler and learner round to bfloat16 in different places their log-probs differ by 0.01 to 0.05 nats a token;
from the second number on they are two models."""
MORE_PADDING = 7
_TRY = "Try --bf16 false or --attn_implementation eager."


def n_prompts(response_length: int, available: int) -> int:
    """To how many prompts answers are sampled."""
    return min(max(MOST_TOKENS // (response_length * N_ANSWERS), 4), N_PROMPTS, available)


@dataclass(frozen=True, kw_only=True)
class Endings:
    """How the sampled answers ended. `ids` end one; `likeliest` is the largest probability of any of them before any
    token that was read, `after_sentence` their mean probability behind the end of a sentence (None: there was none),
    `expected` the sum over an answer."""

    ids: frozenset[int]
    vocabulary: int
    words: str
    response_length: int
    ended: int
    lengths: Sequence[int]
    likeliest: float
    expected: float
    after_sentence: float | None


@torch.no_grad()
def endings(policy: Policy, rollout: Rollout, tokenizer: Any, ids: frozenset[int], response_length: int) -> Endings:
    """Read the answers' tokens, as many as TOKENS_READ, for the probability that each could have been the end."""
    known = sorted(token for token in ids if token < policy.actor.vocabulary)
    found: list[Tensor] = []
    behind: list[bool] = []
    per_row = max(TOKENS_READ // len(rollout), 1)
    for row in range(len(rollout)):
        one = torch.tensor([row], device=rollout.mask.device)
        texts = lay_out(rollout.prompts.select([row]), rollout.responses[one], rollout.mask[one])
        with policy.actor.precision():
            hidden = policy.actor.states(texts)
            places = evenly(len(hidden), per_row)
            logits = policy.actor.logits(hidden[torch.tensor(places, device=hidden.device)]) / rollout.temperature
        found.append(logits.softmax(dim=-1)[:, known].sum(dim=-1).double().cpu())
        written = [""] + [tokenizer.decode([token]) for token in texts.tokens.tolist()[:-1]]
        behind += [written[place].rstrip().endswith((".", "!", "?", "。", "！", "？")) for place in places]
    p, after = torch.cat(found), torch.tensor(behind)
    return Endings(
        ids=ids,
        vocabulary=policy.actor.vocabulary,
        words=", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ids)[:4]),
        response_length=response_length,
        ended=rollout.finish_reasons.count("stop"),
        lengths=rollout.mask.sum(dim=1).tolist(),
        likeliest=float(p.max()),
        expected=float(p.mean() * rollout.mask.sum() / len(rollout)),
        after_sentence=float(p[after].mean()) if bool(after.any()) else None,
    )


def eos(seen: Endings, *, chat: bool, fined: bool) -> Finding:
    """Whether an answer can come to an end, and does. `fined` says that an answer which does not costs something."""
    n, length = len(seen.lengths), seen.response_length
    measured = f"{seen.words} ends an answer; {seen.ended} of {n} ended within {length} tokens"
    measured += f"; p(end) at most {seen.likeliest:.2g}"
    if seen.after_sentence is not None:
        measured += f", {seen.after_sentence:.2g} behind a sentence"
    problems = id_problems(seen.ids, seen.vocabulary)
    if seen.ended == 0 and seen.expected < FEW_END and _unreachable(seen, chat=chat):
        problems.append(
            Problem(
                "stop",
                "No answer will come to an end: the model does not write this token where one would.",
                "Fine-tune the model on answers that end (clearppo sft writes the EOS after each), name another token "
                "with --stop_token_ids, or say that no answer is to end with --fixed_length true.",
            )
        )
    elif seen.ended == 0 and fined:
        reason = "None of the answers ended, so the fine for not ending meets all of them alike and teaches nothing."
        problems.append(Problem("look", reason, "Use a larger --response_length, or fine-tune on answers that end."))
    elif seen.ended == 0 and length >= (SHORT if chat else LONG):
        reason = "None of the answers ended: what is scored and learned from are their beginnings."
        problems.append(Problem("look", reason, "Use a larger --response_length, or fine-tune on answers that end."))
    empty = sum(length <= 1 for length in seen.lengths)
    if seen.ended and empty > n / 2:
        reason = f"{empty} of {n} answers end at once: there is nothing in them to score."
        problems.append(Problem("look", reason, "Look at the chat template, and at what the prompts end with."))
    fine = "Answers come to an end." if seen.ended else "An end is possible, and none came in so few tokens."
    return finding("eos", measured, problems, fine)


def _unreachable(seen: Endings, *, chat: bool) -> bool:
    limit = IN_CHAT if chat else UNREACHABLE
    return (seen.likeliest if seen.after_sentence is None else seen.after_sentence) < limit


def id_problems(ids: frozenset[int], vocabulary: int) -> list[Problem]:
    """Tokens that should end an answer and that the model does not have."""
    beyond = [token for token in ids if token >= vocabulary]
    if not beyond:
        return []
    reason = f"Token {beyond[0]} should end an answer, and the model knows {vocabulary} tokens."
    return [Problem("stop", reason, "Give the model the tokenizer that it was trained with.")]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How far readings of the same tokens are apart, in nats: the mean, and the largest."""

    mean: float
    largest: float

    def __str__(self) -> str:
        return f"{self.mean:.1e} nats a token (largest {self.largest:.1e})"


def apart(one: Tensor, other: Tensor, mask: Tensor) -> Readings:
    """How far two readings of log-probs are apart."""
    difference = (one - other)[mask].abs()
    return Readings(mean=float(difference.mean()), largest=float(difference.max()))


def sampler_log_probs(
    rollout: Rollout, learner: Tensor, *, tolerance: float, exact: bool, cut: str, corrected: bool
) -> Finding:
    """The sampler's log-probs against the learner's; `rollout.old_log_probs` are the sampler's. `cut` names the options
    that cut the distribution which is drawn from, if any do; `corrected`: weights correct for that."""
    found = apart(rollout.old_log_probs, learner, rollout.mask)
    problems = []
    usual = tolerance if exact else ROUNDED
    if not found.mean <= usual:
        verdict = "look" if not exact and found.mean <= ANOTHER else "stop"
        reason = f"Sampling and learning compute different models: at most {usual:g} is rounding."
        problems.append(Problem(verdict, reason, _TRY))
    if cut and not corrected:
        lost = float(1 - (rollout.old_log_probs - rollout.sampler_log_probs)[rollout.mask].double().exp().mean())
        reason = (
            f"{cut} draws from a cut distribution, which lacks {lost:.0%} of the probability; the losses are of the "
            "whole one, so the answers are off-policy."
        )
        problems.append(Problem("look", reason, "Use --top_k 0 --top_p 1 to train, or add --importance_cap 2."))
    fine = f"Rounding alone (at most {usual:g})."
    if not exact:
        fine += " The sampler rounds in other places, so learning reads the answers itself."
    return finding("sampler_log_probs", f"they differ by {found}", problems, fine)


def ratio_and_kl(
    policy: Policy, reference: Reference, rollout: Rollout, learner: Tensor, *, tolerance: float, sizes: dict[str, Any]
) -> Finding:
    """Before the first step: the ratio of a second reading to the first, and the distance from the reference."""
    again = _read(policy, rollout, rollout.prompts, **sizes)
    ratio = apart(again, learner, rollout.mask)
    kl = apart(reference.log_probs(rollout), learner, rollout.mask)
    problems = []
    if not ratio.mean <= tolerance:
        reason = f"The ratio is not 1: the model does not give the same numbers twice (at most {tolerance:g})."
        problems.append(Problem("stop", reason, _TRY))
    if not kl.mean <= tolerance:
        reason = f"The KL to the reference is not 0 at the start (at most {tolerance:g} is rounding)."
        problems.append(Problem("stop", reason, "The reference is not the model that training starts from: report it."))
    measured = f"|log ratio| {ratio.mean:.1e}, |log p - log p_ref| {kl.mean:.1e} nats a token"
    return finding("ratio_and_kl", measured, problems, "The ratio is 1 and the KL 0 before the first step.")


def padding_invariance(policy: Policy, rollout: Rollout, learner: Tensor, *, tolerance: float) -> Finding:
    """The same answers with more padding on the left, and each alone in the model."""
    padded = _read(policy, rollout, _more_padding(rollout.prompts), micro_batch_size=len(rollout))
    alone = _read(policy, rollout, rollout.prompts, micro_batch_size=1)
    by_padding, by_size = (apart(other, learner, rollout.mask) for other in (padded, alone))
    problems = []
    if not by_padding.mean <= tolerance:
        reason = f"A prompt with more padding on its left is another prompt to this model (at most {tolerance:g})."
        problems.append(Problem("stop", reason, "Report the architecture, and use another model."))
    if not by_size.mean <= tolerance:
        reason = f"What an answer's neighbours are changes its log-probs (at most {tolerance:g} is rounding)."
        problems.append(Problem("stop", reason, _TRY))
    measured = (
        f"{by_padding.mean:.1e} with {MORE_PADDING} more padding tokens, {by_size.mean:.1e} each alone (nats a token)"
    )
    return finding("padding_invariance", measured, problems, "Neither padding nor the micro-batch changes a number.")


def _more_padding(prompts: Prompts) -> Prompts:
    shape = (len(prompts), MORE_PADDING)
    ids = torch.cat([prompts.ids.new_zeros(shape), prompts.ids], dim=1)
    mask = torch.cat([prompts.mask.new_zeros(shape), prompts.mask], dim=1)
    return Prompts(ids=ids, mask=mask, texts=prompts.texts, columns=prompts.columns)


def _read(policy: Policy, rollout: Rollout, prompts: Prompts, **sizes: Any) -> Tensor:
    analysis = analyze_in_micro_batches(
        policy, prompts, rollout.responses, rollout.mask, temperature=rollout.temperature, **sizes
    )
    return analysis.log_probs
