"""Figures: what stands within a page carries its colours as variables and nothing from outside, and leaves no trace."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest

from clearppo.ui import figures
from clearppo.ui.figures import SERIES, VARIABLES, Chart, Line, lines, smoothed, to_png, to_svg
from clearppo.ui.report_charts import Charts, of_measures, of_reward_report
from tests.pages.made import reward_report

STEPS = list(range(1, 9))


def course(**options: object) -> Chart:
    first = Line(label="score & <b>more</b>", x=STEPS, y=[0.1 * i for i in STEPS])
    second = Line(label="奖励", x=STEPS, y=[0.1, None, 0.3, 0.2, None, 0.5, 0.6, 0.7], half=[0.1] * 8)
    return Chart(name="n", title="T", x_label="iteration", paint=lines([first, second], level=0, best=4), **options)  # type: ignore[arg-type]


def test_an_svg_is_part_of_a_page() -> None:
    svg = to_svg(course(), "f7")
    assert svg.startswith("<svg viewBox=")
    assert svg.endswith("</svg>")
    assert "http" not in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert all(name.startswith("f7-") for name in re.findall(r'\bid="([^"]+)"', svg))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert targets
    assert set(targets) <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_every_colour_is_a_variable() -> None:
    svg = to_svg(course(), "f")
    assert f"var({VARIABLES[SERIES[0]]})" in svg
    assert "var(--ink)" in svg
    assert not re.findall(r"#[0-9a-f]{6}", svg)


def test_text_is_text_and_escaped() -> None:
    svg = to_svg(course(), "f")
    assert "score &amp; &lt;b&gt;more&lt;/b&gt;" in svg
    assert "奖励</text>" in svg
    assert "DejaVu" not in svg


def test_the_same_numbers_give_the_same_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = to_svg(course(), "f")
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")  # as a user's matplotlibrc may have it
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    settings = dict(mpl.rcParams)
    assert to_svg(course(), "f") == before
    assert dict(mpl.rcParams) == settings


def test_pngs_are_large_whatever_their_column() -> None:
    sizes = [to_png(course(small=small))[16:24] for small in (False, True)]
    assert sizes[0] == sizes[1]
    assert int.from_bytes(sizes[0][:4]) == round(figures.SIZE[0] * figures.DPI)


def test_a_long_course_is_smoothed() -> None:
    n = 3 * figures.MANY
    chart = Chart(name="n", title="T", paint=lines([Line(label="a", x=range(n), y=[i % 7 for i in range(n)])]))
    short = Chart(name="n", title="T", paint=lines([Line(label="a", x=STEPS, y=STEPS)]))
    assert "opacity: 0.18" in to_svg(chart, "f")
    assert "opacity: 0.18" not in to_svg(short, "f")
    assert smoothed([1, None, 3, 5], 2) == [1, 1, 3, 4]
    assert smoothed([None, 2], 1) == [None, 2]


def test_a_long_run_is_no_heavy_page() -> None:
    n = 5000
    columns = {
        "step": [*range(1, n + 1)],
        "objective/scores": [(i * 7919 % n) / n for i in range(n)],
        "objective/kl": [i / n for i in range(n)],
        "time/sampling": [1.0 + i % 2 for i in range(n)],
    }
    charts = Charts(columns, "en")
    frontier, time = (next(c for c in found if c.name == name) for name, found in (
        ("frontier", charts.of_ppo()), ("time", charts.more_of_ppo())
    ))  # fmt: skip
    assert len(to_svg(frontier, "f")) < 50_000
    assert re.findall(r">(\d+)</text>", to_svg(frontier, "f"))[-1] == "5000"  # the last point has its number
    svg = to_svg(time, "f")
    assert len(svg) < 100_000
    assert svg.count("var(--series-1)") <= figures.BARS + 2


def test_only_figures_with_numbers() -> None:
    columns = {"step": [1, 2, 3], "objective/scores": [0.1, None, 0.3], "objective/kl": [0.0, None, 1.0]}
    charts = Charts(columns, "en")
    assert [chart.name for chart in charts.of_ppo()] == ["score", "frontier", "kl"]
    assert charts.more_of_ppo() == []
    one = Charts({**columns, "objective/kl": [None, None, 1.0]}, "en")
    assert [chart.name for chart in one.of_ppo()] == ["score", "kl"]  # one point is no course


def test_a_rate_that_never_moves_is_no_figure() -> None:
    still, moving = ({"step": [1, 2], "lr": rates} for rates in ([1e-5, 1e-5], [2e-5, 1e-5]))
    assert [chart.name for chart in Charts(still, "en").more_of_ppo()] == []
    assert [chart.name for chart in Charts(moving, "en").more_of_ppo()] == ["rate"]


def test_sources_and_phases_by_their_names() -> None:
    columns = {
        "step": [0, 1, 2],
        "rewards/vader/mean": [None, 0.1, 0.2],
        "rewards/length/mean": [None, 1.0, 2.0],
        "time/sampling": [None, 1.0, 1.5],
        "time/learning": [None, 2.0, 2.5],
    }
    [sources] = Charts(columns, "zh").of_ppo()
    assert sources.title == "得分的各个来源"
    svg = to_svg(sources, "f")
    assert "vader</text>" in svg
    assert "length</text>" in svg
    [time] = Charts(columns, "zh").more_of_ppo()
    assert "采样</text>" in to_svg(time, "f")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_reward_report_as_figures(language: str) -> None:
    report = reward_report()
    charts = of_reward_report(report, language)
    assert [chart.name for chart in charts] == ["by_gap", "calibration", "scores"]
    assert all(to_svg(chart, "f").startswith("<svg") for chart in charts)
    empty = report | {"calibration": [bin | {"n_pairs": 0, "predicted": None} for bin in report["calibration"]]}
    assert [chart.name for chart in of_reward_report(empty, language)] == ["by_gap", "scores"]


def test_before_and_after(tmp_path: Path) -> None:
    stage = {"mean": 0.5, "half_interval_95": 0.1}
    chart = of_measures({"<VADER>": {"before": stage, "after": stage, "change": stage}}, "en")
    assert chart is not None
    assert "&lt;VADER&gt;" in to_svg(chart, "f")
    assert of_measures({"a": {"before": stage, "after": stage | {"mean": 1e308}, "change": stage}}, "en") is None
