"""Before and after: what a report says of how much a policy changed, from the measurements that a run has left."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearppo.ui.metrics import number
from clearppo.ui.report_words import Say
from clearppo.ui.runs import Run

Pair = tuple[float, float]
"""A mean, and half of its 95 % interval."""

FIRST, WORST = 5, 2  # samples that are shown: of the file's beginning, and of those that lost most
UNPAIRED = 4
REWARD_MODEL = "reward model"  # as the quickstart calls it
Z = 1.96
LARGEST = 1e100
"""Numbers beyond it are left out: they measure nothing, and have no squares."""
MINUS = "−"
"""The sign before every negative number of a report, as wide as a plus."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured of the start and of the result, on the same prompts.

    `measures` are {name: {"before", "after", "change": {"mean", "half_interval_95"}}}, the optimised one first;
    `others` are (what, before, after) as text. `samples` and `worst` hold dicts with "prompt", "before", "after" and
    their scores.
    """

    sentence: str
    note: str
    measures: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    optimised: str = ""
    held_out: bool = False
    """Whether all other measures took no part in training."""
    others: Sequence[tuple[str, str, str]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    worst: Sequence[Mapping[str, Any]] = ()


def of_quickstart(file: Path, say: Say) -> Results | None:
    """From the evaluation.json that the quickstart writes; None if there is no such file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not {"measures", "verdict", "win_rate", "samples"} <= found.keys():
        return None  # somebody else's
    names = {name: say("reward_model") if name == REWARD_MODEL else name for name in found["measures"]}
    measures = _renamed(found["measures"], names)
    own, labeller = list(measures)[:2]
    scored = ("scores_before", "scores_after")
    samples = [row | {key: _renamed(row[key], names) for key in scored} for row in found["samples"]]
    kl, repetition, length = (found[name] for name in ("kl_nats", "repetition", "mean_length"))
    return Results(
        sentence=found["verdict"] if say("lang") == "en" else _verdict(measures, own, say),
        note=say("before_after.note", answers=found["answers"], prompts=found["prompts"]),
        measures=measures,
        optimised=own,
        held_out=True,
        others=[
            (say("win_rate", name=labeller), "", _share(found["win_rate"])),
            (say("kl_nats"), "0", f"{kl['mean']:.2f} ± {kl['half_interval_95']:.2f}"),
            (say("repetition"), f"{repetition['before']:.2%}", f"{repetition['after']:.2%}"),
            (say("mean_length"), f"{length['before']:.1f}", f"{length['after']:.1f}"),
        ],
        samples=samples[:FIRST],
        worst=_worst(samples, own),
    )


def of_evaluation(run: Run, step: int, say: Say) -> Results | None:
    """From evaluation/step-0.jsonl and that of a later step; None if one is not there, or of other prompts."""
    before, after = (_rows(run, f"step-{of}.jsonl") for of in (0, step))
    if not before or [row["prompt"] for row in before] != [row["prompt"] for row in after] or step == 0:
        return None
    own = say("score")
    names = {own: lambda row: row["score"]}
    names |= {name: lambda row, name=name: row["rewards"].get(name) for name in before[0]["rewards"]}
    measures = {name: stages for name, get in names.items() if (stages := _stages(before, after, get))}
    kl, won = _mean([row["kl"] for row in after]), _mean([row["won"] for row in after if row["won"] is not None])
    others = [
        *([(say("win_rate", name=own), "", _share(_cell(won)))] if not math.isnan(won[0]) else []),
        (say("kl_nats"), f"{_mean([row['kl'] for row in before])[0]:.2f}", f"{kl[0]:.2f} ± {kl[1]:.2f}"),
        (say("mean_length"), *(f"{_mean([row['length'] for row in rows])[0]:.1f}" for rows in (before, after))),
    ]
    samples = [
        {
            "prompt": first["prompt"],
            "before": first["completion"],
            "after": second["completion"],
            "scores_before": {name: get(first) for name, get in names.items()},
            "scores_after": {name: get(second) for name, get in names.items()},
        }
        for first, second in zip(before, after, strict=True)
    ]
    return Results(
        sentence=_sentence(measures.get(own), len(before), say),
        note=say("before_after.note", answers=len(after), prompts=len(before)),
        measures=measures,
        optimised=own,
        others=others,
        samples=samples[:FIRST],
        worst=_worst(samples, own),
    )


def of_samples(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Some answers of the first and of the last iteration in samples.jsonl; two empty lists if there are none."""
    rows = _lines(run.file("samples.jsonl"))
    steps = sorted({row["step"] for row in rows})
    if len(steps) < 2:
        return [], rows[:UNPAIRED]
    first, last = ([row for row in rows if row["step"] == step][:UNPAIRED] for step in (steps[0], steps[-1]))
    return first, last


def _renamed(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[name]: value for name, value in found.items()}


def _rows(run: Run, name: str) -> list[dict[str, Any]]:
    """The rows of an evaluation that are whole, with numbers or None for what was measured."""
    found: list[dict[str, Any]] = []
    for row in _lines(run.file("evaluation", name)):
        rewards, length, won = row.get("rewards"), _known(row.get("length")), _known(row.get("won"))
        if isinstance(rewards, dict) and row["kl"] is not None and length is not None:
            rewards = {source: _known(value) for source, value in rewards.items()}
            found.append(row | {"rewards": rewards, "length": length, "won": won})
    return found


def _lines(file: Path | None) -> list[dict[str, Any]]:
    """The answers in a JSON-lines file; what is none, as a line that is still being written, is left out."""
    found: list[dict[str, Any]] = []
    if file is not None:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and _is_answer(row):
                found.append(row | {name: _known(row.get(name)) for name in ("score", "kl")})
    return found


def _is_answer(row: Mapping[str, Any]) -> bool:
    prompt = row.get("prompt")
    is_text = isinstance(prompt, str) or (isinstance(prompt, list) and all(isinstance(m, dict) for m in prompt))
    return is_text and isinstance(row.get("completion"), str) and type(row.get("step")) is int


def _known(value: Any) -> float | None:
    known = number(value)
    return known if known is not None and abs(known) <= LARGEST else None


def _stages(before: Sequence[Any], after: Sequence[Any], get: Any) -> dict[str, dict[str, float]]:
    """Before, after and the change over the prompts that have both."""
    both = [(get(a), get(b)) for a, b in zip(before, after, strict=True)]
    both = [(a, b) for a, b in both if a is not None and b is not None]
    if not both:
        return {}
    columns = [a for a, _ in both], [b for _, b in both], [b - a for a, b in both]
    return {stage: _cell(_mean(c)) for stage, c in zip(("before", "after", "change"), columns, strict=True)}


def _mean(values: Sequence[float]) -> Pair:
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / max(n - 1, 1)
    return mean, Z * math.sqrt(variance / n)


def _cell(pair: Pair) -> dict[str, float]:
    return {"mean": pair[0], "half_interval_95": pair[1]}


def _share(cell: Mapping[str, float]) -> str:
    return f"{cell['mean']:.0%} ± {cell['half_interval_95']:.0%}"


def _worst(samples: Sequence[Mapping[str, Any]], optimised: str) -> list[Mapping[str, Any]]:
    """Behind those that are shown first, the answers that lost most by what was not optimised, if any lost."""

    def change(sample: Mapping[str, Any]) -> float:
        before, after = sample["scores_before"], sample["scores_after"]
        names = [name for name in before if name != optimised] or [optimised]
        return math.fsum((after[n] or 0.0) - (before[n] or 0.0) for n in names)

    return [sample for sample in sorted(samples[FIRST:], key=change)[:WORST] if change(sample) < 0]


def _verdict(measures: Mapping[str, Mapping[str, Mapping[str, float]]], own: str, say: Say) -> str:
    """train/verdict.py's sentence in the report's language."""

    def moved(name: str) -> int:
        mean, half = (measures[name]["change"][key] for key in ("mean", "half_interval_95"))
        return (mean - half > 0) - (mean + half < 0)

    names = {sign: [name for name in measures if name != own and moved(name) == sign] for sign in (1, 0, -1)}
    up, same, down = (say("and").join(names[sign]) for sign in (1, 0, -1))
    kind = "none" if moved(own) < 1 else "worse" if down else "good" if up else "only"
    return say(f"verdict.{kind}", own=own, up=up, same=same, down=down)


def unclear(change: Mapping[str, float]) -> bool:
    """Whether the interval of a change holds 0."""
    return abs(change["mean"]) <= change["half_interval_95"]


def _sentence(stages: Mapping[str, Mapping[str, float]] | None, n: int, say: Say) -> str:
    if stages is None:
        return ""
    before, after, change = (stages[stage] for stage in ("before", "after", "change"))
    return say(
        "verdict.score",
        n=n,
        before=f"{before['mean']:.3f}",
        after=f"{after['mean']:.3f}",
        change=f"{change['mean']:+.3f} ± {change['half_interval_95']:.3f}"
        + (f"{say('comma')}{say('no_change')}" if unclear(change) else ""),
    ).replace("-", MINUS)
