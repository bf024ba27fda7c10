"""Where in the source a sentence comes from: its template is looked for among those that errors are raised with."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clearppo.catalogue.formulas import ROOT

FEWEST = 12
"""Letters of its own that a template must have: what says less may be anything."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A place that raises: `error` is the class by its name there, `letters` how much of the sentence is its own."""

    error: str
    file: str
    line: int
    letters: int


def origin(sentence: str) -> Origin | None:
    """The place that raises with this sentence, or with its beginning; None if there is none."""
    told = " ".join(sentence.split())
    if len(told) > 4000:
        return None
    words = {word.lower() for word in re.findall(r"[A-Za-z]{4,}", told)}
    found = [
        Origin(error=error, file=path.relative_to(ROOT).as_posix(), line=line, letters=letters)
        for path, text in _files()
        if len(words & _vocabulary(text)) >= min(3, len(words))
        for error, line, template in _raised(text)
        if (letters := _agrees(template, told))
    ]
    return max(found, key=lambda place: place.letters, default=None)


def _files() -> Iterator[tuple[Path, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name != "catalogue":
            text = path.read_text(encoding="utf-8")
            if "Error(" in text:
                yield path, text


def _vocabulary(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Za-z]{4,}", text)}


def _raised(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """The errors that are made in a file: class, line, and the texts between what is filled in."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.args and (name := ast.unparse(node.func)).endswith("Error"):
            pieces = _pieces(node.args[-1])
            if name[0].isupper() and sum(map(len, pieces)) >= FEWEST:
                yield name, node.lineno, pieces


def _pieces(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return [text for value in values for text in (_pieces(value) if isinstance(value, ast.Constant) else [])]
        case _:
            return []


def _agrees(pieces: list[str], sentence: str) -> int:
    """How many letters of the sentence are the template's: its pieces in their order, the last of which may be cut as
    the sentence is; 0 if they are not there."""
    at = letters = 0
    for number, piece in enumerate(pieces):
        wanted = " ".join(piece.split())
        found = sentence.find(wanted, at)
        if found < 0:
            whole_so_far = number > 0 and letters >= max(FEWEST, len(sentence) // 2)
            return letters if whole_so_far or _begins(wanted, sentence[at:]) else 0
        at, letters = found + len(wanted), letters + len(wanted)
    return letters if letters >= FEWEST else 0


def _begins(piece: str, rest: str) -> bool:
    """Whether the sentence ends within this piece."""
    at = rest.find(piece[:FEWEST])
    return at >= 0 and len(rest) - at > 2 * FEWEST and piece.startswith(rest[at:])
