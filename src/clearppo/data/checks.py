"""Is this a text, are these messages, is this a number? What is not becomes a DataError that names the place."""

import math
from collections.abc import Mapping
from typing import Any

from clearppo.data.files import article
from clearppo.errors import DataError

_MESSAGES = '[{"role": "user", "content": "..."}]'


def check_text(value: Any, name: str, place: str, *, may_be_blank: bool = False) -> str:
    """The value, a string of whole characters. Raises DataError for anything else, and for blanks alone."""
    if not isinstance(value, str):
        raise DataError(f"{place}: `{name}` is {article(value)}; it must be a string. Mend the row.")
    if not may_be_blank and not value.strip():
        raise DataError(f"{place}: `{name}` is {_blank(value)}. Write one, or remove the row.")
    check_encodable(value, place)
    return value


def check_messages(value: Any, name: str, place: str) -> list[Any]:
    """The value, a list of at least one {"role", "content"}. Raises DataError, naming the message that is not."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: `{name}` is {article(value)}; it must be a list of messages {_MESSAGES}. Mend it.")
    if not value:
        raise DataError(f"{place}: `{name}` is an empty list. Write a message, or remove the row.")
    for number, message in enumerate(value, start=1):
        _check_message(message, f"{place}, message {number}")
    return list(value)


def check_prompt(value: Any, place: str, name: str = "prompt") -> Any:
    """The value, a string that is not empty or a list of messages. Raises DataError for anything else."""
    if isinstance(value, str):
        if not value:
            raise DataError(f"{place}: `{name}` is an empty string. Write a prompt, or remove the row.")
        check_encodable(value, place)
        return value
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{place}: `{name}` is {article(value)}; it must be a string or a list of messages {_MESSAGES}. "
            "Mend the row."
        )
    return check_messages(value, name, place)


def check_number(value: Any, name: str, place: str, *, minimum: float | None = None) -> float:
    """The value as a float. Raises DataError if it is no number, not finite, or below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place}: `{name}` is {article(value)}; it must be a number. Mend the row.")
    if abs(value) > 1e30 or not math.isfinite(value):  # an int may be too big for a float
        raise DataError(f"{place}: `{name}` is {str(value)[:40]}; it must be a finite number. Mend the row.")
    if minimum is not None and value < minimum:
        raise DataError(f"{place}: `{name}` is {value}; it must be {minimum:g} or more. Mend the row.")
    return float(value)


def check_index(value: Any, size: int, name: str, place: str) -> int:
    """The value, the number of one of `size` things. Raises DataError if it is none of 0 to size - 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{place}: `{name}` is {article(value)}; it must be a whole number. Mend the row.")
    if not 0 <= value < size:
        raise DataError(
            f"{place}: `{name}` is {str(value)[:40]}, and there are {size} answers: it must be 0 to {size - 1}, "
            "counted from 0. Mend the row."
        )
    return value


def check_encodable(text: str, place: str) -> None:
    """Raises DataError for half a surrogate pair, which JSON may spell and which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise DataError(f"{place}: {half} is half a character. Write the other half, or remove it.") from error


def check_object(row: Any, place: str, example: str) -> Mapping[str, Any]:
    """The row, an object. Raises DataError for anything else."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: {article(row)}, not an object. Write {example}.")
    return row


def columns_seen(row: Mapping[str, Any]) -> str:
    """The row's columns, for messages."""
    return ", ".join(map(str, row)) or "none"


def shown(text: Any, limit: int = 40) -> str:
    """The beginning of a text in quotes, on one line; of messages the last one's."""
    content = text if isinstance(text, str) else text[-1]["content"]
    line = " ".join(content.split())
    return f'"{line}"' if len(line) <= limit else f'"{line[: limit - 1]}…"'


def _check_message(message: Any, place: str) -> None:
    wanted = 'Write {"role": "user", "content": "..."}.'
    if not isinstance(message, Mapping):
        raise DataError(f"{place}: {article(message)}, not an object. {wanted}")
    for key in ("role", "content"):
        if key not in message:
            raise DataError(f"{place}: no `{key}` (keys seen: {columns_seen(message)}). {wanted}")
        if not isinstance(message[key], str):
            raise DataError(f"{place}: `{key}` is {article(message[key])}; it must be a string. {wanted}")
        check_encodable(message[key], place)


def _blank(text: str) -> str:
    return "blank, spaces or line ends alone" if text else "an empty string"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 pair, 2 pairs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
