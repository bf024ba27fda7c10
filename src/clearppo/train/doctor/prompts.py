"""What can be said of the prompts and of special tokens before anything is sampled: pad, prompts_length,
duplicate_prompts."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import median
from typing import Any

from clearppo.train.doctor.finding import Finding, Problem, finding

DUPLICATES_LOOK, DUPLICATES_STOP = 0.2, 0.5
LEFT_OUT_LOOK, LEFT_OUT_STOP = 0.05, 0.5


def pad(tokenizer: Any, vocabulary: int) -> Finding:
    """The padding token, which may be the EOS."""
    token, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if token is None:
        measured, fine = (
            "none",
            f"The EOS {tokenizer.eos_token!r} pads instead; masks come from lengths, so it is safe.",
        )
    elif token == eos:
        measured, fine = (
            f"{tokenizer.pad_token!r}, the EOS",
            "That is safe here: masks come from lengths, never from ids.",
        )
    else:
        measured, fine = f"{tokenizer.pad_token!r} ({token}), not the EOS", "Masks come from lengths in any case."
    problems = []
    if token is not None and token >= vocabulary:
        reason = f"The padding token {token} lies behind the {vocabulary} tokens that the model knows."
        problems.append(Problem("stop", reason, 'Set "pad_token" in tokenizer_config.json to the EOS.'))
    return finding("pad", measured, problems, fine)


def prompts_length(lengths: Sequence[int], *, left_out: int, limit: int | None, option: str, noun: str) -> Finding:
    """How long the rows are that are used, in tokens, and how many were left out because they are longer than the
    `option` = `limit`. `noun` is what the rows are called."""
    total = len(lengths) + left_out
    share = left_out / total
    measured = (
        f"{len(lengths):,} {noun} of {min(lengths)} to {max(lengths)} tokens, half of them up to {median(lengths):g}"
    )
    problems = []
    if share > LEFT_OUT_LOOK:
        verdict = "stop" if share > LEFT_OUT_STOP else "look"
        reason = f"{left_out:,} of {total:,} {noun} ({share:.0%}) are longer than {option} = {limit} and left out."
        problems.append(Problem(verdict, reason, f"Use a larger --{option}, or shorten them yourself."))
    fine = f"{left_out:,} are left out for their length." if left_out else "None is cut, and none left out."
    return finding("prompts_length", measured, problems, fine)


def duplicate_prompts(rows: Iterable[Hashable], *, noun: str = "prompts", held_out: Iterable[Hashable] = ()) -> Finding:
    """How many rows are the same as another one, blanks and case aside; and how many of those that are measured with
    are learned from as well."""
    keys = [folded(row) for row in rows]
    counts = Counter(keys)
    share = 1 - len(counts) / len(keys)
    problems = []
    if share > DUPLICATES_LOOK:
        most, times = counts.most_common(1)[0]
        verdict = "stop" if share > DUPLICATES_STOP else "look"
        reason = (
            f"Without copies only {len(counts):,} of {len(keys):,} {noun} remain, and one comes {times:,} times "
            f"({_begin(most)}): the run learns these few by heart."
        )
        problems.append(Problem(verdict, reason, f"Remove the duplicates, or bring more {noun}."))
    held = [folded(row) for row in held_out]
    both = sum(key in counts for key in held)
    if held and both > 0.05 * len(held):
        reason = f"{both:,} of the {len(held):,} held-out {noun} are learned from as well, so they measure nothing new."
        problems.append(Problem("look", reason, "Take them out of one of the two files."))
    measured = f"{share:.0%} of {len(keys):,} {noun}"
    fine = "Blanks and case aside, nearly all are different." if share else "All are different, blanks and case aside."
    return finding("duplicate_prompts", measured, problems, fine)


def folded(key: Hashable) -> Hashable:
    """A prompt without its case and its blanks."""
    if isinstance(key, str):
        return " ".join(key.split()).casefold()
    return tuple(map(folded, key)) if isinstance(key, tuple) and not _is_ids(key) else key


def _is_ids(key: tuple[Hashable, ...]) -> bool:
    return bool(key) and isinstance(key[0], int)


def _begin(key: Hashable) -> str:
    """The beginning of a row, where it is text: of messages the last one's."""
    while isinstance(key, tuple) and key:
        key = key[-1]
    text = key if isinstance(key, str) else "the same tokens"
    return repr(text if len(text) <= 40 else text[:39] + "…")
