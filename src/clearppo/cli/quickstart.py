"""`clearppo quickstart`: a real language model gets measurably better by PPO, in minutes, on a laptop."""

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearppo.train.evaluation import Evaluation
    from clearppo.train.run import PPORun

MODEL = "smollm2-135m-instruct"
OPTIMISED, HELD_OUT = "VADER", "TextBlob"
N_SHOWN = 5
N_ANSWERS = 2  # to each held-out prompt


@click.command()
@click.option("--seed", type=int, default=None, help="Seed of the whole run; another one gives another run.")
@click.option("--output_dir", default=None, help="Where the run goes. Default: the first free runs/quickstart[-N].")
@click.option("--total_episodes", type=int, default=None, help="Answers to learn from; fewer is faster and weaker.")
@click.option("--model_name_or_path", default=MODEL, show_default=True, help="Another language model to try it on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def quickstart(
    seed: int | None, output_dir: str | None, total_episodes: int | None, model_name_or_path: str, device: str
) -> None:
    """Train SmolLM2-135M to write cheerful continuations, and show what became of it.

    The reward is VADER's sentiment of the answer, a Python function. Prompts are openings of reviews and everyday
    opinions that come with ClearPPO, 320 to learn from and 160 held out. At the end: the mean score on held-out prompts
    before and after, a second sentiment measure that was not optimised, the distance from the start model, and answers
    side by side.
    """
    from clearppo.config import load_config
    from clearppo.console import console_listener

    flags: dict[str, Any] = {
        "model_name_or_path": model_name_or_path,
        "dataset_name": str(prompts_file("train")),
        "reward_funcs": ["clearppo.feedback.sentiment:vader"],
        "output_dir": output_dir or str(free_directory(Path("runs/quickstart"))),
        "device": device,
    }
    chosen = {"seed": seed, "total_episodes": total_episodes}
    flags |= {name: value for name, value in chosen.items() if value is not None}
    config = load_config(recipe="quickstart", config_path=None, flags=flags)
    began = time.monotonic()
    with console_listener() as listener:
        from clearppo.build import build_ppo

        run = build_ppo(config, listener=listener)
        listener.note("measuring the start model on 160 held-out prompts ...")
        judge = _examiner(run)
        before = judge()
        run.train()
        listener.note("measuring the trained model on the same prompts ...")
        after = judge()
    result = compare(before, after)
    run.run_dir.write("evaluation.json", json.dumps(result | {"answers": _answers(before, after)}, indent=2) + "\n")
    show(result, _answers(before, after)[:N_SHOWN], run.run_dir.path, time.monotonic() - began)


def prompts_file(split: str) -> Path:
    """The prompts that come with ClearPPO: `train` or `heldout`."""
    return Path(str(files("clearppo.data") / "quickstart" / f"{split}.jsonl"))


def free_directory(wanted: Path) -> Path:
    """`wanted`, or wanted-2, wanted-3, ... if it is taken."""
    place, n = wanted, 1
    while place.exists() and any(place.iterdir()):
        n += 1
        place = wanted.with_name(f"{wanted.name}-{n}")
    return place


def _examiner(run: "PPORun") -> Any:
    """A function that measures the policy as it is on the held-out prompts, always with the same random numbers."""
    from clearppo.build import build_sampler, reward_function
    from clearppo.data import encode_prompts, load_rows
    from clearppo.train.evaluation import evaluate

    source = str(prompts_file("heldout"))
    prompt_set = encode_prompts(load_rows(source), run.tokenizer, max_prompt_length=None, room=None, source=source)
    prompts = prompt_set.batch(list(range(len(prompt_set))) * N_ANSWERS, run.pad_id).to(run.engine.device)
    scorers = {
        OPTIMISED: reward_function("clearppo.feedback.sentiment:vader"),
        HELD_OUT: reward_function("clearppo.feedback.sentiment:textblob"),
    }

    def examine() -> "Evaluation":
        sampler = build_sampler(run, seed=0)
        return evaluate(run.policy, prompts, sampler=sampler, reference=run.reference, scorers=scorers)

    return examine


def compare(before: "Evaluation", after: "Evaluation") -> dict[str, Any]:
    """The numbers of the final table, as they go into evaluation.json."""
    from clearppo.train.evaluation import wins

    measures = {
        name: {
            stage: _interval(evaluation.scores[name]) for stage, evaluation in (("before", before), ("after", after))
        }
        for name in (OPTIMISED, HELD_OUT)
    }
    return {
        "measures": measures,
        "win_rate": _interval(wins(after.scores[OPTIMISED], before.scores[OPTIMISED])),
        "kl_nats": _interval(after.kl),
        "repetition": {"before": before.repetition, "after": after.repetition},
        "mean_length": {
            "before": sum(before.lengths) / len(before.lengths),
            "after": sum(after.lengths) / len(after.lengths),
        },
        "prompts": len(after.kl) // N_ANSWERS,
        "answers": len(after.kl),
    }


def _interval(values: "Sequence[float]") -> dict[str, float]:
    """Mean and half a 95 % interval over prompts: answers to one prompt are no independent observations."""
    from clearppo.train.evaluation import mean_interval

    n = len(values) // N_ANSWERS
    a_prompt = [sum(values[i::n]) / N_ANSWERS for i in range(n)]
    return dict(zip(("mean", "half_interval_95"), mean_interval(a_prompt), strict=True))


def _answers(before: "Evaluation", after: "Evaluation") -> list[dict[str, Any]]:
    prompts = [json.loads(line)["prompt"] for line in prompts_file("heldout").read_text(encoding="utf-8").splitlines()]
    return [
        {
            "prompt": prompt,
            "before": before.completions[i],
            "after": after.completions[i],
            "score_before": before.scores[OPTIMISED][i],
            "score_after": after.scores[OPTIMISED][i],
        }
        for i, prompt in enumerate(prompts)
    ]


def show(result: dict[str, Any], answers: list[dict[str, Any]], directory: Path, seconds: float) -> None:
    """The final tables."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from clearppo.console import shortened

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 110))
    table = Table(
        title=f"{result['prompts']} held-out prompts, {N_ANSWERS} answers each",
        title_justify="left",
        title_style="bold",
    )
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="left" if not name else "right")
    for name, note in ((OPTIMISED, "optimised"), (HELD_OUT, "not optimised")):
        before, after = (result["measures"][name][stage] for stage in ("before", "after"))
        table.add_row(
            f"sentiment by {name} ({note}), -1 to 1", _pm(before), _pm(after), f"{after['mean'] - before['mean']:+.3f}"
        )
    won, kl, repetition, length = (result[name] for name in ("win_rate", "kl_nats", "repetition", "mean_length"))
    table.add_row("win rate against the start model", "", f"{won['mean']:.0%} ± {won['half_interval_95']:.0%}", "")
    table.add_row(
        "KL from the start model, nats an answer", "0", f"{kl['mean']:.2f} ± {kl['half_interval_95']:.2f}", ""
    )
    table.add_row("repeated 4-grams", f"{repetition['before']:.2%}", f"{repetition['after']:.2%}", "")
    table.add_row("tokens an answer", f"{length['before']:.1f}", f"{length['after']:.1f}", "")
    console.print(table)
    console.print("± is half of a 95 % interval.\n")
    side = Table(title="The same prompts, before and after", title_justify="left", title_style="bold", show_lines=True)
    for name in ("prompt", "before", "after"):
        side.add_column(name, ratio=1)
    for row in answers:
        side.add_row(
            escape(row["prompt"]),
            f"{escape(shortened(row['before']))}\n[dim]{row['score_before']:+.2f}[/dim]",
            f"{escape(shortened(row['after']))}\n[dim]{row['score_after']:+.2f}[/dim]",
        )
    console.print(side)
    console.print(
        f"\nFinished in {seconds / 60:.1f} minutes. In {escape(str(directory))}: the model (AutoModelForCausalLM loads "
        "it), value_model/, metrics.jsonl, samples.jsonl, evaluation.json, config.yaml, README.md.\n"
        f"Talk to it:  clearppo chat {escape(str(directory))}\n"
        "Your own:    clearppo ppo --model_name_or_path MODEL --dataset_name prompts.jsonl --reward_funcs my.py:reward "
        "--output_dir runs/mine",
        soft_wrap=True,
    )


def _pm(cell: dict[str, float]) -> str:
    return f"{cell['mean']:+.3f} ± {cell['half_interval_95']:.3f}"
