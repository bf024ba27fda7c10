"""From a row of any known format to a Demonstration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo.data.checks import check_messages, check_object, check_prompt, check_text, columns_seen
from clearppo.data.files import Located
from clearppo.data.formats import (
    alpaca_messages,
    detect,
    in_words,
    require_columns,
    sharegpt_messages,
    spaced,
    tldr_prompt,
)
from clearppo.data.templates import Text
from clearppo.errors import DataError

EXAMPLE = '{"prompt": "The film was", "completion": " a delight."}'


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt, and how it is to be answered: both strings, or both lists of messages.

    The prompt may be empty ("" or no message): then the completion is a whole text, or a whole conversation. `where`
    says where it stands in its file ("line 3"), for messages.
    """

    prompt: Text
    completion: Text
    where: str = ""


Parts = tuple[Text, Text]


def read_demonstrations(located: Sequence[Located], source: str) -> tuple[Demonstration, ...]:
    """Every row as a Demonstration. The first row says which format the file is in, and every row must fit.

    Raises DataError, naming `source` and the row, for a row that is in no known format, in another one than the first,
    or that demonstrates nothing.
    """
    first_where, first = located[0]
    first_place = f"{source} {first_where}"
    keys = detect(check_object(first, first_place, EXAMPLE), list(FORMATS))
    if keys is None:
        known = "; ".join(in_words(known) for known in FORMATS)
        raise DataError(
            f"{first_place}: no demonstration in the columns seen ({columns_seen(first)}). Give one of these: {known}."
        )
    read: list[Demonstration] = []
    for where, row in located:
        place = f"{source} {where}"
        require_columns(check_object(row, place, EXAMPLE), keys, place)
        prompt, completion = FORMATS[tuple(keys)](row, place)
        if read and isinstance(completion, str) is not isinstance(read[0].completion, str):
            kinds = ("a string", "messages") if isinstance(completion, str) else ("messages", "a string")
            raise DataError(
                f"{place}: its completion is {kinds[0]}, and that of the first row is {kinds[1]}. "
                "Give all rows of a file the same format."
            )
        read.append(Demonstration(prompt=prompt, completion=completion, where=where))
    return tuple(read)


def _prompt_completion(row: Mapping[str, Any], place: str) -> Parts:
    return _parts(row["prompt"], row["completion"], ("prompt", "completion"), place)


def _input_output(row: Mapping[str, Any], place: str) -> Parts:
    return _parts(row["input"], row["output"], ("input", "output"), place)


def _parts(prompt: Any, completion: Any, names: tuple[str, str], place: str) -> Parts:
    prompt = check_prompt(prompt, place, names[0])
    if not isinstance(completion, list | tuple):
        completion = check_text(completion, names[1], place)
        return prompt, completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
    messages = _taught(check_messages(completion, names[1], place), place)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt[-1]["role"] == messages[0]["role"] == "assistant" and len(messages) > 1:
        raise DataError(
            f"{place}: `{names[0]}` ends in the assistant's own words, which the completion is to continue, and the "
            f"completion has {len(messages)} messages. Give one, or let the prompt end with the user's message."
        )
    return prompt, messages


def _messages(row: Mapping[str, Any], place: str) -> Parts:
    return [], _conversation(row["messages"], "messages", place)


def _sharegpt(row: Mapping[str, Any], place: str) -> Parts:
    messages = sharegpt_messages(row["conversations"], place)
    return [], _conversation(messages, "conversations", place)


def _alpaca(row: Mapping[str, Any], place: str) -> Parts:
    output = check_text(row["output"], "output", place)
    return alpaca_messages(row, place), [{"role": "assistant", "content": output}]


def _tldr(row: Mapping[str, Any], place: str) -> Parts:
    return tldr_prompt(row, place), spaced(check_text(row["summary"], "summary", place))


def _text(row: Mapping[str, Any], place: str) -> Parts:
    return "", check_text(row["text"], "text", place)


FORMATS: dict[tuple[str, ...], Callable[[Mapping[str, Any], str], Parts]] = {
    ("prompt", "completion"): _prompt_completion,
    ("messages",): _messages,
    ("conversations",): _sharegpt,
    ("instruction", "output"): _alpaca,
    ("post", "summary"): _tldr,
    ("input", "output"): _input_output,
    ("text",): _text,
}
"""The columns by which a format is known, the surest first: Alpaca's rows have an `input` and an `output` as well."""


def _conversation(value: Any, name: str, place: str) -> list[Any]:
    messages = _taught(check_messages(value, name, place), place)
    if messages[0]["role"] == "assistant":
        raise DataError(
            f"{place}: its first message is the assistant's, so it answers nothing. "
            "Put a user's or a system message before it, or remove it."
        )
    return messages


def _taught(messages: list[Any], place: str) -> list[Any]:
    """The messages. Raises DataError if none of them is the assistant's, or one of the assistant's is blank."""
    spoken = [number for number, message in enumerate(messages, start=1) if message["role"] == "assistant"]
    if not spoken:
        roles = ", ".join(dict.fromkeys(message["role"][:40] for message in messages))
        raise DataError(
            f"{place}: none of its messages is the assistant's (roles seen: {roles}), so it shows nothing to write. "
            'Give a message {"role": "assistant", "content": "..."}, or remove the row.'
        )
    for number in spoken:
        check_text(messages[number - 1]["content"], "content", f"{place}, message {number}")
    return messages
