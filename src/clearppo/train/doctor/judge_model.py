"""reward_tokenizer: whether a reward model's tokenizer is the one that its weights were trained with.

No token may lie behind the embedding; where the embedding is the policy's own, row for row, the vocabulary must be too;
and in an embedding that was trained, two spellings of a word lie near each other (`spellings.py`).
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional

from clearppo.data.templates import render_chat, with_answer
from clearppo.models.loading import context_length
from clearppo.train.doctor.finding import Finding, Problem, finding
from clearppo.train.doctor.spellings import strangers
from clearppo.train.doctor.template import strange_words, unknown_tokens

SAME_ROWS = 0.9
OTHER_IDS = 0.01
MEND = "Put the tokenizer files that the reward model was trained with into its directory."


@runtime_checkable
class Judge(Protocol):
    """A reward model that reads text, as far as it is looked at here."""

    name: str
    model: Any
    tokenizer: Any

    def encoded(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[int]]: ...


def reward_tokenizer(
    judge: Judge, policy_tokenizer: Any, policy_model: Any,
    prompts: Sequence[Any], completions: Sequence[str], *, longest: Any, response_length: int,
) -> Finding:  # fmt: skip
    """The reward model's tokenizer beside its embedding. `prompts` and `completions` are sampled answers, a row each;
    `longest` is the longest prompt of all."""
    policy_embedding = policy_model.get_input_embeddings().weight
    # One that stands on the policy's own trunk has no embedding beside it.
    whole = judge.model if hasattr(judge.model, "get_input_embeddings") else policy_model
    embedding, room = whole.get_input_embeddings().weight, context_length(whole)
    tokenizer, rows = judge.tokenizer, embedding.shape[0]
    measured = [f"{len(tokenizer):,} tokens, {rows:,} rows in the embedding"]
    problems = _sizes(tokenizer, rows)
    ids = judge.encoded(prompts, completions) if not problems else []
    said, wrong = ("", []) if problems else strangers(tokenizer, embedding, MEND)
    measured += [said] if said else []
    problems += wrong
    problems += _same_trunk(tokenizer, embedding, policy_tokenizer, policy_embedding)
    problems += unknown_tokens(tokenizer, ids)
    problems += strange_words(
        tokenizer, _read_by(tokenizer, prompts, completions), chat=not isinstance(prompts[0], str),
        whose="the reward model",
    )  # fmt: skip
    needed = len(judge.encoded([longest], [""])[0]) + response_length if not problems else 0
    if room is not None and needed > room:
        reason = f"The longest prompt with {response_length} tokens of answer is about {needed}, and it reads {room}."
        problems.append(Problem("look", reason, "Use a smaller --max_prompt_length or --response_length."))
    if ids:
        per_word = sum(map(len, ids)) / max(sum(len(text.split()) for text in _texts(prompts, completions)), 1)
        measured.append(f"{per_word:.1f} tokens a word")
    return finding("reward_tokenizer", ", ".join(measured), problems, "Tokenizer and weights go together.")


def _sizes(tokenizer: Any, rows: int) -> list[Problem]:
    beyond = sorted((token, word) for word, token in tokenizer.get_vocab().items() if token >= rows)
    if beyond:
        verdict = "stop" if len(beyond) > OTHER_IDS * len(tokenizer) else "look"
        reason = (
            f"{len(beyond):,} tokens of the tokenizer (from {beyond[0][0]}, {beyond[0][1]!r}) lie behind the "
            f"{rows:,} rows of the embedding: it is another model's."
        )
        return [Problem(verdict, reason, MEND)]
    if len(tokenizer) < 0.8 * rows:
        reason = f"{len(tokenizer):,} tokens for {rows:,} rows of the embedding are fewer than padding explains."
        return [Problem("look", reason, MEND)]
    return []


def _same_trunk(tokenizer: Any, embedding: Tensor, policy_tokenizer: Any, policy_embedding: Tensor) -> list[Problem]:
    """Where the reward model grew from the policy's own model, the tokenizers must be one."""
    if embedding.shape != policy_embedding.shape:
        return []
    step = max(embedding.shape[0] // 512, 1)
    own, others = embedding.detach()[::step].double().cpu(), policy_embedding.detach()[::step].double().cpu()
    if not float(functional.cosine_similarity(own, others, dim=-1).median()) > SAME_ROWS:
        return []
    vocabulary, policys = tokenizer.get_vocab(), policy_tokenizer.get_vocab()
    moved = sum(policys.get(word) != token for word, token in vocabulary.items()) / len(vocabulary)
    if moved <= OTHER_IDS:
        return []
    reason = (
        f"Its embedding is the policy's own, token for token, and {moved:.0%} of its tokenizer's tokens have another "
        "number there: the tokenizer is another model's."
    )
    return [Problem("stop", reason, MEND)]


def _read_by(tokenizer: Any, prompts: Sequence[Any], completions: Sequence[str]) -> list[str]:
    """The texts as the chat template writes them for the reward model, where there are messages and a template."""
    if isinstance(prompts[0], str) or not tokenizer.chat_template:
        return _texts(prompts, completions)
    return [render_chat(tokenizer, with_answer(p, c)) for p, c in zip(prompts, completions, strict=True)]


def _texts(prompts: Sequence[Any], completions: Sequence[str]) -> list[str]:
    return [
        (prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt)) + completion
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
