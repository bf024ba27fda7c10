"""The alarms of a run as it wrote them into alarms.jsonl (docs/alarms.md): from when to when each was on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clearppo.catalogue.alarms import ALARMS
from clearppo.ui.metrics import Rows, number
from clearppo.ui.report_words import LANGUAGES, words
from clearppo.ui.runs import Run

FILE = "alarms.jsonl"
_TEXTS = ("metric", "source", "sentence", "advice", "action")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One alarm, from the iteration `step` in which it began to `over`, the one in which it was over; None: it was
    still on. `value` is what the metric was when it began, `limit` what it must not pass, `start` how the run began."""

    alarm: str
    step: int
    over: int | None
    metric: str | None
    source: str | None
    value: float | None
    limit: float | None
    start: float | None
    sentence: str | None
    advice: str | None
    action: str | None


def alarms_of(run: Run) -> Sequence[Alarm]:
    """All alarms of a run, the earliest first. Lines that are none are left out."""
    file = run.file(FILE)
    if file is None:
        return ()
    found = file.stat()
    return _read(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=256)
def _read(file: Path, _mtime_ns: int, _size: int) -> Sequence[Alarm]:
    return tuple(_paired(Rows(file.name, lambda _: file).news()[0]))


def _paired(rows: Iterable[Mapping[str, Any]]) -> Iterable[Alarm]:
    begun: dict[tuple[str, Any], int] = {}  # what is on -> its place
    found: list[dict[str, Any]] = []
    for row in rows:
        name = row.get("alarm")
        if not isinstance(name, str):
            continue
        texts = {key: row[key] if isinstance(row.get(key), str) else None for key in _TEXTS}
        key = (name, texts["source"])
        if row.get("state") == "on" and key not in begun:
            begun[key] = len(found)
            numbers = {key: number(row.get(key)) for key in ("value", "limit", "start")}
            found.append({"alarm": name, "step": row["step"], "over": None, **texts, **numbers})
        elif row.get("state") == "off" and key in begun:
            found[begun.pop(key)]["over"] = row["step"]
    return (Alarm(**alarm) for alarm in found)


def as_events(alarms: Iterable[Alarm]) -> list[dict[str, Any]]:
    """Their beginnings and ends, as `ui.metrics.events` has what else happened; `words` is the text by language."""
    events: list[dict[str, Any]] = []
    for alarm in alarms:
        about = {"alarm": alarm.alarm, "source": alarm.source, "metric": alarm.metric, "value": alarm.value}
        for kind, step, said in (("alarm", alarm.step, begun), ("alarm_over", alarm.over, over)):
            if step is not None:
                both = in_both(said, alarm)
                events.append({"step": step, "kind": kind, **about, "text": both["en"], "words": both})
    return events


def in_short(alarms: Iterable[Alarm]) -> list[dict[str, Any]]:
    """What a list of runs tells of them."""
    return [
        {"alarm": alarm.alarm, "step": alarm.step, "over": alarm.over, "title": in_both(title_of, alarm)}
        for alarm in alarms
    ]


def as_told(alarms: Iterable[Alarm]) -> list[dict[str, Any]]:
    """All that is known of them, with title, sentence and advice by language."""
    return [
        {
            **asdict(alarm),
            "title": in_both(title_of, alarm),
            "sentence": in_both(sentence_of, alarm),
            "advice": in_both(advice_of, alarm),
        }
        for alarm in alarms
    ]


def in_both(say: Callable[[Alarm, str], str], alarm: Alarm) -> dict[str, str]:
    """The same in every language."""
    return {language: say(alarm, language) for language in LANGUAGES}


def begun(alarm: Alarm, language: str) -> str:
    """That an alarm began, and why."""
    return words(language)("alarm.begun", title=title_of(alarm, language), seen=sentence_of(alarm, language))


def over(alarm: Alarm, language: str) -> str:
    """That it is over."""
    return words(language)("alarm.over", title=title_of(alarm, language))


def title_of(alarm: Alarm, language: str) -> str:
    """What an alarm is called, with the source of the score that it is about."""
    known = ALARMS.get(alarm.alarm)
    title = known.title[LANGUAGES.index(language)] if known else alarm.alarm
    title = title[:1].upper() + title[1:]
    return title if alarm.source is None else words(language)("alarm.of", title=title, source=alarm.source)


def sentence_of(alarm: Alarm, language: str) -> str:
    """What was seen. The run has said it in English; in other languages, or where it has not, the numbers say it."""
    if language == "en" and alarm.sentence:
        return alarm.sentence
    say = words(language)
    numbers = {"value": alarm.value, "limit": alarm.limit, "start": alarm.start}
    said = [say(f"alarm.{name}", x=f"{x:.4g}".replace("-", "−")) for name, x in numbers.items() if x is not None]
    return f"{alarm.metric or ''} {say('comma').join(said)}".strip()


def advice_of(alarm: Alarm, language: str) -> str:
    """What to do about it."""
    known = ALARMS.get(alarm.alarm)
    if known is not None and (language != "en" or not alarm.advice):
        return known.advice[LANGUAGES.index(language)]
    return alarm.advice or ""
