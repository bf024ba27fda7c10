"""Who is shown what: blind, shuffled, the same again, some items to everybody, and no decision lost or doubled."""

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from clearppo.data.labels import Decision
from clearppo.errors import DataError
from clearppo.ui import label_desk
from clearppo.ui.label_agreement import Agreement
from clearppo.ui.label_desk import Desk, labeller_name
from clearppo.ui.label_store import LabelStore
from tests.label.conftest import candidates, decision, rows_of


def desk_of(store: LabelStore, count: int = 10, n_answers: int = 2, overlap: float = 0.0) -> Desk:
    return Desk(candidates(count, n_answers), store, overlap=overlap)


def label(desk: Desk, labeller: str, verdict: str = "tie", place: int | None = None, **more: str) -> str | None:
    """Decide what is shown; the item."""
    shown = desk.show(labeller)
    if shown is None:
        return None
    desk.decide(labeller, shown.item, verdict, place, **more)
    return shown.item


def test_choices_are_written_in_the_order_of_the_file(store: LabelStore) -> None:
    desk = desk_of(store, 30, 4)
    chosen = []
    while (shown := desk.show("ann")) is not None:
        assert sorted(shown.answers) == sorted(shown.answers[shown.order.index(n)] for n in range(4))
        desk.decide("ann", shown.item, "better", 2, seconds=1.25)
        chosen.append(shown.answers[2])
    rows = rows_of(store.path)
    assert [row["completions"][row["choice"]] for row in rows] == chosen
    assert all(row["completions"][row["order"][2]] == answer for row, answer in zip(rows, chosen, strict=True))
    assert {row["seconds"] for row in rows} == {1.2}
    assert Counter(row["choice"] for row in rows).keys() == {0, 1, 2, 3}  # the third place was each of the four


def test_orders_are_random_and_stay(store: LabelStore) -> None:
    desk = desk_of(store, 400)
    shown = {}
    while (it := desk.show("ann")) is not None:
        shown[it.item] = it.order
        desk.skip("ann", it.item)
        if len(shown) == 400:
            break
    first = sum(order == (0, 1) for order in shown.values())
    assert 160 < first < 240  # 4 standard deviations of a fair coin
    again = desk_of(store, 400).show("ann")
    assert again is not None
    assert again.order == shown[again.item]
    others = [desk._shown("bob", item).order for item in shown]
    assert 140 < sum(order == mine for order, mine in zip(others, shown.values(), strict=True)) < 260


def test_items_come_in_an_order_that_is_not_the_files(store: LabelStore) -> None:
    desk = desk_of(store, 50)
    items = [label(desk, "ann") for _ in range(50)]
    assert label(desk, "ann") is None
    assert sorted(filter(None, items)) == sorted(item.item for item in candidates(50))
    assert items != [item.item for item in candidates(50)]


def test_shared_items_come_first_and_to_everybody(store: LabelStore) -> None:
    desk = desk_of(store, 20, overlap=0.2)
    assert desk.progress("ann").shared == 4
    ann = [label(desk, "ann") for _ in range(12)]
    bob = [label(desk, "bob") for _ in range(12)]
    assert ann[:4] == bob[:4]
    assert set(ann[4:]).isdisjoint(bob[4:])  # the rest is divided
    assert desk.progress("bob").labelled == 20
    assert len({label(desk, "bob") for _ in range(8)} & set(ann)) == 8  # then second opinions
    assert desk.show("bob") is None
    assert desk.show("ann") is not None


def test_two_at_a_time_are_shown_different_items(store: LabelStore) -> None:
    desk = desk_of(store, 3)
    ann, bob = desk.show("ann"), desk.show("bob")
    assert ann is not None
    assert bob is not None
    assert ann.item != bob.item
    assert desk.show("ann") == ann  # a page that is loaded again


def test_the_whole_overlap(store: LabelStore) -> None:
    desk = desk_of(store, 5, overlap=1.0)
    assert {label(desk, "ann") for _ in range(5)} == {label(desk, "bob") for _ in range(5)}


def test_undo_takes_back_the_last_and_then_the_one_before(store: LabelStore) -> None:
    desk = desk_of(store)
    first = label(desk, "ann", note="first note")
    second = label(desk, "ann")
    label(desk, "bob")
    taken = desk.undo("ann", nonce="undo-one")
    assert taken is not None
    assert taken.item == second
    assert desk.undo("ann", nonce="undo-one") is None  # the same request again takes back nothing more
    shown = desk.show("ann")
    assert shown is not None
    assert shown.item == second
    assert desk.progress("ann").mine == 1
    taken = desk.undo("ann")
    assert taken is not None
    assert (taken.item, taken.note) == (first, "first note")
    assert desk.undo("ann") is None
    assert [row["verdict"] for row in rows_of(store.path)] == ["tie", "tie", "tie", "undone", "undone"]
    assert desk.progress("bob").mine == 1


def test_a_late_copy_of_a_decision_does_not_undo_an_undo(store: LabelStore) -> None:
    desk = desk_of(store)
    item = label(desk, "ann", nonce="a-nonce")
    assert item is not None
    desk.undo("ann", nonce="b-nonce")
    assert not desk.decide("ann", item, "tie", None, nonce="a-nonce")
    shown = desk.show("ann")
    assert shown is not None
    assert shown.item == item  # still to be decided
    assert desk.progress("ann").mine == 0


def test_skipped_items_come_at_the_end(store: LabelStore) -> None:
    desk = desk_of(store, 4)
    skipped = []
    for _ in range(2):
        shown = desk.show("ann")
        assert shown is not None
        desk.skip("ann", shown.item)
        skipped.append(shown.item)
    rest = [label(desk, "ann") for _ in range(2)]
    assert desk.progress("ann").skipped == 2
    assert not set(rest) & set(skipped)
    assert [label(desk, "ann") for _ in range(3)] == [*skipped, None]
    assert desk.progress("ann").skipped == 0
    assert len(rows_of(store.path)) == 4  # nothing is written of skipping


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    done = set()
    for _ in range(4):
        store = LabelStore.open(path)
        desk = desk_of(store, 7)
        done |= {label(desk, "ann"), label(desk, "ann")}
        store.close()
    assert done - {None} == {item.item for item in candidates(7)}
    assert len(rows_of(path)) == 7


def test_decisions_on_other_items_are_left_alone(store: LabelStore) -> None:
    store.add(decision("of another file", "ann"))
    desk = desk_of(store, 3)
    assert desk.n_foreign == 1
    assert (desk.progress("ann").mine, desk.progress("ann").labelled) == (0, 0)
    assert desk.undo("ann") is None
    assert desk.agreement().people == ()


@pytest.mark.parametrize(
    ("verdict", "place", "note", "words"),
    [
        ("better", None, "", "there are 2 answers"),
        ("better", 2, "", "there are 2 answers"),
        ("better", -1, "", "there are 2 answers"),
        ("tie", 0, "", "says which answer is better"),
        ("undone", None, "", "is none of better, tie, all bad"),
        ("good", None, "", "is none of better, tie, all bad"),
        ("tie", None, "x" * 4001, "at most 4000"),
    ],
)
def test_decisions_that_are_none(verdict: str, place: int | None, note: str, words: str, store: LabelStore) -> None:
    desk = desk_of(store)
    shown = desk.show("ann")
    assert shown is not None
    with pytest.raises(DataError, match=words):
        desk.decide("ann", shown.item, verdict, place, note=note)
    with pytest.raises(DataError, match="there is no item"):
        desk.decide("ann", "nothing", "tie", None)
    assert rows_of(store.path) == []


@pytest.mark.parametrize(
    ("given", "name"), [("  Ann ", "Ann"), ("Ann\t B\n", "Ann B"), ("e\u0301", "é"), ("李 明", "李 明")]
)
def test_names(given: str, name: str) -> None:
    assert labeller_name(given) == name


@pytest.mark.parametrize("given", ["", "  ", "a\x1b[31m", "x" * 61, "\u202egnp"])
def test_names_that_are_none(given: str) -> None:
    with pytest.raises(DataError, match="labeller"):
        labeller_name(given)


def test_many_labellers_in_many_threads(store: LabelStore) -> None:
    """Everybody labels everything while repeating every request: one line a decision."""
    desk = desk_of(store, 12, overlap=0.25)

    def work(labeller: str) -> None:
        number = 0
        while (shown := desk.show(labeller)) is not None:
            nonce = f"{labeller}-{number:06}"
            number += 1
            for _ in range(2):
                desk.decide(labeller, shown.item, "better", number % 2, nonce=nonce)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows_of(store.path)) == 36
    assert len(store.standing()) == 36


def test_agreement_of_very_many_is_not_counted_for_every_request(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, now = desk_of(store, 12, overlap=1.0), [0.0]
    measure = label_desk.measure

    def slow(decisions: Iterable[Decision]) -> Agreement:
        now[0] += 1.0
        return measure(decisions)

    monkeypatch.setattr(label_desk, "measure", slow)
    monkeypatch.setattr(label_desk, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for labeller in ("ann", "bob"):
        for _ in range(4):
            label(desk, labeller)
            assert desk.recent_agreement() == desk.agreement()  # of few decisions it is always of now
    monkeypatch.setattr(label_desk, "MANY", 8)
    before = desk.recent_agreement()
    counted_at = now[0]
    label(desk, "ann")
    now[0] += label_desk.REST - 0.1
    assert desk.recent_agreement() == before
    now[0] = counted_at + label_desk.REST
    assert desk.recent_agreement() == desk.agreement() != before
