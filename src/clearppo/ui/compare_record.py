"""Two runs' records beside each other: whether they were given the same prompts and gave the same answers, and which
column of an iteration is the first that differs."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from clearppo.errors import RecordError
from clearppo.record import Iteration, iteration_path, steps
from clearppo.ui.compare_numbers import ROUNDING, Size
from clearppo.ui.runs import Run

_pc: Any = pyarrow.compute

ORDER = (
    "prompt_id", "prompt_ids", "token_ids", "finish_reason", "completion", "sampler_log_probs", "log_probs",
    "values", "parts", "raw_score", "score", "ref_log_probs", "kls", "rewards", "returns", "advantages", "ratios",
)  # fmt: skip
"""The columns in the order in which an iteration makes them: sampling, feedback, learning."""
PROMPT, ANSWER, DRAWN = "prompt_id", "token_ids", "sampler_log_probs"
MOST_ROWS = 256
"""So many answers are looked into token by token."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The first cell in which a column differs: the answer, and the token in a column that has one value a token."""

    row: int
    token: int | None


@dataclass(frozen=True, kw_only=True)
class ColumnDifference:
    """A column that differs in an iteration: in so many answers, first where, and by how much at most (None: it is no
    number, or answers of other lengths)."""

    column: str
    n_rows: int
    first: Place
    size: float | None
    kind: Size


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The columns of one iteration that differ, in the order of ORDER; all but the prompts by the `n_rows` answers that
    are to the same prompt in the same place of the batch. `before`: by how much at most the sampler's log-probs differ
    where the answers do not yet; None: they differ from the first token on, or not at all."""

    step: int
    kind: Size
    n_rows: int
    before: float | None
    columns: Sequence[ColumnDifference]


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which prompts came when. `first` is the first iteration with other prompts, at answer `row`; `same_prompts`: it
    has the same ones in another order. `shared` is the share of the prompts that both runs were given at all."""

    first: int | None
    row: int | None
    same_prompts: bool
    shared: float


@dataclass(frozen=True, kw_only=True)
class Records:
    """Two records. `steps` are the iterations that both have, `answers` how many answers of them can be compared: those
    to the same prompt in the same place of the batch.
    `first` is the first iteration that differs, `first_real` the first that does by more than rounding, `answer` the
    first with another answer (its place is in the column `token_ids`). `batch` is how many answers an iteration each
    has, where that differs."""

    steps: Sequence[int]
    answers: int
    order: Order
    first: Difference | None
    first_real: Difference | None
    answer: Difference | None
    batch: tuple[int, int] | None


def compare_records(a: Run, b: Run) -> tuple[Records | None, list[str]]:
    """Both records, and what is wrong with the files that cannot be read, a sentence each; the other iterations are
    compared. None: there is no iteration that both have."""
    damaged: list[str] = []
    common: list[int] = []
    comparison = _Comparison()
    for step in (step for step in _recorded(a) if step in set(_recorded(b))):
        try:
            comparison.add(step, *(Iteration(iteration_path(run.path, step)) for run in (a, b)))
            common.append(step)
        except (RecordError, OSError) as error:  # a run that makes room takes files away
            damaged.append(str(error))
    return (comparison.records(common) if common else None), damaged


@dataclass
class _Comparison:
    """What is known after some iterations."""

    first: Difference | None = None
    first_real: Difference | None = None
    answer: Difference | None = None
    batch: tuple[int, int] | None = None
    answers: int = 0
    order: tuple[int, int, bool] | None = None
    seen: tuple[set[str], set[str]] = field(default_factory=lambda: (set[str](), set[str]()))

    def add(self, step: int, a: Iteration, b: Iteration) -> None:
        """Compare an iteration. Raises RecordError, and nothing of it counts."""
        prompts = [found.columns(PROMPT)[PROMPT].to_pylist() for found in (a, b)]
        known = self.first_real is not None and self.answer is not None
        found = None if known else _difference(step, a, b)
        others = [i for i, (x, y) in enumerate(zip(*prompts, strict=False)) if x != y]
        for seen, ids in zip(self.seen, prompts, strict=True):
            seen.update(ids)
        self.answers += min(a.n_rows, b.n_rows) - len(others)
        if self.order is None and others:
            self.order = (step, others[0], Counter(prompts[0]) == Counter(prompts[1]))
        if self.batch is None and a.n_rows != b.n_rows:
            self.batch = (a.n_rows, b.n_rows)
        if found is not None:
            self.first = self.first or found
            self.first_real = self.first_real or (found if found.kind == "real" else None)
            self.answer = self.answer or (found if any(it.column == ANSWER for it in found.columns) else None)

    def records(self, steps: Sequence[int]) -> Records:
        """All of it."""
        step, row, same = self.order or (None, None, True)
        shared = len(self.seen[0] & self.seen[1]) / max(len(self.seen[0] | self.seen[1]), 1)
        order = Order(first=step, row=row, same_prompts=same, shared=shared)
        return Records(
            steps=steps, answers=self.answers, order=order, first=self.first, first_real=self.first_real,
            answer=self.answer, batch=self.batch,
        )  # fmt: skip


def _recorded(run: Run) -> list[int]:
    """The iterations of a run whose file is its own."""
    if not run.directory("record"):
        return []
    return [step for step in steps(run.path) if run.file("record", iteration_path(run.path, step).name)]


def _difference(step: int, a: Iteration, b: Iteration) -> Difference | None:
    """What differs between two files; None: nothing in the answers that both have."""
    if _same_bytes(a.path, b.path):
        return None
    tables = [found.columns(*ORDER) for found in (a, b)]
    n_rows = min(table.num_rows for table in tables)
    left, right = (table.slice(0, n_rows).combine_chunks() for table in tables)
    places = pa.array(range(n_rows), pa.int64())
    columns: list[ColumnDifference] = []
    for name in ORDER:
        if (found := _column(name, left, right, places)) is not None:
            columns.append(found)
        if found is not None and name == PROMPT:
            same = _pc.equal(left[PROMPT].chunk(0), right[PROMPT].chunk(0))
            left, right, places = (it.filter(same) for it in (left, right, places))
            left, right = left.combine_chunks(), right.combine_chunks()
    kind: Size = "real" if any(column.kind == "real" for column in columns) else "rounding"
    before = _before(left, right) if any(column.column == ANSWER for column in columns) else None
    return Difference(step=step, kind=kind, n_rows=len(places), before=before, columns=columns) if columns else None


def _before(left: pa.Table, right: pa.Table) -> float | None:
    """The largest distance of two log-probs of one token, over the tokens before which nothing differs."""
    distances: list[float] = []
    sides = (table.select([ANSWER, DRAWN]).slice(0, MOST_ROWS).to_pylist() for table in (left, right))
    for one, another in zip(*sides, strict=True):
        for token, other, p, q in zip(one[ANSWER], another[ANSWER], one[DRAWN], another[DRAWN], strict=False):
            if token != other:
                break
            if p is not None and q is not None:
                distances.append(abs(p - q))
    return max(distances, default=None)


def _same_bytes(a: Path, b: Path) -> bool:
    return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def _column(name: str, left: pa.Table, right: pa.Table, places: Any) -> ColumnDifference | None:
    """How a column differs; `places` are the rows' places in the batch."""
    x, y = _array(left, name), _array(right, name)
    if x.equals(y):
        return None
    rows = list(_differing(x, y, 0, len(x)))
    if not rows:  # other types of equal values, as float32 and float64 are
        return None
    size, scale = _size(x, y)
    rounded = size is not None and size <= ROUNDING * scale
    return ColumnDifference(
        column=name,
        n_rows=len(rows),
        first=Place(row=places[rows[0]].as_py(), token=_token(x[rows[0]].as_py(), y[rows[0]].as_py())),
        size=size,
        kind="rounding" if rounded else "real",
    )


def _array(table: pa.Table, name: str) -> Any:
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _differing(x: Any, y: Any, start: int, end: int) -> Iterator[int]:
    """The rows that differ, by halves: whole stretches that are equal are compared at once."""
    if x.slice(start, end - start).equals(y.slice(start, end - start)):
        return
    if end - start == 1:
        if x[start].as_py() != y[start].as_py():
            yield start
        return
    middle = (start + end) // 2
    yield from _differing(x, y, start, middle)
    yield from _differing(x, y, middle, end)


def _token(x: Any, y: Any) -> int | None:
    """The first token at which two lists differ, of several epochs the first epoch's; None: no lists of tokens."""
    if not isinstance(x, list) or not isinstance(y, list):
        return None
    place = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    if place < min(len(x), len(y)) and isinstance(x[place], list):
        return _token(x[place], y[place])
    return place


def _size(x: Any, y: Any) -> tuple[float | None, float]:
    """The largest distance between two columns of numbers, and their largest value. None: they cannot be compared."""
    p, q = _numbers(x), _numbers(y)
    if p is None or q is None or _lengths(x) != _lengths(y) or not p.is_valid().equals(q.is_valid()):
        return None, 1.0
    distance = _pc.max(_pc.abs(_pc.subtract(p, q))).as_py()
    largest = [_pc.max(_pc.abs(column)).as_py() for column in (p, q)]
    scale = max((value for value in largest if value is not None), default=0.0)
    return (distance, scale) if distance is not None and math.isfinite(distance) else (None, 1.0)


def _lengths(column: Any) -> list[Any]:
    """How many values each list has, and each list in it; the number of values of a column without lists."""
    found: list[Any] = [len(column)]
    while pa.types.is_list(column.type):
        found += [column.value_lengths().to_pylist()]
        column = column.flatten()
    return found


def _numbers(column: Any) -> Any:
    """All numbers of a column as one float64 array; None for one of texts."""
    if pa.types.is_struct(column.type):
        fields = [_numbers(column.field(i)) for i in range(column.type.num_fields)]
        return None if None in fields or not fields else pa.concat_arrays(fields)
    while pa.types.is_list(column.type):
        column = column.flatten()
    return column.cast(pa.float64()) if pa.types.is_floating(column.type) else None
