"""Which figures a report shows: those for which the run has numbers."""

from collections.abc import Mapping
from typing import Any

from clearppo.catalogue.metrics import METRICS
from clearppo.ui.figures import (
    Chart,
    Line,
    Numbers,
    Paint,
    before_after,
    calibration,
    drawable,
    frontier,
    histogram,
    lines,
    shares,
    shown,
    stack,
)
from clearppo.ui.report_words import CHART_WORDS, LABELS, LANGUAGES, METRIC_CHARTS

Columns = Mapping[str, Numbers]
"""Metrics by name, each with one number a row; "step" is among them."""

SCORE, REWARD, KL, LENGTH = "objective/scores", "objective/rlhf_reward", "objective/kl", "completions/mean_length"

# name: (metrics with their labels, label of the y axis, a level that is drawn)
PPO_MORE: dict[str, tuple[dict[str, str], str, float | None]] = {
    "cut": ({"completions/clipped_ratio": "share of answers"}, "share of answers", 0),
    "entropy": ({"policy/entropy_avg": "policy"}, "nats a token", None),
    "explained": ({"critic/vf_explained_var": "critic"}, "share", 0),
    "clipped": ({"policy/clipfrac_avg": "policy", "val/clipfrac_avg": "critic"}, "share of tokens", 0),
    "ratio": ({"val/ratio": "ratio"}, "ratio", None),
    "policy_loss": ({"loss/policy_avg": "policy"}, "loss", 0),
    "value_loss": ({"loss/value_avg": "critic"}, "loss", 0),
    "gradient": ({"policy/grad_norm": "norm"}, "norm", 0),
    "kl_coef": ({"objective/kl_coef": "score a nat"}, "score a nat", None),
    "rate": ({"lr": "learning rate"}, "learning rate", 0),
}
STEP_MORE: dict[str, tuple[dict[str, str], str, float | None]] = {
    "loss": ({"loss": "training", "eval/loss": "held out"}, "loss", None),
    "accuracy": ({"accuracy": "training", "eval/accuracy": "held out"}, "share of pairs", None),
    "gradient": ({"grad_norm": "norm"}, "norm", 0),
}
UNMOVED = ("kl_coef", "rate", "cut")
"""Figures that say nothing while their numbers stay what they are."""


class Charts:
    """Makes the figures of one run in one language."""

    def __init__(self, columns: Columns, language: str, *, best: int | None = None) -> None:
        self.columns, self.best = {name: drawable(values) for name, values in columns.items()}, best
        self.steps = [float(step) for step in columns.get("step", ()) if step is not None]
        self.number = LANGUAGES.index(language)

    def of_ppo(self) -> list[Chart]:
        """The figures in which one sees whether PPO works."""
        of_score = {SCORE: "score", REWARD: "rlhf_reward"}
        found = [
            self._lines("score", of_score, "score", level=0),
            self._frontier(),
            self._lines("kl", {KL: "nats an answer"}, "nats an answer", level=0),
            self._lines("length", {LENGTH: "tokens"}, "tokens"),
            self._sources(),
            *self._evaluation(),
        ]
        return [chart for chart in found if chart is not None]

    def more_of_ppo(self) -> list[Chart]:
        """The figures in which one sees how learning goes."""
        return [*self._more(PPO_MORE), *self._time()]

    def of_step(self) -> list[Chart]:
        """The figures of SFT and of a reward model."""
        return self._more(STEP_MORE, x="step")

    def chart(self, name: str, paint: Paint, *, x: str = "", y: str = "", small: bool = False) -> Chart:
        """A figure with its words."""
        title, note = self._said(name)
        return Chart(
            name=name, title=title, note=note, x_label=self.label(x), y_label=self.label(y), small=small, paint=paint
        )

    def _said(self, name: str) -> tuple[str, str]:
        """The title of a figure, and the sentence below it."""
        if name in CHART_WORDS:
            return CHART_WORDS[name][self.number]
        metric, *titles = METRIC_CHARTS[name]
        return titles[self.number], METRICS[metric].brief[self.number]

    def label(self, name: str) -> str:
        """A word within a figure; what is none of ours, the name of a source, stays as it is."""
        return LABELS[name][self.number] if name in LABELS else shown(name)

    def _more(self, table: Mapping[str, tuple[dict[str, str], str, float | None]], x: str = "iteration") -> list[Chart]:
        charts: list[Chart] = []
        for name, (metrics, y, level) in table.items():
            known = {value for metric in metrics for value in self.columns.get(metric, ()) if value is not None}
            chart = self._lines(name, metrics, y, level=level, x=x, small=True)
            if chart is not None and not (name in UNMOVED and len(known) < 2):
                charts.append(chart)
        return charts

    def _lines(
        self,
        name: str,
        metrics: Mapping[str, str],
        y: str,
        *,
        level: float | None = None,
        x: str = "iteration",
        small: bool = False,
    ) -> Chart | None:
        every = [
            Line(label=self.label(label), x=self.steps, y=self.columns[metric])
            for metric, label in metrics.items()
            if any(value is not None for value in self.columns.get(metric, ()))
        ]
        paint = lines(every, level=level, best=self.best)
        return self.chart(name, paint, x=x, y=y, small=small) if every else None

    def _sources(self) -> Chart | None:
        names = [name for name in self.columns if name.startswith("rewards/") and name.endswith("/mean")]
        if len(names) < 2:
            return None
        labels = {name: name.removeprefix("rewards/").removesuffix("/mean") for name in names}
        return self._lines("sources", labels, "score", level=0)

    def _frontier(self) -> Chart | None:
        if SCORE not in self.columns or KL not in self.columns:
            return None
        scores, kls = self.columns[SCORE], self.columns[KL]
        if sum(a is not None and b is not None for a, b in zip(scores, kls, strict=True)) < 2:
            return None
        return self.chart("frontier", frontier(kls, scores, list(map(int, self.steps))), x="nats an answer", y="score")

    def _evaluation(self) -> list[Chart | None]:
        """Evaluation in the loop."""
        scores = {"eval/score": "optimised score"}
        scores |= {
            name: name.removeprefix("eval/rewards/") for name in self.columns if name.startswith("eval/rewards/")
        }
        rates = {"eval/win_rate": "optimised score"}
        rates |= {
            name: name.removeprefix("eval/win_rate/") for name in self.columns if name.startswith("eval/win_rate/")
        }
        return [
            self._lines("evaluation", scores, "score", level=0),
            self._lines("win_rate", rates, "share", level=0.5),
        ]

    def _time(self) -> list[Chart]:
        phases = {name: name.removeprefix("time/") for name in self.columns if name.startswith("time/")}
        if not phases:
            return []
        rows = [
            i for i in range(len(self.steps)) if any(self.columns[name][i] is not None for name in phases)
        ]  # an evaluation before the first iteration has none
        parts = {self.label(label): [self.columns[name][i] for i in rows] for name, label in phases.items()}
        paint = stack([self.steps[i] for i in rows], parts)
        return [self.chart("time", paint, x="iteration", y="seconds", small=True)] if rows else []


def of_reward_report(report: Mapping[str, Any], language: str) -> list[Chart]:
    """The figures of reward_report.json."""
    charts = Charts({}, language)
    found: list[Chart] = []
    if bins := report["by_margin"]:
        rows = [(f"≤ {b['high']:.2g}", *(b["agreement"][name] for name in ("value", "low", "high"))) for b in bins]
        x = "gap" if report["margin_kind"] == "labels" else "gap of scores"
        found.append(charts.chart("by_gap", shares(rows, chance=0.5), x=x, y="share of pairs", small=True))
    if points := [(b["predicted"], b["observed"], b["n_pairs"]) for b in report["calibration"] if b["n_pairs"]]:
        found.append(charts.chart("calibration", calibration(points), x="predicted", y="observed", small=True))
    scores = report["scores"]
    if None not in drawable(scores["histogram_edges"]):
        paint = histogram(scores["histogram_edges"], scores["histogram_counts"])
        found.append(charts.chart("scores", paint, x="score", y="answers", small=True))
    return found


def of_measures(measures: Mapping[str, Mapping[str, Mapping[str, float]]], language: str) -> Chart | None:
    """Before and after by every measure of the quickstart's evaluation.json, if there is any."""
    charts = Charts({}, language)
    rows: list[tuple[str, tuple[float, float], tuple[float, float]]] = []
    for name, stages in measures.items():
        before, after = ((stages[stage]["mean"], stages[stage]["half_interval_95"]) for stage in ("before", "after"))
        if None not in drawable([*before, *after]):
            rows.append((shown(name), before, after))
    paint = before_after(rows, (charts.label("before"), charts.label("after")))
    return charts.chart("measures", paint, x="score") if rows else None
