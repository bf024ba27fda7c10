"""Two curves in a terminal: dots of Braille in two colours, or letters where there are no colours."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.text import Text

Curve = Sequence[tuple[int, float]]
"""Points as (step, value), by step."""

COLOURS = ("bright_blue", "yellow")
BOTH = "green"
"""Where the two curves lie over each other."""
LETTERS = ("A", "B", "#")
"""The first curve, the second, and both."""
HEIGHT = 7
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a Braille character's dots, its rows from the top."""


def chart(curves: tuple[Curve, Curve], *, width: int, braille: bool, height: int = HEIGHT) -> list[Text]:
    """The lines of a chart of both curves over one range, its axes labelled with their ends. `braille`: with colours;
    without, every character is one of ASCII."""
    xs = [x for curve in curves for x, _ in curve]
    ys = [y for curve in curves for _, y in curve]
    low, high = min(ys), max(ys)
    labels = _padded(_label(high), *([""] * (height - 2)), _label(low))
    room = max(width - len(labels[0]) - 3, 10)
    bar, corner, rule = ("│", "└", "─") if braille else ("|", "+", "-")
    across, down = (2, 4) if braille else (1, 1)
    shape = (room * across, height * down)
    drawn = [set(_pixels(curve, (min(xs), max(xs)), (low, high), shape)) for curve in curves]
    lines = [
        Text.assemble((f"{label} {bar}", "dim"), *(_cell(drawn, row, column, braille) for column in range(room)))
        for row, label in enumerate(labels)
    ]
    first, last = str(min(xs)), str(max(xs))
    margin = " " * (len(labels[0]) + 1)
    lines.append(Text(margin + corner + rule * room, style="dim"))
    gap = room - len(first) - len(last)
    lines.append(Text(f"{margin} {first}{' ' * gap + last if gap > 0 and first != last else ''}", style="dim"))
    return lines


def _pixels(
    curve: Curve, xs: tuple[int, int], ys: tuple[float, float], shape: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """The pixels (row from the top, column) of a curve, its points joined by straight lines."""
    wide, tall = shape

    def place(x: int, y: float) -> tuple[int, int]:
        share_x = (x - xs[0]) / (xs[1] - xs[0]) if xs[1] > xs[0] else 0.5
        share_y = (y / 2 - ys[0] / 2) / (ys[1] / 2 - ys[0] / 2) if ys[1] > ys[0] else 0.5  # halves: no overflow
        return round((1 - share_y) * (tall - 1)), round(share_x * (wide - 1))

    placed = [place(x, y) for x, y in curve]
    yield from placed
    for (row, column), (next_row, next_column) in pairwise(placed):
        steps = max(abs(next_row - row), abs(next_column - column))
        for i in range(1, steps):
            yield row + round((next_row - row) * i / steps), column + round((next_column - column) * i / steps)


def _cell(drawn: Sequence[set[tuple[int, int]]], row: int, column: int, braille: bool) -> str | tuple[str, str]:
    """One character, with its style."""
    if not braille:
        here = [(row, column) in pixels for pixels in drawn]
        return LETTERS[2] if all(here) else LETTERS[0] if here[0] else LETTERS[1] if here[1] else " "
    bits = [
        sum(
            bit for i, pair in enumerate(_DOTS) for j, bit in enumerate(pair) if (4 * row + i, 2 * column + j) in pixels
        )
        for pixels in drawn
    ]
    if not any(bits):
        return " "
    style = BOTH if all(bits) else COLOURS[0] if bits[0] else COLOURS[1]
    return chr(_BRAILLE + (bits[0] | bits[1])), style


def _label(value: float) -> str:
    return f"{value:.3g}"


def _padded(*labels: str) -> list[str]:
    width = max(map(len, labels))
    return [label.rjust(width) for label in labels]
