"""`clearppo report`: one HTML page of a run, or of all steps of a pipeline, that needs nothing but itself."""

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.errors import RunDirError
from clearppo.rundir import OWN_FILES, ROWS
from clearppo.ui.figures import Chart, has_chinese_font, to_png, to_svg
from clearppo.ui.report_charts import of_measures
from clearppo.ui.report_file import check_figures, check_page, reading_errors, write_figures, write_page
from clearppo.ui.report_results import MINUS, of_quickstart, unclear
from clearppo.ui.report_run import Part, model_of, read_part, versions_of, written
from clearppo.ui.report_words import Say, words
from clearppo.ui.runs import STEPS, Kind, Run, kind_of, named_below
from clearppo.web import require_packages

REPORT, FIGURES = "report.html", "figures"
TEMPLATES = Path(__file__).with_name("templates")


def write_report(directory: Path, *, output: Path | None = None, png: bool = False, language: str = "en") -> list[Path]:
    """Write the report of what lies in a directory: a run, or the steps of a pipeline. Returns the files written.

    `output` is the page's file, by default report.html in the directory; with `png` the figures go into figures/ beside
    it. Every file is written whole or not at all, and none that is no report's is replaced. Raises RunDirError, and
    ConfigError if the packages are not installed.
    """
    require_packages("clearppo report", "view", {"matplotlib": "matplotlib", "jinja2": "jinja2"})
    with reading_errors():
        runs = runs_of(directory)
    target = directory / REPORT if output is None else output
    figures = target.parent / FIGURES
    check_page(target)
    with reading_errors():
        page = _Page(directory, runs, language)
        text = page.html()
        # A PNG's words are drawn here, with this machine's fonts.
        drawn = page if not png or language == "en" or has_chinese_font() else _Page(directory, runs, "en")
    pictures = {f"{name}.png": to_png(chart) for name, chart in drawn.charts()} if png else {}
    if pictures:
        check_figures(figures, pictures)
    write_page(target, text)
    return [target, *(write_figures(figures, pictures) if pictures else [])]


def runs_of(directory: Path) -> list[Run]:
    """The run in a directory, or those of a pipeline's steps below it, in their order. Raises RunDirError."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "is not there"
        raise RunDirError(f"{directory} {what}. Give the output_dir of a run, or of a pipeline.")
    below = [(directory / step, step) for step in STEPS]
    for path in (directory, *(path for path, _ in below)):
        _require_readable(path)
    places = [(directory, directory.resolve().name)] if kind_of(directory) else below
    found: list[tuple[Path, str, Kind]] = []
    for path, name in places:
        if (kind := kind_of(path)) is not None:
            found.append((path, name, kind))
    if not found:
        raise RunDirError(
            f"there is no run in {directory}, and none in {', '.join(STEPS)} below it. Give the output_dir of a run, "
            f"or of clearppo rlhf or quickstart{named_below(directory)}."
        )
    return [Run(id=name, name=name, path=path.resolve(), kind=kind) for path, name, kind in found]


def _require_readable(path: Path) -> None:
    """Raises OSError if a file of a run is there and may not be read: what is asked of it later would be nothing."""
    for name in (*OWN_FILES, *ROWS):
        if name != REPORT and (path / name).is_file():
            (path / name).open("rb").close()


class _Page:
    """The report in one language."""

    def __init__(self, directory: Path, runs: Sequence[Run], language: str) -> None:
        self.directory, self.language = directory, language
        self.say: Say = words(language)
        self.parts = [read_part(run, language, self.say) for run in runs]
        self.main = self.parts[-1]
        self.results = of_quickstart(directory / "evaluation.json", self.say) or self.main.results
        self.measures = of_measures(self.results.measures, language) if self.results else None

    @property
    def is_pipeline(self) -> bool:
        return self.main.run.path != self.directory.resolve()

    def charts(self) -> list[tuple[str, Chart]]:
        """All figures with their names; those of a pipeline say which step they are of."""
        found = [(self._name(part, chart), chart) for part in self.parts for chart in part.all_charts]
        return [*([("measures", self.measures)] if self.measures else []), *found]

    def _name(self, part: Part, chart: Chart) -> str:
        return f"{part.run.name}-{chart.name}" if self.is_pipeline else chart.name

    def html(self) -> str:
        """The page."""
        import jinja2
        from markupsafe import Markup

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        drawn = {id(chart): Markup(to_svg(chart, f"f{i}")) for i, (_, chart) in enumerate(self.charts())}
        environment.filters |= {"number": number, "signed": signed, "messages": messages, "unclear": unclear}
        return environment.get_template("report.html.j2").render(
            say=self.say,
            page=self,
            parts=self.parts,
            main=self.main,
            results=self.results,
            drawn=lambda chart: drawn[id(chart)],
            **self._head(),
        )

    def _head(self) -> dict[str, Any]:
        kind = "rlhf" if self.is_pipeline else self.main.run.kind
        return {
            "title": self.say(f"title.{kind}", name=self.directory.resolve().name, model=model_of(self.parts[0].run)),
            "made": self.say(
                "made",
                path=self.directory.resolve(),
                when=max(written(part.run) for part in self.parts),
                versions=versions_of(self.main.run),
            ),
            "way": self._way(),
            "headline": self._headline(),
            "tiles": self._tiles(),
            "commands": self._commands(),
        }

    def _way(self) -> list[tuple[str, str, str]]:
        """The steps as (name, what it is, what became of it), comparisons that were made on the way among them."""
        say = self.say
        steps = {
            part.run.kind: (say(f"step.{part.run.kind}"), say(f"what.{part.run.kind}"), part.state)
            for part in self.parts
        }
        made = self.directory / "comparisons.jsonl"
        if made.is_file():
            prompts, pairs = _comparisons(made)
            said = say("way.comparisons", pairs=f"{pairs:,}", prompts=f"{prompts:,}")
            steps["prefs"] = (say("step.prefs"), say("what.prefs"), said)
        return [steps[kind] for kind in ("sft", "prefs", "reward", "ppo") if kind in steps]

    def _headline(self) -> str:
        """One sentence on what came out."""
        if self.results is not None:
            return self.results.sentence
        report = self.main.reward_report
        return self.say(f"rm.{report['verdict']['level']}") if report else ""

    def worth(self, report: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What the reward model's report says, as rows of a table."""
        say, near, clear, length = self.say, report["near_ties"], report["clear"], report["length"]
        rows = [(say("rm.accuracy"), self._agreement(report["accuracy"]))]
        if clear is not None:
            rows.append((say("rm.clear", gap=f"{report['clear_gap']:.3g}"), self._agreement(clear)))
        rows.append((say("rm.near", gap=f"{near['high']:.3g}"), self._agreement(near["agreement"])))
        rows.append((say("rm.calibration"), f"{report['calibration_error']:.1%}"))
        if length["pearson"] is not None:
            both = {"pearson": signed(length["pearson"]), "ranks": signed(length["spearman"])}
            rows.append((say("rm.length"), say("correlations", **both)))
        if length["longer_wins"] is not None:
            rows.append((say("rm.longer"), f"{length['longer_wins']:.1%}"))
        if report["train"] is not None:
            rows.append((say("rm.train"), self._agreement(report["train"]["train"])))
        return rows

    def _agreement(self, found: Mapping[str, Any]) -> str:
        share, low, high = (f"{found[name]:.1%}" for name in ("value", "low", "high"))
        return self.say("rm.pairs", share=share, low=low, high=high, n=found["n_pairs"])

    def _tiles(self) -> list[tuple[str, str, str]]:
        """The numbers at the top: those of the last step, and what is most worth knowing of the others."""
        tiles = list(self.main.tiles)
        report = next((part.reward_report for part in self.parts if part.reward_report), None)
        if report is not None:
            share = report["accuracy"]
            interval = self.say("tile.interval", low=f"{share['low']:.0%}", high=f"{share['high']:.0%}")
            tiles.append((self.say("rm.accuracy"), f"{share['value']:.0%}", interval))
        return tiles

    def _commands(self) -> list[tuple[str, str]]:
        """What to type next."""
        place, model = shlex.quote(str(self.directory)), self.main.run.path
        commands = [(self.say("inside.view"), f"clearppo view {place}")]
        if self.main.run.kind != "reward" and self.main.run.models()["final"]:
            commands.append((self.say("inside.chat"), f"clearppo chat {shlex.quote(str(model))}"))
        language = "" if self.language == "en" else f" --language {self.language}"
        return [*commands, (self.say("inside.again"), f"clearppo report {place} --png{language}")]


def _comparisons(file: Path) -> tuple[int, int]:
    """Of the comparisons that `clearppo prefs` wrote: (prompts, pairs)."""
    prompts = pairs = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # a line may be half written
                pairs += len(json.loads(line)["pairs"])
                prompts += 1
    return prompts, pairs


def number(value: float | None) -> str:
    """Three digits that mean something; nothing for None."""
    if value is None:
        return ""
    return (f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}").replace("-", MINUS)


def signed(value: float | None) -> str:
    """A number with two decimals and its sign."""
    return "" if value is None else f"{value:+.2f}".replace("-", MINUS)


def messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A prompt as (role, text); a plain one has no role."""
    if isinstance(prompt, str):
        return [("", prompt)]
    return [(str(message.get("role", "")), str(message.get("content", ""))) for message in prompt]
