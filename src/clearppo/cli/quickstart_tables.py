"""What the quickstart shows at its end: numbers, a verdict in words, answers side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clearppo.build.evaluation import ModelComparison
from clearppo.console import shortened
from clearppo.train.evaluation import Evaluation, mean_interval, wins
from clearppo.train.verdict import Change, by_prompt, change_of, verdict

REWARD_MODEL, LABELLER, WITNESS = "reward model", "VADER", "TextBlob"
ROLES = {REWARD_MODEL: "optimised", LABELLER: "the labeller, never optimised", WITNESS: "took no part in anything"}
N_ANSWERS = 1  # to each held-out prompt
N_SHOWN = 5


def result_of(comparison: ModelComparison, report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the final table, as they go into evaluation.json."""
    before, after, n = comparison.before, comparison.after, len(comparison.prompts)
    changes = {name: change_of(before.scores[name], after.scores[name], n) for name in ROLES}
    held_out = {name: changes[name] for name in (LABELLER, WITNESS)}
    return {
        "measures": {name: _stages(change) for name, change in changes.items()},
        "win_rate": _pair(mean_interval(by_prompt(wins(after.scores[LABELLER], before.scores[LABELLER]), n))),
        "kl_nats": _pair(mean_interval(by_prompt(after.kl, n))),
        "repetition": {"before": before.repetition, "after": after.repetition},
        "mean_length": {"before": _mean_length(before), "after": _mean_length(after)},
        "reward_model": report,
        "verdict": verdict((f"its {REWARD_MODEL}", changes[REWARD_MODEL]), held_out),
        "prompts": n,
        "answers": n * N_ANSWERS,
        "samples": _samples(comparison),
    }


def _stages(change: Change) -> dict[str, dict[str, float]]:
    return {stage: _pair(getattr(change, stage)) for stage in ("before", "after", "change")}


def _pair(interval: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("mean", "half_interval_95"), interval, strict=True))


def _mean_length(evaluation: Evaluation) -> float:
    return sum(evaluation.lengths) / len(evaluation.lengths)


def _samples(comparison: ModelComparison) -> list[dict[str, Any]]:
    before, after = comparison.before, comparison.after
    return [
        {
            "prompt": prompt,
            "before": before.completions[i],
            "after": after.completions[i],
            "scores_before": {name: before.scores[name][i] for name in ROLES},
            "scores_after": {name: after.scores[name][i] for name in ROLES},
        }
        for i, prompt in enumerate(comparison.prompts.texts)
    ]


def show(result: Mapping[str, Any], directory: Path, seconds: float) -> None:
    """The final tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 120))
    console.print(_numbers(result))
    console.print("± is half of a 95 % interval.\n")
    console.print(_side_by_side(result))
    console.print(f"\n[bold]{escape(result['verdict'])}[/bold]", soft_wrap=True)
    place = escape(str(directory))
    console.print(
        f"\nFinished in {seconds / 60:.1f} minutes. In {place}: sft/, comparisons.jsonl, reward/ (with "
        "reward_report.json), ppo/ (the model, AutoModelForCausalLM loads it), evaluation.json.\n"
        f"Talk to it:  clearppo chat {place}/ppo\n"
        "Your own:    clearppo rlhf --model_name_or_path MODEL --demonstrations d.jsonl --comparisons c.jsonl "
        "--prompts p.jsonl --output_dir runs/mine",
        soft_wrap=True,
    )


def _numbers(result: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{result['answers']} answers to {result['prompts']} held-out prompts",
        title_justify="left",
        title_style="bold",
    )
    for name in ("", "fine-tuned", "after PPO", "change"):
        table.add_column(name, justify="left" if not name else "right")
    for name, role in ROLES.items():
        stages = result["measures"][name]
        what = f"sentiment by {name}" if name != REWARD_MODEL else f"score of the {name}"
        table.add_row(f"{what} ({role})", *(_plus_minus(stages[stage]) for stage in ("before", "after", "change")))
    won, kl, repetition, length = (result[name] for name in ("win_rate", "kl_nats", "repetition", "mean_length"))
    table.add_row(
        f"win rate against the fine-tuned model, by {LABELLER}",
        "",
        f"{won['mean']:.0%} ± {won['half_interval_95']:.0%}",
        "",
    )
    table.add_row(
        "KL from the fine-tuned model, nats an answer", "0", f"{kl['mean']:.2f} ± {kl['half_interval_95']:.2f}", ""
    )
    table.add_row("repeated 4-grams", f"{repetition['before']:.2%}", f"{repetition['after']:.2%}", "")
    table.add_row("tokens an answer", f"{length['before']:.1f}", f"{length['after']:.1f}", "")
    return table


def _side_by_side(result: Mapping[str, Any]) -> Table:
    side = Table(title="The same prompts", title_justify="left", title_style="bold", show_lines=True)
    for name in ("prompt", "fine-tuned", "after PPO"):
        side.add_column(name, ratio=1)
    for row in result["samples"][:N_SHOWN]:
        side.add_row(
            escape(row["prompt"]),
            *(
                f"{escape(shortened(row[stage]))}\n[dim]{LABELLER} {row[f'scores_{stage}'][LABELLER]:+.2f}, "
                f"{REWARD_MODEL} {row[f'scores_{stage}'][REWARD_MODEL]:+.2f}[/dim]"
                for stage in ("before", "after")
            ),
        )
    return side


def _plus_minus(cell: Mapping[str, float]) -> str:
    return f"{cell['mean']:+.3f} ± {cell['half_interval_95']:.3f}"
