"""`clearppo doctor`: what is wrong with a run before it begins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clearppo.cli.json_file import writable, write_json
from clearppo.cli.step_command import step_command
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, load_one_step

if TYPE_CHECKING:
    from clearppo.train.doctor.finding import Diagnosis

STOPPED = 1
STYLES = {"ok": "green", "look": "yellow", "stop": "bold red"}


def run(step: str, recipe: str | None, config: Path | None, flags: dict[str, Any], own: dict[str, Any]) -> int:
    """Look, show what was found, and return the exit code."""
    loaded = load_one_step(step, recipe=recipe, config_path=config, flags=flags)
    assert isinstance(loaded, PPOConfig | SFTConfig | RewardModelConfig)
    file = writable(own["json"], "json")
    from clearppo.build.doctor import diagnose

    with _progress() as (tell, listener):
        found = diagnose(loaded, pairs=own["pairs"], tell=tell, listener=listener)
    write_json(file, found.to_json(), "json")
    show(found)
    return STOPPED if found.verdict == "stop" else 0


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Any]]:
    """Something to tell what is being done, and a listener that shows the notes of building a run; both on stderr."""
    from rich.console import Console
    from rich.markup import escape

    from clearppo.train.listener import Silence

    console = Console(stderr=True, highlight=False)

    class Notes(Silence):
        def note(self, text: str) -> None:
            console.print(escape(text), style="dim", soft_wrap=True)

    if not console.is_terminal:
        yield lambda text: console.print(f"{text} ...", soft_wrap=True), Notes()
        return
    with console.status("") as status:
        yield lambda text: status.update(f"{escape(text)} ..."), Notes()


def show(found: "Diagnosis") -> None:
    """The findings as a table, what was not checked, and the result in one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 140), no_color=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, ratio in (("check", None), ("measured", 4), ("verdict", None), ("why, and what to do", 5)):
        table.add_column(name, ratio=ratio, overflow="fold", no_wrap=ratio is None)
    for finding in found.findings:
        why = Text(finding.reason)
        if finding.mend:
            why.append(f" {finding.mend}", style="bold")
        table.add_row(finding.name, Text(finding.measured), Text(finding.verdict, style=STYLES[finding.verdict]), why)
    console.print(table)
    for name, why in found.not_checked.items():
        console.print(Text(f"not checked: {name}, {why}", style="dim"), soft_wrap=True)
    console.print(Text(conclusion(found), style=STYLES[found.verdict]), soft_wrap=True)


def conclusion(found: "Diagnosis") -> str:
    """All of it in one line."""
    stops, looks = ([finding.name for finding in found.of(verdict)] for verdict in ("stop", "look"))
    if stops:
        also = f" Then look at {', '.join(looks)}." if looks else ""
        return f"Do not start this run yet: {', '.join(stops)}.{also}"
    left = f" {len(found.not_checked)} were not made." if found.not_checked else ""
    if looks:
        return f"This run can start; look at {', '.join(looks)} first.{left}"
    return f"This run can start: {len(found.findings)} checks are ok.{left}"


doctor = step_command(
    "doctor",
    run,
    "Look at the run that CONFIG (a YAML file) describes, on its own model, data and reward, before it begins: each "
    "check with what it measured, a verdict (ok, look, stop), the reason and what to do. Nothing is learned, and the "
    "output directory is left alone. The reward is asked about ten times for up to 32 answers.\n\n"
    "Exit code: 0, or 1 if something says stop.",
    own=[
        click.Option(
            ["--pairs"], metavar="FILE", help="Held-out comparisons, in any format of clearppo reward: does the reward "
            "order them?"
        ),
        click.Option(
            ["--json"], type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the findings, too."
        ),
    ],
    epilog="\b\nExamples:\n  clearppo doctor ppo.yaml\n"
    "  clearppo doctor ppo.yaml --kl_coef 0.02 --pairs heldout.jsonl\n"
    "  clearppo doctor pipeline.yaml --step reward",
)  # fmt: skip
