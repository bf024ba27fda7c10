"""The sentiment task of lm-human-preferences on real sentences: end what others began, and end it positive.

Run it from the repository's root:

    .venv/bin/python -m benchmarks.sentiment              40 iterations of 64 answers
    .venv/bin/python -m benchmarks.sentiment --tiny       a few minutes, to see that it runs

A classifier learned from half of the labelled sentences is the gold score (the log-odds of "positive"), and PPO
optimises it directly. Prompts are the first words of sentences of the other half, some held out. The options are the
recipe lm-human-preferences (fixed length, truncation at the full stop, adaptive KL, whitened rewards) with what a CPU
needs otherwise: small batches and a larger learning rate. VADER is measured and never optimised.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gold import FILE, Labelled, halves, read_sentences, train_gold
from benchmarks.measures import mean
from benchmarks.output import interval, machine, require, skip, table, write

OPTIMISED, NOT_OPTIMISED = "gold", "VADER"
N_SHOWN = 5
CANDIDATE_WORDS = (4, 5, 6, 7, 8)  # of a sentence that begin a prompt


def main() -> None:
    chosen = arguments().parse_args()
    if chosen.tiny:
        chosen.steps, chosen.batch_size, chosen.n_held_out = 2, 16, 32
    source = require(FILE)
    try:
        import vaderSentiment  # noqa: F401
    except ImportError:
        skip("this benchmark needs the package vaderSentiment: pip install 'clearppo[quickstart]'.")
    result = run(chosen, source)
    print(shown(result))
    write(chosen.output, result)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct", help="language model to start from")
    options.add_argument("--steps", type=int, default=40, help="iterations of PPO")
    options.add_argument("--batch_size", type=int, default=64, help="answers an iteration")
    options.add_argument("--learning_rate", type=float, default=5e-5)
    options.add_argument("--n_held_out", type=int, default=256, help="prompts to measure with, never learned from")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--tiny", action="store_true", help="2 steps of 16 answers, 32 held-out prompts")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/sentiment.json"))
    options.add_argument("--keep", type=Path, default=None, help="keep the run's directory here")
    return options


def run(options: argparse.Namespace, source: Path) -> dict[str, Any]:
    """Train the gold, train the policy, measure before and after: the result as it goes into the file."""
    from clearppo.build.ppo import build_ppo
    from clearppo.config import load_config
    from clearppo.console import console_listener

    began = time.monotonic()
    learned, others = halves(read_sentences(source), options.seed)
    gold = train_gold(learned)
    prompts = openings([text for text, _ in others], options.seed)
    held_out, training = prompts[: options.n_held_out], prompts[options.n_held_out :]

    def gold_score(completions: Sequence[str], **_: Any) -> list[float]:
        return gold.log_odds(completions)

    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        output = options.keep or Path(folder) / "ppo"
        dataset = Path(folder) / "prompts.jsonl"
        dataset.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in training), encoding="utf-8")
        flags = ppo_options(options, dataset, output) | {"reward_funcs": [gold_score]}
        config = load_config(recipe="lm-human-preferences", config_path=None, flags=flags)
        with console_listener() as listener:
            ppo = build_ppo(config, listener=listener)
            measure = examiner(ppo, held_out, gold_score)
            listener.note(f"measuring the start model on {len(held_out)} held-out prompts ...")
            before = measure()
            ppo.train()
            listener.note("measuring the trained model on the same prompts ...")
            after = measure()
    return {
        "gold": {
            "learned": gold.accuracy(learned),
            "held_out": gold_accuracy(gold, others),
            "features": len(gold.index),
        },
        "settings": {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate", "seed", "tiny")},
        "prompts": {"learned": len(training), "held_out": len(held_out)},
        **measured(before, after),
        "samples": samples(held_out, before, after),
        "seconds": round(time.monotonic() - began, 1),
        **machine("clearppo", "vaderSentiment"),
    }


def gold_accuracy(gold: Any, rows: Sequence[Labelled]) -> dict[str, float]:
    """Its accuracy on sentences that it never saw, with a 95 % interval."""
    from benchmarks.measures import accuracy

    odds = gold.log_odds([text for text, _ in rows])
    return accuracy([value if label else -value for value, (_, label) in zip(odds, rows, strict=True)])


def openings(sentences: Sequence[str], seed: int) -> list[str]:
    """The first 4 to 8 words of sentences that have at least 4 more, each opening once, in a random order."""
    chance = random.Random(seed)
    found = []
    for sentence in sentences:
        words = sentence.split()
        n = chance.choice(CANDIDATE_WORDS)
        if len(words) >= n + 4 and sentence[0].isalpha():  # not in the middle of a quotation or of dots
            found.append(" ".join(words[:n]))
    found = list(dict.fromkeys(found))
    chance.shuffle(found)
    return found


def ppo_options(options: argparse.Namespace, dataset: Path, output: Path) -> dict[str, Any]:
    """What differs from the recipe, whose 1,000,000 episodes in batches of 512 are not for a CPU."""
    return {
        "model_name_or_path": options.model,
        "dataset_name": str(dataset),
        "output_dir": str(output),
        "batch_size": options.batch_size,
        "total_episodes": options.batch_size * options.steps,
        "learning_rate": options.learning_rate,
        "critic_learning_rate": 10 * options.learning_rate,  # its one layer starts at 0 and has few iterations
        "kl_horizon": 1000.0,  # the coefficient must move within some thousand episodes
        "score_scaling": "reference",  # the original normalised its reward model to the start model's answers
        "seed": options.seed,
        "device": options.device,
    }


def examiner(ppo: Any, prompts: Sequence[str], gold_score: Callable[..., list[float]]) -> Callable[[], Any]:
    """A function that measures the policy as it is on these prompts, always with the same random numbers."""
    from clearppo.build.ppo import build_sampler
    from clearppo.data import encode_prompts
    from clearppo.feedback.function import FunctionScorer, load_reward_function
    from clearppo.rollout.truncate import Truncation
    from clearppo.train.evaluation import evaluate

    rows = [{"prompt": text} for text in prompts]
    encoded = encode_prompts(rows, ppo.tokenizer, max_prompt_length=None, room=None, source="held-out prompts")
    batch = encoded.batch(list(range(len(encoded))), ppo.pad_id).to(ppo.engine.device)
    scorers = {
        OPTIMISED: FunctionScorer(gold_score),
        NOT_OPTIMISED: FunctionScorer(load_reward_function("clearppo.feedback.sentiment:vader")),
    }
    sampling = ppo.config.sampling
    truncation = None
    if sampling.truncate_token is not None:
        truncation = Truncation.from_text(sampling.truncate_token, sampling.truncate_after, ppo.tokenizer)

    def measure() -> Any:
        sampler = build_sampler(ppo, seed=0)
        return evaluate(
            ppo.policy, batch, sampler=sampler, reference=ppo.reference, scorers=scorers, truncation=truncation
        )

    return measure


def measured(before: Any, after: Any) -> dict[str, Any]:
    """Both measures before, after and their paired change; the share of prompts won; KL, repetition, length."""
    from clearppo.train.evaluation import wins

    measures = {}
    for name in (OPTIMISED, NOT_OPTIMISED):
        first, last = before.scores[name], after.scores[name]
        measures[name] = {
            "before": mean(first),
            "after": mean(last),
            "change": mean([b - a for a, b in zip(first, last, strict=True)]),
        }
    return {
        "measures": measures,
        "win_rate": mean(wins(after.scores[OPTIMISED], before.scores[OPTIMISED])),
        "kl_nats": mean(after.kl),
        "repetition": {"before": before.repetition, "after": after.repetition},
        "different_answers": {
            stage: len(set(side.completions)) / len(side.completions)
            for stage, side in (("before", before), ("after", after))
        },
    }


def samples(prompts: Sequence[str], before: Any, after: Any) -> list[dict[str, Any]]:
    """Every held-out prompt with both answers and what they scored."""
    return [
        {
            "prompt": prompt,
            **{stage: side.completions[i] for stage, side in (("before", before), ("after", after))},
            **{
                f"{name}_{stage}": side.scores[name][i]
                for name in (OPTIMISED, NOT_OPTIMISED)
                for stage, side in (("before", before), ("after", after))
            },
        }
        for i, prompt in enumerate(prompts)
    ]


def shown(result: dict[str, Any]) -> str:
    """The tables and some samples."""
    rows = [["mean [95 %]", "before", "after", "change"]]
    for name, note in ((OPTIMISED, "log-odds, optimised"), (NOT_OPTIMISED, "-1 to 1, not optimised")):
        cells = result["measures"][name]
        rows.append([f"{name} ({note})", *(interval(cells[stage], "mean", signed=True) for stage in cells)])
    rows.append(["KL from the start model, nats an answer", "0", interval(result["kl_nats"], "mean"), ""])
    rows.append(["win rate by gold", "", interval(result["win_rate"], "mean"), ""])
    for key, name in (("repetition", "repeated 4-grams"), ("different_answers", "different answers")):
        rows.append([name, *(f"{result[key][stage]:.1%}" for stage in ("before", "after")), ""])
    gold = result["gold"]["held_out"]
    lines = [
        f"Gold classifier: accuracy {interval(gold, 'accuracy')} on {gold['n']} sentences that it never saw.",
        table(f"{result['prompts']['held_out']} held-out prompts, one answer each", rows),
    ]
    for row in result["samples"][:N_SHOWN]:
        lines.append(f"\n{row['prompt']} ...")
        lines += [
            f"  {stage:>6} {row[f'{OPTIMISED}_{stage}']:+.2f}  {' '.join(row[stage].split())}"
            for stage in ("before", "after")
        ]
    lines.append(f"\nFinished in {result['seconds'] / 60:.1f} minutes.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
