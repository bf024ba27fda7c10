"""Where the prompt ends and the answers begin, when `chosen` and `rejected` hold both."""

from collections.abc import Sequence
from typing import Any

from clearppo.data.templates import Message, Text
from clearppo.errors import DataError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""How Anthropic's HH-RLHF writes who speaks. Such dialogues stay text: the prompt ends with the assistant's name."""

Split = tuple[Text, str, str]
"""The prompt, the better answer, the worse answer."""


def implicit_prompt(chosen: Any, rejected: Any, place: str) -> tuple[Any, str, str]:
    """The longest beginning that both have, up to where an answer may begin, and the two answers after it.

    Messages: all but the last message. HH-RLHF: through the last "\\n\\nAssistant:" before the texts part, so that an
    answer may go over several turns. Other text: up to a blank, so that no word is cut and each answer has one; texts
    that share no whole word have no prompt (""). Raises DataError for messages and dialogues whose prompts differ.
    """
    if isinstance(chosen, str):
        return _split_dialogue(chosen, rejected, place) if is_dialogue(chosen) else _split_text(chosen, rejected)
    shared = common_length(_bare(chosen), _bare(rejected))
    # Of two answers one of which is the beginning of the other's conversation, nothing would be left.
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    rests = chosen[shared:], rejected[shared:]
    if shared == 0 or any(rest[0]["role"] != "assistant" for rest in rests):
        raise DataError(
            f"{place}: the prompts of `chosen` and `rejected` differ: they part at message {shared + 1}, before the "
            "assistant answers. Compare answers to the same messages, or give the `prompt`."
        )
    return chosen[:shared], only_answer(rests[0], place), only_answer(rests[1], place)


def explicit_prompt(prompt: Text, chosen: Any, rejected: Any, place: str) -> Split:
    """The prompt as given, and the two answers; a prompt that `chosen` and `rejected` repeat is taken off them.

    It is taken off messages and HH-RLHF's dialogues only: other text that begins with its prompt may mean to. Raises
    DataError if they repeat another prompt than this.
    """
    if isinstance(chosen, str):
        if not any(text.startswith(HUMAN) for text in (chosen, rejected)):
            return prompt, chosen, rejected
        if isinstance(prompt, str) and all(text.startswith(prompt) for text in (chosen, rejected)):
            return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
        raise _differ(place)
    if len(chosen) == len(rejected) == 1:
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return asked, only_answer(chosen, place), only_answer(rejected, place)
    own, better, worse = implicit_prompt(chosen, rejected, place)
    if isinstance(prompt, str):
        repeats = any(message["content"] == prompt for message in own)
    else:
        repeats = _bare(own) == _bare(prompt)
    if not repeats:
        raise _differ(place)
    return own, better, worse


def only_answer(messages: Sequence[Message], place: str) -> str:
    """The content of the assistant's only message. Raises DataError if it is not one, or not the assistant's."""
    if len(messages) != 1:
        raise DataError(
            f"{place}: an answer of {len(messages)} messages. Put the messages that all answers share into the "
            "`prompt`, and one message of the assistant into each answer."
        )
    if messages[0]["role"] != "assistant":
        raise DataError(f"{place}: the answer's role is {messages[0]['role'][:40]!r}; it must be assistant. Mend it.")
    return messages[0]["content"]


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many items (characters, tokens, messages) the two begin with alike."""
    differ = (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differ, min(len(left), len(right)))


def is_dialogue(chosen: Any) -> bool:
    """Whether this is text in HH-RLHF's manner, in which an answer may be silence: somebody was shown it, and chose."""
    return isinstance(chosen, str) and chosen.startswith(HUMAN) and ASSISTANT in chosen


def _split_dialogue(chosen: str, rejected: str, place: str) -> Split:
    found = chosen[: common_length(chosen, rejected)].rfind(ASSISTANT)
    if found < 0:
        raise DataError(
            f"{place}: the prompts of `chosen` and `rejected` differ: the dialogues part before the first Assistant "
            "answers. Compare answers to the same words, or remove the row."
        )
    end = found + len(ASSISTANT)
    return chosen[:end], chosen[end:], rejected[end:]


def _split_text(chosen: str, rejected: str) -> Split:
    for end in range(common_length(chosen, rejected), 0, -1):
        follows = chosen[end : end + 1].isspace() and rejected[end : end + 1].isspace()
        if follows and not chosen[end - 1].isspace() and chosen[end:].strip() and rejected[end:].strip():
            return chosen[:end], chosen[end:], rejected[end:]
    return "", chosen, rejected


def _bare(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Who said what, without whatever else a message may carry."""
    return [(message["role"], message["content"]) for message in messages]


def _differ(place: str) -> DataError:
    return DataError(
        f"{place}: `chosen` and `rejected` begin with another prompt than `prompt`. Mend the row, or remove `prompt`."
    )
