"""`clearppo compare`: what two runs have in common, and where they part."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Show this metric instead of the usual ones; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print all that was found as JSON.")
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="English or Chinese."
)
def compare(run_a: Path, run_b: Path, metrics: tuple[str, ...], as_json: bool, language: str) -> None:
    """Compare two runs of one kind: which options differ, where they part, and where they end.

    RUN_A and RUN_B are the output_dir of clearppo ppo, sft or reward; they may still be going on. It is told which
    options differ, whether both had the same prompts in the same order and gave the same answers, the first step whose
    numbers differ and by how much, how both end, and their curves. Nothing is written.
    """
    from clearppo.ui.compare import as_dict, compare_runs

    found = compare_runs(run_a.expanduser(), run_b.expanduser(), metrics)
    if as_json:
        click.echo(json.dumps(as_dict(found), ensure_ascii=False, indent=1, allow_nan=False))
        return
    from rich.console import Console

    from clearppo.ui.compare_text import print_comparison

    print_comparison(found, Console(highlight=False), language)
