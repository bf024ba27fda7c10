"""Who is shown what: items in an order, answers blind and shuffled, what a labeller decides, takes back or skips.

The page and the terminal both sit at a desk; it knows neither.
"""

import hashlib
import math
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median

from clearppo.data.candidates import Candidate
from clearppo.data.labels import BETTER, UNDONE, VERDICTS, Decision
from clearppo.data.templates import Text
from clearppo.errors import DataError
from clearppo.ui.label_agreement import Agreement, measure
from clearppo.ui.label_results import Duel, duels
from clearppo.ui.label_store import LabelStore

LONGEST_NAME = 60
LONGEST_NOTE = 4000
DAY = 24 * 3600.0
AWAY = 600.0
"""Seconds after which an item that somebody was shown may be shown to others, too."""
MANY = 5000
"""Decisions from which on their agreement is not counted anew for every request."""
REST = 20
"""Then it is left as it is for so many times as long as the counting took."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An item as a labeller sees it: `order` are the numbers, in the file, of the `answers` on the table; `cut` says of
    each whether it ended at the length limit."""

    item: str
    prompt: Text
    answers: tuple[str, ...]
    order: tuple[int, ...]
    cut: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Of `items`, `mine` are decided by this labeller and `labelled` by anybody; `skipped` wait for a second look.
    `shared` items go to everybody. `seconds` is the median time of the labeller's decisions (None: none yet)."""

    items: int
    mine: int
    labelled: int
    skipped: int
    shared: int
    seconds: float | None
    can_undo: bool


@dataclass
class _Seat:
    """What is remembered of a labeller as long as the program runs."""

    item: str | None = None
    since: float = 0.0
    skipped: list[str] = field(default_factory=list)


class Desk:
    """Items and their decisions. Any number of labellers, any number of threads.

    The first `overlap` of the items are shown to every labeller, before the others, so that there is something to
    compare; the rest goes to whoever asks, first what nobody has decided.
    """

    def __init__(self, items: Sequence[Candidate], store: LabelStore, *, overlap: float) -> None:
        # Shuffled, the same for all: neighbours in a file are often alike, and its order may say something.
        self._items = {item.item: item for item in sorted(items, key=lambda item: _drawn("items", item.item))}
        self._shared = frozenset(list(self._items)[: math.ceil(overlap * len(items))])
        self._store = store
        self._seats: dict[str, _Seat] = {}
        self._mutex = threading.RLock()
        self._recent: Agreement | None = None
        self._recent_until = 0.0

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self._items)

    @property
    def n_foreign(self) -> int:
        """Decisions in the file that are on no item of these."""
        return sum(decision.item not in self._items for decision in self._store.standing())

    def show(self, labeller: str) -> Shown | None:
        """What is before this labeller, or the next item; None if all are decided."""
        with self._mutex:
            seat = self._seats.setdefault(labeller, _Seat())
            if seat.item is None:
                seat.item = self._next(labeller, seat)
            seat.since = time.monotonic()
            return None if seat.item is None else self._shown(labeller, seat.item)

    def decide(
        self,
        labeller: str,
        item: str,
        verdict: str,
        place: int | None,
        *,
        note: str = "",
        seconds: float = 0.0,
        nonce: str = "",
    ) -> bool:
        """Write a decision; `place` is that of the chosen answer on the table, from 0. True if it was not there yet.

        Raises DataError for an item or a place that is none, and RunDirError if the disk refuses.
        """
        with self._mutex:
            shown = self._shown(labeller, self._known(item))
            if self._store.seen(nonce):  # a request that was sent twice
                return False
            if verdict not in VERDICTS or verdict == UNDONE:
                raise DataError(f"verdict = {verdict[:40]!r} is none of {', '.join(VERDICTS[:-1])}.")
            if verdict == BETTER and (place is None or not 0 <= place < len(shown.answers)):
                raise DataError(f"place = {place}: there are {len(shown.answers)} answers, counted from 0.")
            if verdict != BETTER and place is not None:
                raise DataError(f"place = {place} says which answer is better, and the verdict is {verdict}.")
            if len(note) > LONGEST_NOTE:
                raise DataError(
                    f"the note has {len(note)} characters, and at most {LONGEST_NOTE} are kept. Shorten it."
                )
            choice = None if place is None else shown.order[place]
            said = self._decision(shown, labeller, verdict, choice, note=_whole(note).strip(), nonce=nonce)
            written = self._store.add(_timed(said, seconds))
            seat = self._seats.setdefault(labeller, _Seat())
            if seat.item == item:
                seat.item = None
            if item in seat.skipped:
                seat.skipped.remove(item)
            return written

    def undo(self, labeller: str, *, nonce: str = "") -> Decision | None:
        """Take this labeller's last decision back, and show its item again; None if there is none to take back."""
        with self._mutex:
            mine = self._mine(labeller)
            if not mine or self._store.seen(nonce):
                return None
            last = mine[-1]
            shown = self._shown(labeller, last.item)
            self._store.add(self._decision(shown, labeller, UNDONE, None, note="", nonce=nonce))
            self._seats.setdefault(labeller, _Seat()).item = last.item
            return last

    def skip(self, labeller: str, item: str) -> None:
        """Show this item again when there is nothing else; nothing is written. Raises DataError for an unknown one."""
        with self._mutex:
            seat = self._seats.setdefault(labeller, _Seat())
            if self._known(item) in seat.skipped:
                seat.skipped.remove(item)
            seat.skipped.append(item)
            if seat.item == item:
                seat.item = None

    def progress(self, labeller: str) -> Progress:
        """How far this labeller and all together are."""
        with self._mutex:
            mine = self._mine(labeller)
            decided = {decision.item for decision in self._store.standing()} & set(self._items)
            timed = [decision.seconds for decision in mine if decision.seconds > 0]
            return Progress(
                items=len(self._items),
                mine=len(mine),
                labelled=len(decided),
                skipped=len(self._seats.get(labeller, _Seat()).skipped),
                shared=len(self._shared),
                seconds=median(timed) if timed else None,
                can_undo=bool(mine),
            )

    def agreement(self) -> Agreement:
        """Of all labellers of these items."""
        return measure(decision for decision in self._store.standing() if decision.item in self._items)

    def recent_agreement(self) -> Agreement:
        """The same, for who asks all the time: of very many decisions as it was a few seconds ago."""
        with self._mutex:
            start = time.monotonic()
            if self._recent is None or start >= self._recent_until:
                self._recent = self.agreement()
                end = time.monotonic()
                many = sum(person.n_decisions for person in self._recent.people) >= MANY
                self._recent_until = end + REST * (end - start) if many else start
            return self._recent

    def results(self) -> tuple[Duel, ...]:
        """Who is preferred, of those who wrote these items' answers."""
        known = [decision for decision in self._store.standing() if decision.item in self._items]
        return duels(replace(decision, sources=self._items[decision.item].sources) for decision in known)

    def _mine(self, labeller: str) -> list[Decision]:
        return [said for said in self._store.standing() if said.labeller == labeller and said.item in self._items]

    def _known(self, item: str) -> str:
        if item not in self._items:
            raise DataError(
                f"there is no item {item[:40]!r}. Load the page again: the server may have been started anew."
            )
        return item

    def _next(self, labeller: str, seat: _Seat) -> str | None:
        open_items = [item for item in self._items if self._store.decided(item, labeller) is None]
        skipped, is_open = set(seat.skipped), set(open_items)
        fresh = [item for item in open_items if item not in skipped]
        if not fresh:
            return next((item for item in seat.skipped if item in is_open), None)
        shared = next((item for item in fresh if item in self._shared), None)
        if shared is not None:
            return shared
        counts = Counter(decision.item for decision in self._store.standing())
        now = time.monotonic()
        counts.update(
            other.item
            for name, other in self._seats.items()
            if name != labeller and other.item is not None and now - other.since < AWAY
        )
        return min(fresh, key=lambda item: counts[item])  # of equals the first

    def _shown(self, labeller: str, item: str) -> Shown:
        candidate = self._items[item]
        numbers = range(len(candidate.completions))
        order = tuple(sorted(numbers, key=lambda number: _drawn("answers", labeller, item, number)))
        return Shown(
            item=item,
            prompt=candidate.prompt,
            answers=tuple(candidate.completions[number] for number in order),
            order=order,
            cut=tuple(candidate.cut[number] for number in order) if candidate.cut else (False,) * len(order),
        )

    def _decision(
        self, shown: Shown, labeller: str, verdict: str, choice: int | None, *, note: str, nonce: str
    ) -> Decision:
        candidate = self._items[shown.item]
        return Decision(
            item=shown.item,
            prompt=candidate.prompt,
            completions=candidate.completions,
            choice=choice,
            verdict=verdict,
            labeller=labeller,
            note=note,
            order=shown.order,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            nonce=nonce,
            sources=candidate.sources,
        )


def labeller_name(text: str) -> str:
    """A name as it is written down: no blanks around it, composed characters. Raises DataError for one that is none."""
    name = unicodedata.normalize("NFC", " ".join(_whole(text).split()))
    if not name or not name.isprintable():
        raise DataError("the labeller's name is empty or holds characters that cannot be shown. Use --labeller NAME.")
    if len(name) > LONGEST_NAME:
        raise DataError(f"the labeller's name has {len(name)} characters, and at most {LONGEST_NAME} are kept.")
    return name


def _timed(decision: Decision, seconds: float) -> Decision:
    known = seconds if math.isfinite(seconds) else 0.0
    return replace(decision, seconds=round(min(max(known, 0.0), DAY), 1))


def _drawn(*what: object) -> bytes:
    """A place in an order that is chance, and the same again: a page that is loaded anew shows the same."""
    return hashlib.sha256(repr(what).encode()).digest()


def _whole(text: str) -> str:
    """Without halves of characters, which no file can hold."""
    return text.encode(errors="replace").decode()
