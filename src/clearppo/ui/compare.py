"""Two runs of one kind beside each other, from their files: which options differ, where they part, where they end.

`compare_runs` finds out, `as_dict` makes JSON of it, and ui/compare_text.py words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from clearppo.config import SCHEMAS
from clearppo.config.changes import Change, between
from clearppo.config.messages import nearest
from clearppo.errors import ConfigError, RunDirError
from clearppo.rundir import CHECKPOINT
from clearppo.ui.alarms import Alarm, alarms_of
from clearppo.ui.compare_numbers import DRAWN, End, Numbers, Row, compare_numbers, end_of, headlines, rows_of
from clearppo.ui.compare_record import Records, compare_records
from clearppo.ui.metrics import Metrics
from clearppo.ui.report_file import reading_errors
from clearppo.ui.report_run import versions_of
from clearppo.ui.runs import Run, kind_of, named_below, open_index

UNSET = "–"
"""Stands for an option without effect."""
READ = "content of "
"""What the name of a fact begins with that is a digest of something that the run has read."""
PARTINGS = ("first", "first_real")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs."""

    run: Run
    facts: Mapping[str, str]
    """What is known of the machine and of what was read, by name: versions, threads, digests of models and data."""
    alarms: Sequence[Alarm]
    seconds: float | None
    """Of an iteration or a step, the median."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something known of both runs that differs."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that was found. `options_unread`: the file whose options could not be read, so that there are none here;
    `damaged`: what is wrong with files of the records that were left out."""

    a: Side
    b: Side
    options: Sequence[Change]
    options_unread: Path | None
    records: Records | None
    damaged: Sequence[str]
    numbers: Numbers
    ends: Sequence[End]
    curves: Mapping[str, tuple[Sequence[tuple[int, float]], Sequence[tuple[int, float]]]]

    @property
    def kind(self) -> str:
        return self.a.run.kind

    @property
    def facts(self) -> list[Fact]:
        """What is known of both and differs."""
        a, b = self.a.facts, self.b.facts
        return [Fact(name=name, a=a[name], b=b[name]) for name in a if name in b and a[name] != b[name]]

    @property
    def same_input(self) -> list[str]:
        """What both have read and is known to be the same to the last bit: models and data."""
        a, b = self.a.facts, self.b.facts
        return [name.removeprefix(READ) for name in a if name.startswith(READ) and a[name] == b.get(name)]

    @property
    def identical(self) -> bool:
        """Whether both did the same steps, and every number and every recorded answer is the same."""
        numbers, records = self.numbers, self.records
        return (
            numbers.first is None
            and bool(numbers.steps)
            and numbers.last_a == numbers.last_b
            and not (numbers.only_a or numbers.only_b)
            and not self.damaged
            and (records is None or (records.first is None and records.batch is None))
        )

    @property
    def overlay(self) -> tuple[list[str], str]:
        """The words of the command that shows both in the browser, and the page's address behind the server's."""
        paths = [self.a.run.path, self.b.run.path]
        ids = {run.path: run.id for run in open_index(paths).runs()}
        query = "&".join(f"run={ids[path.resolve()]}" for path in paths)
        return ["clearppo", "view", *map(str, paths)], f"#/overview?{query}"


def compare_runs(a: Path, b: Path, metrics: Sequence[str] = ()) -> Comparison:
    """Compare the runs in two directories; `metrics` are those to show, by default the headlines of their kind.

    Raises RunDirError where there is no run, or one of another kind, and ConfigError for a metric that they have not.
    """
    with reading_errors("A comparison is made from the runs' files"):
        runs = _two_runs(a, b)
        rows = [rows_of(run) for run in runs]
        for run, found in zip(runs, rows, strict=True):
            if not found:
                raise RunDirError(f"{run.path} has no row in metrics.jsonl yet. Wait until its first one is there.")
        every = [Metrics(run.file).rows() for run in runs]
        _check_metrics(metrics, *every)
        options, unread = _options(*runs)
        records, damaged = compare_records(*runs)
        facts = [_facts(run) for run in runs]
        shown = metrics or headlines(runs[0].kind, *rows)
        curves = {name: (_curve(name, every[0]), _curve(name, every[1])) for name in metrics or DRAWN[runs[0].kind]}
        sides = [
            Side(run=run, facts=fact, alarms=alarms_of(run), seconds=_seconds(row))
            for run, fact, row in zip(runs, facts, every, strict=True)
        ]
    return Comparison(
        a=sides[0],
        b=sides[1],
        options=options,
        options_unread=unread,
        records=records,
        damaged=damaged,
        numbers=compare_numbers(*rows),
        ends=[end for name in shown if (end := end_of(name, *every)) is not None],
        curves={name: both for name, both in curves.items() if all(both)},
    )


def as_dict(found: Comparison) -> dict[str, Any]:
    """A comparison as it stands in JSON."""
    numbers = vars(found.numbers)
    partings = {name: asdict(parting) if parting else None for name, parting in numbers.items() if name in PARTINGS}
    command, page = found.overlay
    return {
        "schema": "clearppo.compare",
        "version": 1,
        "kind": found.kind,
        "identical": found.identical,
        "runs": {name: _side_dict(side) for name, side in (("a", found.a), ("b", found.b))},
        "options": [{"option": c.option, "a": c.was, "b": c.now, "effect": c.effect} for c in found.options],
        "facts": [asdict(fact) for fact in found.facts],
        "same_input": found.same_input,
        "record": asdict(found.records) if found.records else None,
        "damaged": found.damaged,
        "metrics": {**numbers, **partings},
        "ends": [asdict(end) for end in found.ends],
        "curves": found.curves,
        "overlay": {"command": command, "page": page},
    }


def _side_dict(side: Side) -> dict[str, Any]:
    run = side.run
    return {
        "path": str(run.path),
        "state": run.state,
        "step": run.step,
        "n_steps": run.n_steps,
        "facts": side.facts,
        "seconds": side.seconds,
        "alarms": [asdict(alarm) for alarm in side.alarms],
    }


def _two_runs(a: Path, b: Path) -> tuple[Run, Run]:
    one, other = _open(a), _open(b)
    if one.path == other.path:
        raise RunDirError(f"{a} and {b} are the same directory. Give two runs.")
    if one.kind != other.kind:
        raise RunDirError(
            f"{a} is a run of clearppo {one.kind} and {b} one of clearppo {other.kind}: they have no numbers in "
            "common. Give two runs of one kind."
        )
    return one, other


def _open(path: Path) -> Run:
    if not path.is_dir():
        what = "is a file" if path.exists() else "is not there"
        raise RunDirError(f"{path} {what}. Give the output_dir of a run.")
    kind = kind_of(path)
    if kind is None and (path / "config.yaml").is_file():
        raise RunDirError(
            f"{path / 'config.yaml'} is none that clearppo ppo, sft or reward wrote, or it is damaged: its first lines "
            "say of which command it is. Give the output_dir of a run, or mend them."
        )
    if kind is None:
        raise RunDirError(f"there is no run in {path}. Give the output_dir of a run{named_below(path)}.")
    whole = path.resolve()
    return Run(id=whole.name, name=whole.name, path=whole, kind=kind)


def _check_metrics(metrics: Sequence[str], *runs: Mapping[int, Row]) -> None:
    """Raises ConfigError for a metric that is not in both runs."""
    names = [{name for row in rows.values() for name, value in row.items() if value is not None} for rows in runs]
    both = names[0] & names[1]
    for name in metrics:
        if name not in both:
            which = "only one of the runs has" if name in names[0] | names[1] else "neither run has"
            near = nearest(name, sorted(both))
            hint = f"Did you mean --metric {near}?" if near else f"There are {', '.join(sorted(both))}."
            raise ConfigError(f"--metric {name}: {which} a metric of this name. {hint}")


def _options(a: Run, b: Run) -> tuple[Sequence[Change], Path | None]:
    """The options that differ, and the file that cannot be read, if there is one."""
    for run in (a, b):
        options = run.options()
        if not options or not all(isinstance(section, dict) for section in options.values()):
            return (), run.path / "config.yaml"
    given = [{name for section in run.options().values() for name in section} for run in (a, b)]
    found = between(a.config_text(), b.config_text(), SCHEMAS[a.kind])
    return [
        replace(
            change,
            was=change.was if change.option in given[0] else UNSET,
            now=change.now if change.option in given[1] else UNSET,
        )
        for change in found
    ], None


def _facts(run: Run) -> dict[str, str]:
    """What the run was made with, from its model card; the machine, from started.json; and the digests of what it read,
    from its newest checkpoint. What is not there is not among them."""
    made = (part.rpartition(" ") for part in versions_of(run).split(", "))
    facts = {name.lower(): version for name, _, version in made if name}
    steps = [path.name.removeprefix(CHECKPOINT) for path in run.path.glob(f"{CHECKPOINT}*")]
    newest = max((int(step) for step in steps if step.isascii() and step.isdecimal()), default=0)
    about = (run.json(f"{CHECKPOINT}{newest}", "training_state", "state.json") or {}).get("about")
    for found in (about, run.json("started.json")):
        for part, before in (("machine", ""), ("numbers", ""), ("marks", READ)):
            named = found.get(part) if isinstance(found, dict) else None
            facts |= {f"{before}{name}": str(value) for name, value in named.items()} if isinstance(named, dict) else {}
    return facts


def _seconds(rows: Mapping[int, Row]) -> float | None:
    """The median of the seconds that a row took, all phases together."""
    sums = [sum(value for name, value in row.items() if name.startswith("time/") and value) for row in rows.values()]
    return median(taken) if (taken := [seconds for seconds in sums if seconds]) else None


def _curve(metric: str, rows: Mapping[int, Row]) -> list[tuple[int, float]]:
    return [(step, value) for step, row in rows.items() if (value := row.get(metric)) is not None]
