"""The other side of worker.py: a process that imports one reward function and calls it, line by line.

In:   {"spec", "option", "path"}, then {"prompts", "completions", "ids", "columns"} again and again
Out:  {"name"}, then {"scores"} again and again; or {"error", "kind"} in the place of either
"""

import hashlib
import json
import math
import os
import queue
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from clearppo.batch import Prompts, Rollout
from clearppo.errors import ClearPPOError
from clearppo.feedback.function import FunctionScorer, load_reward_function


def main() -> None:
    """Serve one parent until it is gone."""
    lines, say = _own_streams()
    hello = json.loads(lines.get())
    sys.path += [place for place in hello["path"] if place not in sys.path]
    try:
        scorer = FunctionScorer(load_reward_function(hello["spec"], option=hello["option"]))
    except ClearPPOError as error:
        say(_told(error))
        return
    say({"name": scorer.name})
    while True:
        say(_scored(scorer, lines.get()))


def _scored(scorer: FunctionScorer, line: str) -> dict[str, Any]:
    _seed(line)
    try:
        total = scorer(_rollout(json.loads(line))).total.tolist()
    except ClearPPOError as error:
        return _told(error)
    return {"scores": [None if math.isnan(score) else score for score in total]}


def _told(error: ClearPPOError) -> dict[str, Any]:
    return {"error": str(error), "kind": type(error).__name__}


def _own_streams() -> "tuple[queue.SimpleQueue[str], Callable[[dict[str, Any]], None]]":
    """Lines from the parent, and how it is answered. What the function prints goes to stderr, and it reads nothing."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    incoming = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    lines = queue.SimpleQueue[str]()

    def read() -> None:
        for line in incoming:
            lines.put(line)
        os._exit(0)  # the parent is gone, even if a call never ends

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    threading.Thread(target=read, daemon=True).start()
    return lines, say


def _seed(line: str) -> None:
    """Random numbers that depend on nothing but what is scored."""
    seed = int.from_bytes(hashlib.sha256(line.encode()).digest()[:4], "big")
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


def _rollout(request: dict[str, Any]) -> Rollout:
    """The answers as scorers read them; the numbers that only learning reads are 0."""
    lengths = torch.tensor([len(ids) for ids in request["ids"]])
    B, T = len(lengths), max(int(lengths.max()), 1)
    mask = torch.arange(T) < lengths.unsqueeze(1)
    responses = torch.zeros((B, T), dtype=torch.long)
    responses[mask] = torch.tensor([token for ids in request["ids"] for token in ids], dtype=torch.long)
    zeros = torch.zeros((B, T))
    return Rollout(
        prompts=Prompts(
            ids=torch.zeros((B, 1), dtype=torch.long),
            mask=torch.ones((B, 1), dtype=torch.bool),
            texts=tuple(request["prompts"]),
            columns={name: tuple(column) for name, column in request["columns"].items()},
        ),
        responses=responses,
        mask=mask,
        old_log_probs=zeros,
        old_values=zeros,
        sampler_log_probs=zeros,
        finish_reasons=("stop",) * B,
        completions=tuple(request["completions"]),
        temperature=1.0,
        policy_version=0,
    )


if __name__ == "__main__":
    main()
