"""`clearppo report`: what a run did, as one page to send or to print."""

from pathlib import Path

import click


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="The page's file, *.html. Default: report.html in RUN_DIR.",
)
@click.option("--png", is_flag=True, help="Write the figures as PNG files too, into figures/ beside the page.")
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="English or Chinese."
)
def report(run_dir: Path, output: Path | None, png: bool, language: str) -> None:
    """Write a report on RUN_DIR: an output_dir of clearppo ppo, sft or reward, or that of rlhf or quickstart, whose
    steps are then in one report.

    The report is one HTML file that needs nothing but itself: what was trained from what, what it optimised, curves,
    answers before and after, answers token by token, the reward model's worth, every option. It can be written of a run
    that is not finished.
    """
    from clearppo.ui.report import write_report

    target = output.expanduser() if output is not None else None
    page, *figures = write_report(run_dir.expanduser(), output=target, png=png, language=language)
    more = f" and {len(figures)} figures in {click.format_filename(figures[0].parent)}" if figures else ""
    click.echo(f"wrote {click.format_filename(page)}{more}")
