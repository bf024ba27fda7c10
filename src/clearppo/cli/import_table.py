"""What became of another program's settings, on the screen."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clearppo.config.kinds import spelled
from clearppo.config.messages import shown
from clearppo.foreign.found import STATUSES, Finding, Imported, Status, words

STYLES: dict[Status, str] = {
    "carried": "green",
    "default": "cyan",
    "did nothing": "magenta",
    "not carried": "yellow",
    "not read": "bold red",
    "unknown": "bold red",
}


def show_imported(imported: Imported) -> None:
    """A row a setting, the notes, and how many there are of each kind."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 140), no_color=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, ratio in ((imported.program, 3), ("", None), ("here", 3), ("why", 4)):
        table.add_column(name, ratio=ratio, overflow="fold", no_wrap=ratio is None)
    for finding in imported.findings:
        if finding.status == "same":
            continue
        table.add_row(
            Text(_theirs(finding)),
            Text(finding.status, style=STYLES[finding.status]),
            Text("\n".join(f"{name}: {shown(value)}" for name, value in finding.ours.items())),
            Text(finding.why),
        )
    console.print(table)
    same = ", ".join(option for finding in imported.of("same") for option in finding.ours)
    if same:
        console.print(Text(f"written out, though TRL's default is ours: {same}", style="dim"), soft_wrap=True)
    for note in imported.notes:
        console.print(Text(f"look: {note}", style="bold"), soft_wrap=True)
    for name in imported.missing:
        other = " (or --reward_funcs file.py:name)" if name == "reward_model_path" else ""
        console.print(Text(f"missing: --{name}{other}, which the file does not say", style="bold"), soft_wrap=True)
    counts = [(status, len(imported.of(status))) for status in STATUSES]
    told = ", ".join(f"{n} {status}" for status, n in counts if n and status != "same")
    console.print(
        Text(f"{len(imported.findings) - len(imported.of('same'))} settings for clearppo {imported.step}: {told}."),
        soft_wrap=True,
    )


def _theirs(finding: Finding) -> str:
    place = f"  ({finding.place})" if finding.place else ""
    if finding.status == "not read" or (finding.status == "default" and finding.value is None):
        return f"{finding.name}{place}"
    return f"{finding.name}: {words(finding.value) if finding.value is not None else spelled(None)}{place}"
