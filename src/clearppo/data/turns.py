"""Demonstrations as tokens: where the prompt ends, which tokens are the assistant's, and the EOS, learned too."""

from collections.abc import Sequence

from clearppo.data.templates import Message, Tokenizer, chat_ids, plain_ids, prompt_ids, with_answer

Taught = tuple[list[int], list[bool]]
"""The tokens of a text, and for each whether it is learned."""


class UnclearTurnError(ValueError):
    """The chat template does not let one see which tokens are the assistant's."""


def text_tokens(tokenizer: Tokenizer, prompt: str, completion: str) -> Taught:
    """A prompt, its completion and an EOS; the completion and the EOS are learned.

    The prompt's tokens are exactly `prompt_ids(prompt)`, after which the policy will write: if the two texts together
    would be tokenised across their border, they are tokenised apart, the completion as it reads after other text.
    """
    before = prompt_ids(tokenizer, prompt)
    whole = plain_ids(tokenizer, prompt + completion, end=False)
    if whole[: len(before)] != before:
        whole = before + _continuation(tokenizer, completion)
    return _ended(tokenizer, whole, [False] * len(before) + [True] * (len(whole) - len(before)))


def chat_tokens(
    tokenizer: Tokenizer, prompt: Sequence[Message], completion: Sequence[Message], *, completion_only: bool
) -> Taught:
    """A conversation by the chat template; the assistant's words after `prompt`, up to the EOS, are learned.

    An EOS is added if the template ends the assistant's last turn without one. Where a turn begins and ends is found by
    writing the conversation as far as that turn, and comparing tokens. Without `completion_only` nothing is looked for
    and every token is learned.

    Raises ValueError, with half a sentence for the caller to complete, if there is no chat template, it refuses the
    messages, or (with `completion_only`) it writes a turn differently when the conversation goes on.
    """
    if prompt and prompt[-1]["role"] == completion[0]["role"] == "assistant":
        messages = with_answer(prompt, completion[0]["content"])
        first = len(messages) - 1
    else:
        messages, first = [*prompt, *completion], len(prompt)
    whole = chat_ids(tokenizer, messages)
    learned = [True] * len(whole)
    if completion_only:
        learned = [False] * len(whole)
        for number in range(first, len(messages)):
            if messages[number]["role"] == "assistant":
                # What the policy will see at this point is the prompt's tokens: a started answer is no new turn.
                started = prompt_ids(tokenizer, prompt) if number < len(prompt) else None
                start, end = _turn(tokenizer, messages, number, whole, started)
                learned[start:end] = [True] * (end - start)
    if messages[-1]["role"] != "assistant" or _ends(tokenizer, messages, whole):
        return whole, learned
    return _ended(tokenizer, whole, learned)


def _turn(
    tokenizer: Tokenizer, messages: Sequence[Message], number: int, whole: list[int], started: list[int] | None
) -> tuple[int, int]:
    """Where the assistant's message begins and ends in the whole conversation's tokens."""
    before = _opened(tokenizer, messages[:number]) if started is None else started
    turn = chat_ids(tokenizer, messages[: number + 1])
    if turn[: len(before)] != before or whole[: len(turn)] != turn:
        raise UnclearTurnError(
            f"the chat template writes message {number + 1} differently when the conversation goes on, so which tokens "
            "are the assistant's cannot be told"
        )
    # The policy stops at the EOS: it never writes the line end that many templates put behind it.
    places = (place for place in reversed(range(len(before), len(turn))) if turn[place] == tokenizer.eos_token_id)
    return len(before), next(places, len(turn) - 1) + 1


def _ends(tokenizer: Tokenizer, messages: Sequence[Message], whole: list[int]) -> bool:
    """Whether the template writes an EOS within or after the last message."""
    before = _opened(tokenizer, messages[:-1]) if len(messages) > 1 else []
    return whole.count(tokenizer.eos_token_id) > before.count(tokenizer.eos_token_id)


def _opened(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens after which the assistant begins to speak."""
    return chat_ids(tokenizer, messages, add_generation_prompt=True)


def _ended(tokenizer: Tokenizer, ids: list[int], learned: list[bool]) -> Taught:
    eos = tokenizer.eos_token_id
    if eos is None or (ids and learned[-1] and ids[-1] == eos):
        return ids, learned
    return [*ids, eos], [*learned, True]


def _continuation(tokenizer: Tokenizer, completion: str) -> list[int]:
    """The tokens of a text that follows another one, no special tokens.

    Some tokenizers put a blank before whatever they are given. A line end before the text takes it, and is cut off
    again, unless it melts into the text's first token.
    """

    def bare(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    line_end, both = bare("\n"), bare("\n" + completion)
    return both[len(line_end) :] if both[: len(line_end)] == line_end else bare(completion)
