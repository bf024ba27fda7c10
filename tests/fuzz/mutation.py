"""Inputs that nobody meant: bytes and values changed by chance, and what must be true of the answer to them.

CLEARPPO_FUZZ in the environment multiplies how many inputs are tried (1: some thousand, in seconds).
"""

import json
import os
import random
import signal
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clearppo.errors import ClearPPOError

SCALE = float(os.environ.get("CLEARPPO_FUZZ", "1"))
LONGEST_MESSAGE = 1500
STRINGS = (
    "", " ", "\n", "\t", "a", "none", "true", "null", "1e6", "-1", "nan", "~", "[", "]", "{}", ":", "#", "'", '"', "\\",
    "%s", "{0}", "{prompt}", "{eos}", "<eos>", "../..", "/", "\0", "\x1b[2J", "\ud800", "\u2028", "\ufeff", "\u202egnp",
    "שלום עליכם", "مرحبا بالعالم", "你好", "e\u0301\u0301\u0301", "👩‍👩‍👧‍👦", "🏳️‍🌈", "a" * 3000, "é" * 300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e-320, 1e308, 10**30, 2**63, float("nan"), float("inf"), [], {},
    [[]], [None], [""], [0, 1], {"": ""}, {"role": "user"}, [{"role": "user", "content": "x"}], [{"content": "x"}],
    [{"role": "assistant", "content": ""}],
)  # fmt: skip


def times(count: int) -> int:
    """How often to try, where `count` is what a default run can afford."""
    return max(int(count * SCALE), 1)


def seeds(count: int) -> Iterator[random.Random]:
    """Chance for each try, the same every time."""
    return (random.Random(seed) for seed in range(times(count)))


def odd_value(chance: random.Random) -> Any:
    """A value that a JSON or YAML file may hold and few programs expect."""
    return chance.choice(VALUES) if chance.random() < 0.5 else chance.choice(STRINGS)


def mutated(chance: random.Random, value: Any) -> Any:
    """A JSON value with one thing changed somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        changed = dict(value)
        match chance.randrange(5):
            case 0:
                del changed[key]
            case 1:
                changed[str(odd_value(chance))] = changed.pop(key)
            case 2:
                changed[str(odd_value(chance))] = odd_value(chance)
            case _:
                changed[key] = mutated(chance, value[key])
        return changed
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        match chance.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case 2:
                return [*value[:place], odd_value(chance), *value[place:]]
            case _:
                return [*value[:place], mutated(chance, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.5:
        return mutated_text(chance, value)
    return odd_value(chance)


def mutated_text(chance: random.Random, text: str) -> str:
    """A text with a piece taken out, put in, or said twice."""
    start = chance.randrange(len(text) + 1)
    end = min(len(text), start + chance.choice((0, 1, 1, 3, 20)))
    filling = chance.choice(("", chance.choice(STRINGS), chance.choice(string.printable), text[start:end] * 2))
    return text[:start] + filling + text[end:]


def mutated_bytes(chance: random.Random, raw: bytes) -> bytes:
    """A file with a bit flipped, a piece cut out, put in or said twice, or its end missing."""
    start = chance.randrange(len(raw) + 1)
    end = min(len(raw), start + chance.choice((1, 1, 2, 8, 64)))
    match chance.randrange(6):
        case 0:
            return raw[:start]
        case 1:
            return raw[:start] + raw[end:]
        case 2:
            return raw[:end] + raw[start:]
        case 3:
            return raw[:start] + bytes(chance.randrange(256) for _ in range(end - start)) + raw[end:]
        case 4:
            return raw[:start] + chance.choice(STRINGS).encode("utf-8", "surrogatepass") + raw[start:]
        case _:
            if start == len(raw):
                return b""
            return raw[:start] + bytes([raw[start] ^ 1 << chance.randrange(8)]) + raw[start + 1 :]


def json_lines(rows: list[Any]) -> bytes:
    """Rows as a file of JSON lines, escaped, so that any text may stand in them."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def ends_well(call: Callable[[], Any], what: object, *, seconds: float = 10.0) -> ClearPPOError | None:
    """Call it. It must return, or raise one ClearPPOError that a person can read, in bounded time; that is returned.

    `what` is the input, for the report of a failure.
    """
    try:
        with _at_most(seconds):
            call()
    except ClearPPOError as error:
        check_message(str(error), what)
        return error
    except BaseException as error:
        error.add_note(f"input: {_shown(what)}")
        raise
    return None


def check_message(text: str, what: object) -> None:
    """A message is one line of readable text with an end, and not a book."""
    shown = _shown(what)
    assert text.strip(), shown
    assert len(text) <= LONGEST_MESSAGE, (text, shown)
    assert "Traceback" not in text, (text, shown)
    text.encode()  # a lone surrogate could not be printed
    control = [c for c in text if ord(c) < 32 or 127 <= ord(c) < 160]
    assert not control, (control, text, shown)


def tree_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory with its content."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def _shown(what: object) -> str:
    return repr(what)[:4000]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block after so long: a hang is found rather than waited for."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"no answer for {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
