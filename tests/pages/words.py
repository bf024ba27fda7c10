"""Prompts and answers for made runs: small sentences with a mood, and texts that a careless page would break on."""

from dataclasses import dataclass
from typing import Any

import numpy as np

EOS = "<|endoftext|>"

SUBJECTS = [[" The", " acting"], [" Its", " story"], [" The", " music"], [" Every", " scene"], [" This", " film"]]
VERBS = [[" is"], [" felt"], [" was"], [" re", "mains"]]
MANNERS = [[], [" truly"], [" rather"], [" so"]]
GOOD = [[" wonder", "ful"], [" brilliant"], [" a", " delight"], [" moving"], [" a", " joy", " to", " watch"]]
BAD = [[" dull"], [" a", " mess"], [" bor", "ing"], [" forget", "table"], [" a", " waste", " of", " time"]]
ENDS = [["."], ["!"], [","], [".", "\n"]]

HTML = ["<script>", "alert", "('x')", "</", "script", ">", "<b>", "bold", "</b>", " &amp;", " <img src=x onerror=",
        "alert(1)>", " {{ 7 * 7 }}", EOS]  # fmt: skip
EMOJI = [" I", " love", " it", " 🎬", " 👩‍👩‍👧‍👦", "!!", " 🇨🇭", " 👍🏽", EOS]
CHINESE = ["这部", "电影", "非常", "好看", "，", "演员", "很", "出色", "。", EOS]
RIGHT_TO_LEFT = [" هذا", " الفيلم", " رائع", " جدا", " ", "שלום", " (good)", EOS]
NEWLINES = ["\n", "\n", "- one", "\n", "\t", "- two", "  ", "\r\n", " end", EOS]
LONG_WORD = [" Super" + "califragilistic" * 9, "expialidocious" * 12, " and", " " + "ä" * 200, EOS]
ODD = [HTML, EMOJI, CHINESE, RIGHT_TO_LEFT, NEWLINES, LONG_WORD]
"""The answers of the rows 0, 2, 4, ... of every made iteration."""

PROMPTS: list[Any] = [
    "I watched it with <i>my</i> parents & found that",
    "Honestly, the second half",
    "这部电影讲的是一个侦探，",
    "أعتقد أن",
    "Two lines\nof a prompt, and\tthen",
    "The director " + "wrote-and-cut-" * 12 + "it: 🎥",
    "The opening scene",
    "My neighbour's dog, which is old,",
    "After an hour of waiting",
    "The food at the cinema",
    "It rained, and so",
    [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "What do you think of <the> film?"},
    ],
    [
        {"role": "user", "content": "你好！"},
        {"role": "assistant", "content": "Hello 👋"},
        {"role": "user", "content": "Say something kind\nabout a film."},
    ],
    "Compared with the book",
    "The critics said",
    "In the last ten minutes",
]

PIECES = sorted({
    piece
    for group in (SUBJECTS, VERBS, MANNERS, GOOD, BAD, ENDS, ODD)
    for pieces in group
    for piece in pieces
})  # fmt: skip
IDS = {piece: i for i, piece in enumerate(PIECES)}
GOOD_IDS = {IDS[piece] for pieces in GOOD for piece in pieces if piece != " a"}
BAD_IDS = {IDS[piece] for pieces in BAD for piece in pieces if piece != " a"}


@dataclass(frozen=True)
class Answer:
    """The token ids of an answer, its text as scorers read it, how it ended, and its mood from -1 to 1."""

    ids: list[int]
    text: str
    finish_reason: str
    mood: float

    @property
    def tokens(self) -> list[str]:
        return [PIECES[i] for i in self.ids]


def answer(rng: np.random.Generator, *, good: float, longest: int, likely_end: float = 0.6) -> Answer:
    """Sentences, each of them friendly with the probability `good`, that end by themselves or are cut."""
    pieces: list[str] = []
    ended = False
    while len(pieces) < longest and not ended:
        mood = GOOD if rng.random() < good else BAD
        for group in (SUBJECTS, VERBS, MANNERS, mood, ENDS):
            pieces += group[rng.integers(len(group))]
        ended = rng.random() < likely_end
    return of_pieces([*pieces, EOS] if ended else pieces, longest)


def of_pieces(pieces: list[str], longest: int) -> Answer:
    """An answer of these pieces, cut at `longest`."""
    kept = pieces[:longest]
    ids = [IDS[piece] for piece in kept]
    ended = kept[-1] == EOS
    good, bad = sum(i in GOOD_IDS for i in ids), sum(i in BAD_IDS for i in ids)
    return Answer(
        ids=ids,
        text="".join(kept[:-1] if ended else kept),
        finish_reason="stop" if ended else "length",
        mood=(good - bad) / max(good + bad, 1),
    )
