"""The human comparisons of HH-RLHF as both reward-model benchmarks use them: the same rows, cuts and settings.

Standard library only, so that it can be read from an environment that has the peer and not ClearPPO.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
FILE = "hh-harmless-test.jsonl.gz"
N_TRAIN = 2000

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Pair:
    """A dialogue that ends in "\\n\\nAssistant:", and two ways to go on from there."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Two files of {"chosen", "rejected"}, whole dialogues in HH-RLHF's own format; `digest` is of both."""

    train: Path
    held_out: Path
    n_train: int
    n_held_out: int
    n_shortened: int
    n_left_out: int
    digest: str


def read_pairs(path: Path) -> list[Pair]:
    """All comparisons of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [divided(row["chosen"], row["rejected"]) for row in rows]


def divided(chosen: str, rejected: str) -> Pair:
    """Two dialogues as what they share, up to the last "\\n\\nAssistant:" in it, and what is left of each."""
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = chosen[: min(len(chosen), len(rejected)) if same is None else same]
    end = shared.rfind(ASSISTANT) + len(ASSISTANT)
    if end < len(ASSISTANT):
        raise ValueError(f"the dialogues share no {ASSISTANT!r}: {chosen[:60]!r} and {rejected[:60]!r}")
    return Pair(chosen[:end], chosen[end:], rejected[end:])


def usable(pair: Pair) -> bool:
    """Whether there is anything to compare: neither answer is empty, and they differ."""
    return bool(pair.chosen.strip()) and bool(pair.rejected.strip()) and pair.chosen != pair.rejected


def shortened(pair: Pair, limit: int, count_tokens: CountTokens) -> Pair:
    """The pair such that neither dialogue has more than `limit` tokens, the front of it gone.

    First the oldest turns go, then the first words of the last question. What is left of it then may take a quarter of
    the limit in any case; answers too long to stand beside that lose their end.
    """

    def fits(prompt: str) -> bool:
        return max(count_tokens(prompt + pair.chosen), count_tokens(prompt + pair.rejected)) <= limit

    if fits(pair.prompt):
        return pair
    starts = [match.start() for match in re.finditer(re.escape(HUMAN), pair.prompt)] or [0]
    for start in starts[1:]:
        if fits(pair.prompt[start:]):
            return Pair(pair.prompt[start:], pair.chosen, pair.rejected)
    words = _words(pair.prompt[starts[-1] :].removeprefix(HUMAN).removesuffix(ASSISTANT))
    kept = _most(len(words), lambda n: fits(_question(words, n)))
    at_least = _most(len(words), lambda n: count_tokens(_question(words, n)) <= limit // 4)
    prompt = _question(words, max(kept, at_least))
    answers = (_cut_at_the_end(prompt, answer, limit, count_tokens) for answer in (pair.chosen, pair.rejected))
    return Pair(prompt, *answers)


def _question(words: Sequence[str], n: int) -> str:
    """A prompt with the last `n` words of a question."""
    return (HUMAN + "".join(words[len(words) - n :]) if n else "") + ASSISTANT


def _cut_at_the_end(prompt: str, answer: str, limit: int, count_tokens: CountTokens) -> str:
    words = _words(answer)
    return "".join(words[: _most(len(words), lambda n: count_tokens(prompt + "".join(words[:n])) <= limit)])


def _words(text: str) -> list[str]:
    """Words, each with the space before it; joined they are the text again, without space at its end."""
    return re.findall(r"\s*\S+", text)


def _most(n: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to `n` that fits (0 if none does), if whatever is less than one that fits also fits."""
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def opening(pair: Pair) -> str:
    """What the human says first: dialogues that begin with the same words are one conversation that was continued."""
    return pair.prompt.split(ASSISTANT)[0].removeprefix(HUMAN).strip()


def hold_out(groups: Sequence[str], n: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of `n` rows to hold out and of all others, both in order; no group is on both sides.

    Groups are taken in a random order of `seed`, and those left out for which there is no room any more.

    Raises ValueError if no choice of that kind gives exactly `n`.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    names = sorted(members)
    random.Random(seed).shuffle(names)
    held: list[int] = []
    for name in names:
        if len(held) + len(members[name]) <= n:
            held += members[name]
    if len(held) != n:
        raise ValueError(f"{n} rows cannot be held out: the groups allow {len(held)}.")
    inside = set(held)
    return sorted(held), [index for index in range(len(groups)) if index not in inside]


def prepare(source: Path, folder: Path, count_tokens: CountTokens, *, limit: int, seed: int, n_train: int) -> Prepared:
    """Shorten and split the comparisons and write both files into `folder`, the learned ones in a random order."""
    everything = read_pairs(source)
    short = [shortened(pair, limit, count_tokens) for pair in everything]
    kept = [index for index, pair in enumerate(short) if usable(pair)]
    held, rest = hold_out([opening(everything[index]) for index in kept], len(kept) - N_TRAIN, seed)
    random.Random(seed).shuffle(rest)
    texts = {
        name: "".join(_line(short[kept[index]]) for index in rows)
        for name, rows in (("train", rest[:n_train]), ("held_out", held))
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Prepared(
        train=folder / "train.jsonl",
        held_out=folder / "held_out.jsonl",
        n_train=min(n_train, len(rest)),
        n_held_out=len(held),
        n_shortened=sum(short[index] != everything[index] for index in kept),
        n_left_out=len(everything) - len(kept),
        digest=hashlib.sha256((texts["train"] + "\f" + texts["held_out"]).encode()).hexdigest()[:16],
    )


def _line(pair: Pair) -> str:
    return json.dumps({"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected}) + "\n"


def parser(description: str, output: str) -> argparse.ArgumentParser:
    """The options that ours and the peer's benchmark share, with one default for both."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", default="smollm2-135m-instruct", help="language model that both start from")
    options.add_argument("--max_tokens", type=int, default=256, help="longest dialogue; longer ones lose their front")
    options.add_argument("--learning_rate", type=float, default=5e-5, help="peak; linear decay to 0")
    options.add_argument("--warmup_steps", type=int, default=12, help="optimiser steps of linear warm-up")
    options.add_argument("--batch_size", type=int, default=16, help="pairs an optimiser step")
    options.add_argument("--micro_batch_size", type=int, default=8, help="pairs through the model at once")
    options.add_argument("--epochs", type=float, default=1.0, help="passes over the training pairs")
    options.add_argument("--max_steps", type=int, default=None, help="stop after so many optimiser steps")
    options.add_argument("--n_train", type=int, default=N_TRAIN, help="training pairs, fewer for a trial")
    options.add_argument("--seed", type=int, default=0, help="of the order and the new weights")
    options.add_argument("--split_seed", type=int, default=0, help="of what is held out")
    options.add_argument("--fp32", action="store_true", help="no bfloat16 autocast")
    options.add_argument("--output", type=Path, default=Path(output), help="JSON file for the result")
    return options


def settings(options: argparse.Namespace) -> dict[str, float | int | str | None]:
    """The options that must be equal for two results to be compared."""
    how = ("learning_rate", "warmup_steps", "batch_size", "epochs", "max_steps")
    return {name: getattr(options, name) for name in ("max_tokens", "n_train", "split_seed", *how)}
