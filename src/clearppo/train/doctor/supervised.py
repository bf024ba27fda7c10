"""The checks on a run of `clearppo sft` or `clearppo reward` that is built and not begun: its texts and its tokenizer.
Nothing is computed with the model."""

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

from clearppo.config import RewardModelConfig, SFTConfig
from clearppo.data import ComparisonSet, SequenceSet
from clearppo.data.templates import prompt_key
from clearppo.models.loading import stop_token_ids
from clearppo.models.network import Network
from clearppo.train.agreement import agreement
from clearppo.train.doctor.answers import id_problems
from clearppo.train.doctor.finding import Finding, Problem, finding
from clearppo.train.doctor.prompts import duplicate_prompts, pad, prompts_length
from clearppo.train.doctor.spellings import strangers
from clearppo.train.doctor.template import BELONGS, N_READ, evenly, out_of_range, strange_words, unknown_tokens

LITTLE = 0.01
"""A smaller share of all tokens is hardly worth reading the rest for."""
UNENDED = 0.5
LONGER_LOOK, LONGER_STOP = 0.7, 0.9
FEW_PAIRS = 50
CONTRADICT_LOOK, CONTRADICT_STOP = 0.02, 0.2


def step_findings(
    config: SFTConfig | RewardModelConfig,
    tokenizer: Any,
    network: Network,
    learned: SequenceSet | ComparisonSet,
    held_out: SequenceSet | ComparisonSet | None,
    objective: str,
) -> list[Finding]:
    """What is found of a run with these rows; no model runs and no random number is drawn."""
    noun = "comparisons" if isinstance(learned, ComparisonSet) else "texts"
    findings = [
        _template(tokenizer, network.inner, _texts(learned)),
        pad(tokenizer, network.vocabulary),
        prompts_length(
            learned.lengths, left_out=learned.n_too_long, limit=config.data.max_length, option="max_length", noun=noun
        ),
        duplicate_prompts(_keys(learned), noun=noun, held_out=[] if held_out is None else _keys(held_out)),
    ]
    if isinstance(learned, ComparisonSet):
        why = "This is what the run optimises."
        said = Finding(name="objective", verdict="ok", measured=objective, reason=why)
        return [said, *findings, _lengths(learned), _pairs(learned)]
    stop_ids = stop_token_ids(network.inner, tokenizer, [])
    return [_learned(learned, objective), *findings, _endings(learned, tokenizer, stop_ids, network.vocabulary)]


def _texts(rows: SequenceSet | ComparisonSet) -> Sequence[Sequence[int]]:
    if isinstance(rows, ComparisonSet):
        return [ids for answers in rows.ids for ids in answers]
    return rows.ids


def _keys(rows: SequenceSet | ComparisonSet) -> list[Hashable]:
    """What makes two rows the same: all tokens of a demonstration; of a comparison prompt and answers."""
    if isinstance(rows, SequenceSet):
        return list(rows.ids)
    return [(prompt_key(row.prompt), *sorted(row.answers)) for row in rows.comparisons]


def _template(tokenizer: Any, model: Any, texts: Sequence[Sequence[int]]) -> Finding:
    embedding = model.get_input_embeddings().weight
    shown = [texts[i] for i in evenly(len(texts), N_READ)]
    problems = out_of_range(tokenizer, texts, embedding.shape[0])
    said, wrong = strangers(tokenizer, embedding, BELONGS)
    problems += [*wrong, *unknown_tokens(tokenizer, shown)]
    if not problems:
        written = [tokenizer.decode(ids, skip_special_tokens=False) for ids in shown]
        problems += strange_words(tokenizer, written, chat=False)
    measured = f"{len(shown)} of {len(texts):,} texts read" + f"; {said}" * bool(said)
    return finding("chat_template", measured, problems, "Every word of a template is one token, and none is lost.")


def _learned(rows: SequenceSet, objective: str) -> Finding:
    """How much of the texts is learned."""
    total = sum(rows.lengths)
    share = rows.n_loss_tokens / total
    measured = f"{objective}; {rows.n_loss_tokens:,} of {total:,} tokens ({share:.0%}) are learned"
    problems = []
    if share < LITTLE:
        reason = "Nearly all tokens are read as prompts and not learned."
        problems.append(
            Problem("look", reason, "Look at which column is the completion, or use --completion_only_loss false.")
        )
    return finding("objective", measured, problems, "This is what the run optimises.")


def _endings(texts: SequenceSet, tokenizer: Any, stop_ids: frozenset[int], vocabulary: int) -> Finding:
    """Whether the model is taught to end an answer."""
    ended = sum(
        bool(stop_ids & {token for token, learned in list(zip(ids, mask, strict=True))[-3:] if learned})
        for ids, mask in zip(texts.ids, texts.loss_masks, strict=True)
    )
    words = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(stop_ids)[:4])
    measured = f"{words} ends an answer; {ended:,} of {len(texts):,} texts end with it"
    problems = id_problems(stop_ids, vocabulary)
    if ended < UNENDED * len(texts):
        reason = (
            "Most texts do not end with a token that ends an answer, so the model will not learn to come to an end."
        )
        mend = 'Give prompts with completions (the EOS is added), or set "eos_token" to the template\'s end of a turn.'
        problems.append(Problem("look", reason, mend))
    return finding("eos", measured, problems, "The model is taught to end its answers.")


def _lengths(rows: ComparisonSet) -> Finding:
    """How often the better answer is the longer one: what a model that counts words would be right in."""
    longer = [
        [sizes[better] > sizes[worse] for better, worse in row.pairs if sizes[better] != sizes[worse]]
        for row, sizes in zip(rows.comparisons, rows.answer_tokens, strict=True)
    ]
    if not any(longer):
        return finding("reward_length", "all pairs are of equal length", [], "Length cannot decide.")
    share = agreement(longer)
    measured = f"the longer answer wins {share.value:.0%} of {share.n_pairs:,} pairs of unequal length"
    side, most = ("longer", share.value) if share.value >= 0.5 else ("shorter", 1 - share.value)
    problems = []
    if most > LONGER_LOOK and share.n_pairs >= FEW_PAIRS:
        reason = f"To prefer the {side} answer is right in {most:.0%}, so that is what the model may learn."
        mend = f"Bring pairs in which the {side} answer loses, or leave out the most unequal ones."
        problems.append(Problem("stop" if most > LONGER_STOP else "look", reason, mend))
    return finding("reward_length", measured, problems, "Length alone does not decide.")


def _pairs(rows: ComparisonSet) -> Finding:
    """Whether the comparisons agree with each other."""
    said = set(chain.from_iterable(_judgements(row) for row in rows.comparisons))
    against = sum((prompt, worse, better) in said for prompt, better, worse in said)
    share = against / len(said)
    measured = f"{rows.n_pairs:,} pairs in {len(rows):,} comparisons, {against // 2:,} judged both ways"
    problems = []
    if share > CONTRADICT_LOOK:
        reason = f"{share:.0%} of the pairs are contradicted by another row."
        verdict = "stop" if share > CONTRADICT_STOP else "look"
        problems.append(Problem(verdict, reason, "Remove pairs that are judged both ways, or ask a third time."))
    return finding("reward_pairs", measured, problems, "No pair is contradicted by many others.")


def _judgements(row: Any) -> list[tuple[Hashable, str, str]]:
    prompt = prompt_key(row.prompt)
    return [(prompt, row.answers[better], row.answers[worse]) for better, worse in row.pairs]
