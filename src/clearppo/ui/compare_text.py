"""A comparison of two runs as words, tables and curves for a terminal or a pipe."""

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clearppo.ui.alarms import Alarm, sentence_of, title_of
from clearppo.ui.compare import READ, Comparison, Side
from clearppo.ui.compare_numbers import LONGEST_END, End, Parting
from clearppo.ui.compare_record import ANSWER, ORDER, ColumnDifference, Difference, Records
from clearppo.ui.compare_words import WORDS
from clearppo.ui.label_terminal import printable
from clearppo.ui.report_words import Say, words
from clearppo.ui.terminal_chart import COLOURS, LETTERS, chart

MOST_METRICS = 8
"""Metrics of a step that are shown, the most different first."""
WIDEST = 110
"""Columns of a chart at most."""
_HOW = {
    "prompts": ("prompt_id", "prompt_ids"),
    "answers": (ANSWER, "finish_reason", "completion"),
    "policy": ("sampler_log_probs", "log_probs", "values"),
    "scores": ("parts", "raw_score", "score"),
    "reference": ("ref_log_probs",),
    "rewards": ("kls", "rewards"),
    "credit": ("returns", "advantages"),
    "learning": ("ratios",),
}
"""What it means that a column is the first that differs."""
assert tuple(name for names in _HOW.values() for name in names) == ORDER


def print_comparison(found: Comparison, console: Console, language: str) -> None:
    """All of it, in one language."""
    _Printer(found, console, language).all()


def _is_other_text(difference: Difference) -> bool:
    """Whether prompts or answers differ, so that all other columns must."""
    return any(column.column in (*_HOW["prompts"], ANSWER) for column in difference.columns)


class _Printer:
    def __init__(self, found: Comparison, console: Console, language: str) -> None:
        self.found, self.console, self.language = found, console, language
        self.say: Say = words(language, WORDS)
        self.round = "iteration" if found.kind == "ppo" else "step"
        self.coloured = console.color_system is not None and not console.no_color

    def all(self) -> None:
        for name, side in (("A", self.found.a), ("B", self.found.b)):
            self.line(f"{name}  {side.run.path}", self.about(side), style=COLOURS["AB".index(name)])
        self.console.print()
        self.line(self.verdict(), style="bold")
        for title, part in (
            ("options", self.options),
            ("machine", self.machine),
            ("data", self.data),
            ("numbers", self.numbers),
            ("ends", self.ends),
            ("curves", self.curves),
            ("alarms", self.alarms),
            ("browser", self.browser),
        ):
            shown = list(part())
            if shown:
                self.console.print()
                self.line(self.say(title), style="bold underline" if self.coloured else "")
            for it in shown:
                self.line(it) if isinstance(it, str) else self.console.print(it)

    def line(self, *texts: str, style: str = "") -> None:
        """Sentences below each other. In a pipe each stays on its line."""
        for i, text in enumerate(texts):
            shown = Text(printable(text), style=style if i == 0 else "dim")
            self.console.print(shown, soft_wrap=not self.console.is_terminal)

    # ---------------------------------------------------------------------------------- words

    def at(self, step: int) -> str:
        return self.say(f"at.{self.round}", step=step)

    def rounds(self, n: int) -> str:
        return self.say(f"{'one' if n == 1 else 'many'}.{self.round}", n=n)

    def listed(self, names: Sequence[str]) -> str:
        return self.say("comma").join(names)

    def about(self, side: Side) -> str:
        run = side.run
        done = self.rounds(run.step) if not run.n_steps or run.n_steps == run.step else f"{run.step} / {run.n_steps}"
        said = [self.say(f"kind.{run.kind}"), self.say(f"state.{run.state}", done=done)]
        if side.seconds is not None:
            said.append(self.say(f"seconds.{self.round}", s=f"{side.seconds:.3g}"))
        return f"   {self.listed(said)}"

    def verdict(self) -> str:
        """One sentence: the same, or since when and how they differ."""
        numbers, say = self.found.numbers, self.say
        if not numbers.steps:
            return say("nothing_common", round=say(self.round), a=numbers.last_a, b=numbers.last_b)
        parted = self.parted()
        if parted is not None:
            return parted
        first = self.first_step()
        return self.same() if first is None else say("rounding", at=self.at(first))

    def parted(self) -> str | None:
        """The sentence on the first difference that is more than rounding."""
        records, real = self.found.records, self.found.numbers.first_real
        recorded = records.first_real if records else None
        if records is not None and recorded is not None and (real is None or recorded.step <= real.step):
            step, how = recorded.step, self.how(recorded, records)
        elif real is not None:
            step, worst = real.step, real.differences[0]
            a, b = pair(worst.a, worst.b)
            how = self.say("how.metric", metric=worst.metric, a=a, b=b)
        else:
            return None
        first = self.first_step()
        if first is not None and first < step:
            return self.say("part.rounding", at=self.at(step), how=how, first=self.at(first))
        return self.say("part", at=self.at(step), how=how)

    def how(self, difference: Difference, records: Records) -> str:
        column = next(column.column for column in difference.columns if column.kind == "real")
        what = next(name for name, columns in _HOW.items() if column in columns)
        if what == "prompts" and records.order.same_prompts:
            what = "order"
        return self.say(f"how.{what}", column=column)

    def first_step(self) -> int | None:
        """The first step at which anything differs."""
        numbers, records = self.found.numbers, self.found.records
        found = [part.step for part in (numbers.first, records and records.first) if part]
        return min(found, default=None)

    def same(self) -> str:
        numbers, records, say = self.found.numbers, self.found.records, self.say
        n, rounds = f"{numbers.compared:,}", self.rounds(len([step for step in numbers.steps if step > 0]))
        answers = say("same.answers", n=f"{records.answers:,}") if records else ""
        if numbers.last_a != numbers.last_b:
            which, last = max(("A", numbers.last_a), ("B", numbers.last_b), key=lambda it: it[1])
            return say("same.so_far", n=n, rounds=rounds, answers=answers, which=which, last=self.at(last))
        only = ("A", numbers.only_a) if numbers.only_a else ("B", numbers.only_b)
        if only[1]:
            return say("same.but", n=n, rounds=rounds, which=only[0], names=self.listed(only[1]))
        return say("same", n=n, rounds=rounds, answers=answers)

    # ---------------------------------------------------------------------------------- sections

    def options(self) -> Iterator[str | Table]:
        found, say = self.found, self.say
        if found.options_unread is not None:
            yield say("options.unread", file=found.options_unread)
            return
        telling = [change for change in found.options if change.effect in ("result", "length")]
        if telling:
            yield self.table((say("option"), "A", "B"), [(c.option, c.was, c.now) for c in telling])
        else:
            yield say("options.same")
        for effect in ("bits", "none"):
            others = [c for c in found.options if c.effect == effect and c.option != "output_dir"]
            names = [f"{c.option} ({c.was} | {c.now})" for c in others]
            if names:
                yield say(f"options.{effect}", names=self.listed(names))
        if not telling and found.numbers.first is not None:
            yield say("options.why")

    def machine(self) -> Iterator[str | Table]:
        facts, say = self.found.facts, self.say
        plain = [(fact.name, fact.a, fact.b) for fact in facts if not fact.name.startswith(READ)]
        if plain:
            yield self.table((say("fact"), "A", "B"), plain)
        for fact in facts:
            if fact.name.startswith(READ):
                yield say("input.other", name=self.read(fact.name.removeprefix(READ)))
        if same := self.found.same_input:
            yield say("input.same", names=self.listed([self.read(name) for name in same]))

    def read(self, name: str) -> str:
        return self.say(f"read.{name}") if f"read.{name}" in WORDS else name

    def data(self) -> Iterator[str | Table]:
        records, say = self.found.records, self.say
        if self.found.kind != "ppo":
            return
        if damaged := self.found.damaged:
            yield damaged[0]
            if len(damaged) > 1:
                yield say("record.damaged", n=len(damaged) - 1)
        if records is None:
            yield say("record.none")
            return
        yield say("record.common", rounds=self.rounds(len(records.steps)), n=f"{records.answers:,}")
        if records.batch is not None:
            yield say("record.batch", a=records.batch[0], b=records.batch[1])
        yield self.order(records)
        if records.answer is None:
            yield say("answers.same") if records.answers else say("answers.none")
        else:
            column = next(column for column in records.answer.columns if column.column == ANSWER)
            yield say(
                "answers.other", row=column.first.row, at=self.at(records.answer.step), token=column.first.token,
                n=column.n_rows, of=records.answer.n_rows,
            )  # fmt: skip
            if records.answer.before is not None:
                kind = "same" if records.answer.before == 0 else "other"
                yield say(f"before.{kind}", size=f"{records.answer.before:.2g}")
        difference = records.first_real or records.first
        if difference is not None and not _is_other_text(difference):
            yield say("columns", at=self.at(difference.step))
            header = tuple(say(f"column{name}") for name in ("", ".rows", ".first", ".size"))
            yield self.table(header, [self.column(column) for column in difference.columns], numbers=(1, 3))

    def order(self, records: Records) -> str:
        order, say = records.order, self.say
        if order.first is None:
            return say("order.same")
        if order.same_prompts:
            return say("order.shuffled", at=self.at(order.first))
        shared = f"{order.shared:.0%}"
        if order.first == records.steps[0]:
            return say("order.first", shared=shared)
        return say("order.other", at=self.at(order.first), row=order.row, shared=shared)

    def column(self, column: ColumnDifference) -> tuple[str, ...]:
        place = "place" if column.first.token is None else "place.token"
        first = self.say(place, row=column.first.row, token=column.first.token)
        size = "" if column.size is None else f"{column.size:.3g}"
        if column.kind == "rounding":
            size = f"{size} ({self.say('kind.rounding')})"
        return column.column, str(column.n_rows), first, size

    def numbers(self) -> Iterator[str | Table]:
        numbers, say = self.found.numbers, self.say
        n = len(numbers.metrics)
        if numbers.steps and numbers.first is None:
            yield say("numbers.same", n=n, rounds=self.rounds(len([step for step in numbers.steps if step > 0])))
        for name, part in (("first", numbers.first), ("real", numbers.first_real)):
            if part is None or (name == "real" and part == numbers.first):
                continue
            kind = say(f"kind.{part.kind}")
            yield say(f"numbers.{name}", n=len(part.differences), of=n, at=self.at(part.step), kind=kind)
            yield self.parting(part)
            if len(part.differences) > MOST_METRICS:
                yield say("numbers.more", n=len(part.differences) - MOST_METRICS)
        for which, only in (("A", numbers.only_a), ("B", numbers.only_b)):
            if only:
                yield say("numbers.only", which=which, names=self.listed(only))

    def parting(self, part: Parting) -> Table:
        header = tuple(self.say(name) for name in ("metric", "difference", "of_size"))
        rows = [
            (
                d.metric,
                *pair(d.a, d.b),
                "" if d.a is None or d.b is None else f"{d.b - d.a:+.3g}",
                "" if d.size is None else f"{d.size:.1e}" if d.size < 1e-3 else f"{d.size:.2%}",
            )
            for d in part.differences[:MOST_METRICS]
        ]
        return self.table((header[0], "A", "B", *header[1:]), rows, numbers=(1, 2, 3, 4))

    def ends(self) -> Iterator[str | Table]:
        if not self.found.ends:
            return
        last = self.found.numbers.steps[-1] if self.found.numbers.steps else 0
        yield self.say("ends.note", at=self.at(last), n=LONGEST_END)
        rows = [self.end(end) for end in self.found.ends]
        yield self.table((self.say("metric"), "A", "B", self.say("difference"), ""), rows, numbers=(1, 2, 3))

    def end(self, end: End) -> tuple[str, ...]:
        if end.a == end.b and end.spread_a == end.spread_b:
            said = self.say("ends.same")
        else:
            said = "" if end.apart is None else self.say("ends.apart" if end.apart else "ends.within")
        a, b = pair(end.a, end.b, digits=3)
        cells = (
            mean if spread is None else f"{mean} ± {spread:.2g}"
            for mean, spread in ((a, end.spread_a), (b, end.spread_b))
        )
        return end.metric, *cells, f"{end.b - end.a:+.3g}", said

    def curves(self) -> Iterator[Text]:
        braille = self.coloured and self.console.encoding.lower().startswith("utf")
        for metric, curves in self.found.curves.items():
            marks = COLOURS if braille else ("", "")
            keys = ("━", "━") if braille else LETTERS[:2]
            both = "" if braille else f"   {LETTERS[2]} = A = B"
            legend = [(f"{key} {name}  ", mark) for key, name, mark in zip(keys, "AB", marks, strict=True)]
            yield Text.assemble((f"{printable(metric)}   ", "bold"), *(legend if braille else []), both)
            yield from chart(curves, width=min(self.console.width, WIDEST), braille=braille)

    def alarms(self) -> Iterator[str]:
        if not (self.found.a.alarms or self.found.b.alarms):
            return
        for name, side in (("A", self.found.a), ("B", self.found.b)):
            if not side.alarms:
                yield f"{name}{self.say('colon')}{self.say('alarms.none')}"
            for alarm in side.alarms:
                yield f"{name}{self.say('colon')}{self.alarm(alarm)}"

    def alarm(self, alarm: Alarm) -> str:
        when = self.say("alarm.on", a=self.at(alarm.step))
        if alarm.over is not None:
            when = self.at(alarm.step)
            when = when if alarm.over == alarm.step else self.say("alarm.over", a=when, b=alarm.over)
        seen = sentence_of(alarm, self.language)
        return f"{when}{self.say('comma')}{title_of(alarm, self.language)}{self.say('colon')}{seen}"

    def browser(self) -> Iterator[str | Text]:
        command, page = self.found.overlay
        yield self.say("browser.note")
        yield Text(printable(f"  {shlex.join(command)}"), no_wrap=True, overflow="ignore")  # to be copied whole
        yield self.say("browser.page", page=page)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Table:
        apart = 2 if len(header) < 5 else 1
        shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, apart, 0, 0))
        for place, name in enumerate(header):
            shown.add_column(
                Text(name), justify="right" if place in numbers else "left", overflow="fold", no_wrap=place == 0
            )
        for row in rows:
            shown.add_row(*(Text(printable(cell)) for cell in row))
        return shown


def pair(a: float | None, b: float | None, digits: int = 4) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart, `digits` at least; – where there is none."""
    if a is None or b is None:
        return ("–" if a is None else f"{a:.{digits}g}", "–" if b is None else f"{b:.{digits}g}")
    for more in range(digits, 18):
        said = f"{a:.{more}g}", f"{b:.{more}g}"
        if a == b or said[0] != said[1]:
            return said
    return repr(a), repr(b)
