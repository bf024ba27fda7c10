"""Alarms with patience: each begins when its rule has held for some iterations in a row, and is over when it has not
for some. One event each time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clearppo.alarms.history import Facts, History
from clearppo.alarms.names import NAMES
from clearppo.alarms.rules import RULES, Rule
from clearppo.alarms.sight import Sight, said

CALM = 3
"""An alarm is over when its number was well inside the limit so many times in a row."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An alarm that begins ("on") or is over ("off") after iteration `step`.

    `value` of `metric` has passed `limit`; `start` is what the limit was made from, the run's own start where there is
    one. `source` names the source of scores that it is about, if it is about one. `action` is what the run does about
    it, once, when it begins.
    """

    step: int
    alarm: str
    state: Literal["on", "off"]
    metric: str
    value: float
    limit: float
    start: float | None
    source: str | None
    sentence: str
    advice: str
    action: str

    def row(self) -> dict[str, Any]:
        """The line of alarms.jsonl."""
        return asdict(self)


class Alarms:
    """Looks at a run once an iteration. `actions` says what is done about an alarm, by name: "note" where it says
    nothing; one with "off" is not looked for."""

    def __init__(self, facts: Facts, actions: Mapping[str, str] | None = None) -> None:
        self.facts = facts
        self.actions = dict.fromkeys(NAMES, "note") | dict(actions or {})
        self._places: dict[str, dict[str, Any]] = {}

    @property
    def on(self) -> list[str]:
        """The alarms that are on; one that is on for two sources is there twice."""
        return [place["alarm"] for place in self._places.values() if place["on"]]

    def look(self, step: int, rows: Sequence[Mapping[str, float]]) -> list[Event]:
        """Look at the numbers of all iterations so far, the newest `step`. The alarms that begin or are over with it.

        An iteration without the numbers that a rule needs counts neither for it nor against it.
        """
        history = History(rows, self.facts)
        found: list[Event] = []
        for rule in (rule for rule in RULES.values() if self.actions[rule.name] != "off"):
            for sight in rule.look(history):
                event = self._seen(step, rule, sight)
                found += [] if event is None else [event]
        return found

    def since(self, event: Event) -> int:
        """The iteration in which the condition of an alarm that is on began to hold."""
        return int(self._places[_key(event.alarm, event.source)]["since"])

    def state(self) -> dict[str, Any]:
        """How long each condition has held, or has not: what later events depend on."""
        return {key: dict(place) for key, place in self._places.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._places = {key: dict(place) for key, place in state.items() if self.actions.get(place["alarm"]) != "off"}

    def _seen(self, step: int, rule: Rule, sight: Sight) -> Event | None:
        key = _key(rule.name, sight.source)
        place = self._places.setdefault(key, {"alarm": rule.name, "on": False, "held": 0, "calm": 0, "since": step})
        if sight.holds:
            if not place["held"] and not place["on"]:
                place["since"] = step
            place.update(held=place["held"] + 1, calm=0)
        else:
            place.update(held=0, calm=place["calm"] + 1 if sight.calm else 0)
        if not place["on"] and place["held"] >= (sight.patience or rule.patience):
            place["on"] = True
            return self._event(step, rule, sight, "on")
        if place["on"] and place["calm"] >= CALM:
            del self._places[key]
            return self._event(step, rule, sight, "off")
        if not place["on"] and not place["held"]:
            del self._places[key]
        return None

    def _event(self, step: int, rule: Rule, sight: Sight, state: Literal["on", "off"]) -> Event:
        of = f" of {sight.source}" if sight.source else ""
        over = f"{sight.metric} is {said(sight.value)}{of}, and not beyond its limit of {said(sight.limit)} any more"
        return Event(
            step=step,
            alarm=rule.name,
            state=state,
            metric=sight.metric,
            value=sight.value,
            limit=sight.limit,
            start=sight.start,
            source=sight.source,
            sentence=sight.sentence if state == "on" else over,
            advice=rule.advice if state == "on" else "",
            action=self.actions[rule.name],
        )


def replayed(rows: Iterable[Mapping[str, float]], facts: Facts) -> list[Event]:
    """The events of a run with these metrics, one row an iteration, its evaluation's numbers in the same row."""
    alarms, seen, found = Alarms(facts), list[Mapping[str, float]](), list[Event]()
    for row in rows:
        seen.append(row)
        found += alarms.look(len(seen), seen)
    return found + alarms.look(len(seen), [*seen, {}])  # the last evaluation comes after the last iteration


def _key(alarm: str, source: str | None) -> str:
    return alarm if source is None else f"{alarm}/{source}"
