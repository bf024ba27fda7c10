"""What a row's columns mean: which format it is in, and what the formats of other libraries say."""

from collections.abc import Mapping, Sequence
from typing import Any

from clearppo.data.checks import check_text, columns_seen
from clearppo.data.files import article
from clearppo.errors import DataError

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
}
"""ShareGPT's words for who speaks, and the chat templates' words for the same."""


def detect(row: Mapping[str, Any], formats: Sequence[Sequence[str]]) -> Sequence[str] | None:
    """The first of `formats` (the columns that each needs) that the row has; columns that hold something come first.

    Tables have all columns in all rows, so one that holds nothing (null) says little. None: it is in none of them.
    """
    filled = next((keys for keys in formats if all(row.get(key) is not None for key in keys)), None)
    return filled or next((keys for keys in formats if all(key in row for key in keys)), None)


def require_columns(row: Mapping[str, Any], keys: Sequence[str], place: str) -> None:
    """Raises DataError if the row lacks one of the columns that the first row showed the file to have."""
    missing = next((key for key in keys if key not in row), None)
    if missing is not None:
        raise DataError(
            f"{place}: no `{missing}` (columns seen: {columns_seen(row)}), and the first row has {in_words(keys)}. "
            "Give all rows of a file the same format."
        )


def in_words(keys: Sequence[str]) -> str:
    """`a`, `b` and `c`."""
    quoted = [f"`{key}`" for key in keys]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def sharegpt_messages(value: Any, place: str) -> list[Any]:
    """`conversations` as messages: ShareGPT's {"from", "value"}, or messages already. Raises DataError for others."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: `conversations` is {article(value)}; it must be a list of messages. Mend the row.")
    messages: list[Any] = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            messages.append(turn)  # a message already, or nothing that can be used, which the caller's check says
            continue
        role = SHAREGPT_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
        if role is None:
            raise DataError(
                f"{place}, message {number}: `from` is {str(turn['from'])[:40]!r}; it must be one of "
                f"{', '.join(SHAREGPT_ROLES)}. Mend the message, or remove the row."
            )
        messages.append({"role": role, "content": turn["value"]})
    return messages


def alpaca_messages(row: Mapping[str, Any], place: str) -> list[Any]:
    """Alpaca's `instruction`, and `input` below it if there is one, as the user's message."""
    instruction = check_text(row["instruction"], "instruction", place)
    extra = check_text(row.get("input") or "", "input", place, may_be_blank=True)
    return [{"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction}]


def tldr_prompt(row: Mapping[str, Any], place: str) -> str:
    """The prompt that summarize-from-feedback made of a Reddit post: SUBREDDIT, TITLE and POST, then "TL;DR:"."""
    post = check_text(row["post"], "post", place)
    lines = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title")]
    heads = [f"{head}{check_text(row[key], key, place)}\n\n" for head, key in lines if row.get(key) is not None]
    return f"{''.join(heads)}POST: {post}\n\nTL;DR:"


def spaced(text: str) -> str:
    """The text with a blank before it, unless it starts with one: it follows "TL;DR:"."""
    return text if text[:1].isspace() else f" {text}"
