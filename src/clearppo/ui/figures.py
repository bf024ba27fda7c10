"""Figures of a report: plain numbers in, an SVG that follows the page's theme or a PNG file's bytes out.

matplotlib is used without pyplot, and its settings are put back after every figure: nothing is left behind in the
process. The SVG names its colours as CSS variables and its text is text, so that one figure is readable on a light
page, a dark one and paper, in the fonts of the reader.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clearppo.ui.report_file import FIGURE_MARK, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Sequence[float | None]
Paint = Callable[["Axes"], None]

INK, MUTED, GRID, PAPER = "#1c2530", "#66707c", "#e1e5ea", "#ffffff"
SERIES = ("#1f6fb2", "#c8551b", "#138a72", "#8a5fb0", "#b0830a", "#51606f")
"""Told apart by people who do not see all colours, and by their lightness on paper; a line's dashes differ too."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.5, 1.4, 1.5)), (0, (3, 1)), (0, (8, 2)))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)
}
SIZE, SMALL = (4.8, 2.75), (2.8, 1.9)  # inches; a page scales them to its columns
DPI = 200
MANY = 120  # points of a line above which it is smoothed, over a band from the smallest to the largest
POINTS = 64  # of a frontier at most
BARS = 100  # of a stack, and steps of a band, at most
APART = 0.13  # of a row's height, before and after from its middle
LARGEST = 1e300  # numbers beyond it are not drawn: matplotlib's arithmetic with them overflows
LONGEST = 32  # characters of a name
AN_INCH, ROWS = 14, 6  # characters in a line of a legend, and its lines at most
MARKED = 48  # points of a line up to which each is marked
CJK = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK JP", "SimHei")

STYLE: Mapping[str, Any] = {
    "text.parse_math": False,  # a source's name may hold $
    "svg.fonttype": "none",
    "svg.hashsalt": "clearppo",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure: `name` is its file's, `title` and `note` stand beside it in words, `paint` draws on axes. A `small`
    one is for a column of three."""

    name: str
    title: str
    note: str = ""
    x_label: str = ""
    y_label: str = ""
    small: bool = False
    paint: Paint = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A course of numbers, with the half-widths of their intervals if they are known. None is a gap."""

    label: str
    x: Sequence[float]
    y: Numbers
    half: Numbers | None = None


def lines(every: Sequence[Line], *, level: float | None = None, best: float | None = None) -> Paint:
    """Courses over one axis; a `level` of theirs is drawn, and `best` marks a place on the x axis."""

    def paint(axes: "Axes") -> None:
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=0.6)
        if best is not None:
            axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        drawn = [
            _course(axes, line, SERIES[number % len(SERIES)], DASHES[number % len(DASHES)])
            for number, line in enumerate(every)
        ]
        _whole_numbers(axes)
        if len(every) > 1:
            _legend(axes, [line.label for line in every], drawn)

    return paint


def frontier(x: Numbers, y: Numbers, steps: Sequence[int]) -> Paint:
    """Points joined in the order of time, the first, the last and some between with their numbers. Of a long course a
    point is the mean of some, and has the last one's number."""

    def paint(axes: "Axes") -> None:
        known = [(a, b, step) for a, b, step in zip(x, y, steps, strict=True) if a is not None and b is not None]
        size = -(-len(known) // POINTS)
        xs, ys = (_means([point[axis] for point in known], size) for axis in (0, 1))
        n, last = len(xs), [step for _, _, step in known][size - 1 :: size]
        last += [known[-1][2]] * (n - len(last))
        axes.plot(xs, ys, color=SERIES[0], linewidth=0.9, alpha=0.55)
        later_is_darker: Any = [0.35 + 0.65 * (i + 1) / n for i in range(n)]
        axes.scatter(xs, ys, s=16, color=SERIES[0], linewidth=0, alpha=later_is_darker)
        for i in sorted({0, n - 1} | set(range(0, n - 1, max(1, -(-n // 5))))):
            a, b, step = xs[i], ys[i], last[i]
            weight = "bold" if i in (0, n - 1) else "normal"
            axes.annotate(
                str(step), (a, b), (4, 4), textcoords="offset points", fontsize=7.5, color=INK, fontweight=weight
            )
        axes.margins(x=0.08, y=0.12)

    return paint


def stack(x: Sequence[float], parts: Mapping[str, Numbers]) -> Paint:
    """One bar a place on the x axis, its parts upon each other; of many places a bar is the mean of some."""

    def paint(axes: "Axes") -> None:
        size = -(-len(x) // BARS)  # iterations a bar
        places = _means(x, size)
        base = [0.0] * len(places)
        width = 0.8 * min((b - a for a, b in pairwise(places)), default=1.0)
        drawn: list[Any] = []
        for number, values in enumerate(parts.values()):
            heights = _means([value or 0.0 for value in values], size)
            colour = SERIES[number % len(SERIES)]
            drawn.append(axes.bar(places, heights, width, bottom=base, color=colour, linewidth=0))
            base = [a + b for a, b in zip(base, heights, strict=True)]
        axes.grid(visible=False, axis="x")
        _whole_numbers(axes)
        _legend(axes, list(parts), drawn, handlelength=1.0)

    return paint


def before_after(
    rows: Sequence[tuple[str, tuple[float, float], tuple[float, float]]], labels: tuple[str, str]
) -> Paint:
    """For each row a name and two means with the half-widths of their intervals, joined by a line."""

    def paint(axes: "Axes") -> None:
        drawn: list[Any] = []
        for number, (_, first, second) in enumerate(rows):
            ys = (APART - number, -APART - number)  # one above the other, or their intervals would hide each other
            axes.plot([first[0], second[0]], ys, color=MUTED, linewidth=0.8, zorder=1)
            for place, (mean, half) in enumerate((first, second)):
                point = axes.errorbar(
                    [mean], [ys[place]], xerr=[half], fmt="os"[place], color=SERIES[(1, 0)[place]], markersize=5.5,
                    elinewidth=1.6, capsize=2.5,
                )  # fmt: skip
                drawn.append(point)
        axes.axvline(0, color=MUTED, linewidth=0.6)
        axes.set_yticks([-i for i in range(len(rows))], [row[0] for row in rows], color=INK)
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        _legend(axes, labels, drawn[:2])

    return paint


def shares(rows: Sequence[tuple[str, float, float, float]], chance: float) -> Paint:
    """Bars of shares with their intervals: (label, share, low, high); `chance` is what guessing reaches."""

    def paint(axes: "Axes") -> None:
        places = list(range(len(rows)))
        values = [row[1] for row in rows]
        errors = [[max(0.0, row[1] - row[2]) for row in rows], [max(0.0, row[3] - row[1]) for row in rows]]
        axes.bar(places, values, 0.62, color=SERIES[0], alpha=0.75, linewidth=0)
        axes.errorbar(places, values, yerr=errors, fmt="none", ecolor=INK, elinewidth=0.9, capsize=3, capthick=0.9)
        axes.axhline(chance, color=SERIES[1], linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_xticks(places, [row[0] for row in rows])
        axes.set_ylim(0, 1.02)
        axes.grid(visible=False, axis="x")
        _percent(axes.yaxis)

    return paint


def calibration(rows: Sequence[tuple[float, float, int]]) -> Paint:
    """(predicted, observed, number of pairs) against the diagonal; a point's area says how many pairs it is."""

    def paint(axes: "Axes") -> None:
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        predicted, observed = [row[0] for row in rows], [row[1] for row in rows]
        most = max(row[2] for row in rows)
        axes.plot(predicted, observed, color=SERIES[0], linewidth=1.2)
        axes.scatter(
            predicted, observed, s=[12 + 60 * row[2] / most for row in rows], color=SERIES[0], linewidth=0, zorder=3
        )
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.45, min(observed) - 0.05), 1.03)
        _percent(axes.xaxis)
        _percent(axes.yaxis)

    return paint


def histogram(edges: Sequence[float], counts: Sequence[int]) -> Paint:
    """Bars from edge to edge."""

    def paint(axes: "Axes") -> None:
        widths = [b - a for a, b in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=SERIES[0], alpha=0.8, edgecolor=PAPER, linewidth=0.5)
        axes.grid(visible=False, axis="x")

    return paint


def smoothed(y: Numbers, window: int) -> list[float | None]:
    """The mean over the last `window` numbers at each place, of those that are there."""
    means: list[float | None] = []
    for i in range(len(y)):
        known = [value for value in y[max(0, i + 1 - window) : i + 1] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _means(values: Sequence[float], size: int) -> list[float]:
    """The means of `size` values each, the last of what is left."""
    groups = [values[i : i + size] for i in range(0, len(values), size)]
    return [sum(group) / len(group) for group in groups]


def drawable(values: Numbers) -> list[float | None]:
    """The numbers with None for those that are too large to be drawn."""
    return [value if value is not None and abs(value) <= LARGEST else None for value in values]


def shown(name: str) -> str:
    """A name that comes from a run, as a figure can show it: on one line, not too long."""
    line = re.sub(r"\s+", " ", clean(name))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def to_svg(chart: Chart, prefix: str) -> str:
    """The figure as an inline <svg>. `prefix` makes its ids its own among others on the page."""
    buffer = io.StringIO()
    with _drawn(chart, titled=False) as figure:
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue(), prefix)


def to_png(chart: Chart) -> bytes:
    """The figure as a PNG file, on white, with its title."""
    buffer = io.BytesIO()
    with _drawn(chart, titled=True) as figure:
        figure.savefig(buffer, format="png", dpi=DPI, facecolor=PAPER, metadata={"Software": FIGURE_MARK})
    return buffer.getvalue()


def has_chinese_font() -> bool:
    """Whether this machine has a font in which a PNG's Chinese words can be drawn. An SVG needs none."""
    return bool(_chinese())


@contextmanager
def _drawn(chart: Chart, *, titled: bool) -> "Iterator[Figure]":
    """The finished figure, while matplotlib is set up for it; what the user's matplotlibrc says has no part in it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an SVG is set in the reader's fonts
        mpl.rcdefaults()
        settings: dict[Any, Any] = {**STYLE, "font.family": ["DejaVu Sans", *_chinese()]}
        mpl.rcParams.update(settings)
        figure = Figure(figsize=SMALL if chart.small and not titled else SIZE, layout="constrained")
        axes = figure.add_subplot()
        chart.paint(axes)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        if titled:
            figure.suptitle(chart.title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        yield figure


def _chinese() -> list[str]:
    from matplotlib import font_manager

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # "this may take a moment"
    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in CJK if name in known][:1]


def _course(axes: "Axes", line: Line, colour: str, dash: Any) -> Any:
    """Draw a line. Returns what stands for it in a legend."""
    known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    if len(known) > MANY:
        size = -(-len(known) // BARS)
        groups = [ys[i : i + size] for i in range(0, len(ys), size)]
        ends = (list(map(min, groups)), list(map(max, groups)))
        axes.fill_between(_means(xs, size), *ends, color=colour, alpha=0.18, linewidth=0)
        means: list[Any] = smoothed(ys, len(ys) // 40)
        [drawn] = axes.plot(xs, means, color=colour, linestyle=dash)
    else:
        marker = "o" if len(known) <= MARKED else None
        [drawn] = axes.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markersize=2.6)
    if line.half is not None:
        halves = {x: half for x, half in zip(line.x, line.half, strict=True) if half is not None}
        low, high = ([y + sign * halves.get(x, 0.0) for x, y in known] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
    return drawn


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(_many(axes, 8, 6), integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(_many(axes, 8, 5), steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.03)


def _many(axes: "Axes", wide: int, small: int) -> int:
    figure: Any = axes.figure
    return wide if figure.get_figwidth() >= SIZE[0] else small


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(axes: "Axes", labels: Sequence[str], drawn: Sequence[Any], handlelength: float | None = None) -> None:
    """What is drawn, by its labels; left to itself matplotlib leaves out those that begin with _."""
    figure: Any = axes.figure
    fitting = int(figure.get_figwidth() * AN_INCH) // (max(map(len, labels)) + 3)
    columns = max(1, min(len(labels), 3, fitting))
    most = columns * ROWS
    if len(labels) > most:
        labels = [*labels[: most - 1], f"+ {len(labels) - most + 1}"]
    axes.legend(
        drawn[:most], labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2,
        columnspacing=1.1, handlelength=handlelength,
    )  # fmt: skip


def _inline(text: str, prefix: str) -> str:
    """What of an SVG file stands within a page: no prolog, no links out, colours as variables, ids with a prefix."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = re.sub(r'\bxlink:href="', 'href="', text)
    text = re.sub(r'\b(id|href)="(#?)', rf'\1="\2{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r"(font(?:-family)?: ?[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1inherit", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var({name})")
    return text.strip()
