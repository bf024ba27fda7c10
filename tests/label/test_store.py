"""The file of decisions: whatever happens while a line is written, what was confirmed is there and nothing is half."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearppo.data.labels import VERDICTS, Decision, standing
from clearppo.errors import DataError, RunDirError
from clearppo.ui.label_store import LabelStore
from tests.label.conftest import decision, rows_of

HARD = ["plain", "", "两行\nhier", '\u2028 \u0085 "quoted" \\ {', "emoji 👩‍👩‍👧 \x00\x1b[31m", "عاصمة"]


def reopened(path: Path) -> list[Decision]:
    store = LabelStore.open(path)
    try:
        return store.standing()
    finally:
        store.close()


# --------------------------------------------------------------------------------------------- lines


def test_a_line_is_on_the_disk_when_add_returns(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    whole = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), whole(handle))[1])
    assert store.add(decision(note=HARD[4], prompt=HARD[2], completions=(HARD[3], HARD[5])))
    assert synced
    (row,) = rows_of(store.path)
    assert list(row) == [
        "item", "prompt", "completions", "choice", "verdict", "labeller", "note", "order", "seconds", "time", "nonce",
        "sources",
    ]  # fmt: skip
    assert (row["note"], row["prompt"], row["completions"]) == (HARD[4], HARD[2], [HARD[3], HARD[5]])
    assert store.path.read_bytes().count(b"\n") == 1


def test_what_is_said_twice_is_written_once(store: LabelStore) -> None:
    assert store.add(decision(nonce="first-nonce"))
    assert not store.add(decision(nonce="first-nonce"))  # the same request again
    assert not store.add(decision(nonce="other-nonce"))  # another click that says the same
    assert store.add(decision(choice=1, nonce="third-nonce"))  # a change of mind
    assert not store.add(decision(nonce="first-nonce"))  # a late copy of the first changes nothing
    assert store.add(decision(verdict="undone", nonce="fourth"))
    assert not store.add(decision(verdict="undone", nonce="fifth"))  # there is nothing to take back
    assert [row["verdict"] for row in rows_of(store.path)] == ["better", "better", "undone"]
    assert store.standing() == []


def test_nonces_are_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    store = LabelStore.open(path)
    store.add(decision(nonce="first-nonce"))
    store.add(decision(verdict="undone", nonce="second"))
    store.close()
    store = LabelStore.open(path)
    assert not store.add(decision(nonce="first-nonce"))
    store.close()
    assert len(rows_of(path)) == 2


def test_an_empty_file_that_was_made_here_goes_again(tmp_path: Path) -> None:
    LabelStore.open(tmp_path / "new" / "labels.jsonl").close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "labels.jsonl").touch()
    LabelStore.open(tmp_path / "labels.jsonl").close()
    assert (tmp_path / "labels.jsonl").exists()  # that one was somebody's


said = st.builds(
    decision,
    item=st.sampled_from(["i", "j", "k"]),
    labeller=st.sampled_from(["ann", "bob"]),
    verdict=st.sampled_from(VERDICTS),
    choice=st.sampled_from([0, 1]),
    note=st.sampled_from(HARD),
)


@settings(max_examples=40)
@given(st.lists(said, max_size=12))
def test_reading_again_is_remembering(decisions: list[Decision]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.jsonl"
        store = LabelStore.open(path)
        for one in decisions:
            store.add(one)
        remembered = store.standing()
        store.close()
        assert {(one.item, one.labeller): one for one in remembered} == standing(decisions)
        assert (reopened(path) if path.exists() else []) == remembered


# --------------------------------------------------------------------------------------------- crashes


def test_a_crash_at_every_byte_of_the_last_line(tmp_path: Path) -> None:
    """After each cut: the lines before stand, the rest is aside, and the next decision is a line of its own."""
    whole = [decision("i", note=HARD[2]), decision("j", labeller="بوب", verdict="tie"), decision("k", note=HARD[4])]
    lines = [one.line().encode() for one in whole]
    before, last = b"".join(lines[:2]), lines[2]
    for cut in range(len(last) + 1):
        path = tmp_path / f"cut-{cut}.jsonl"
        path.write_bytes(before + last[:cut])
        store = LabelStore.open(path)
        is_whole = cut >= len(last) - 1  # but for its line end, or with it
        assert store.standing() == whole[: 3 if is_whole else 2]
        torn = path.with_name(f"{path.name}.torn")
        assert torn.exists() == (cut > 0 and not is_whole) == bool(store.notes)
        if torn.exists():
            assert torn.read_bytes() == last[:cut] + b"\n"
            assert "cut short by a crash" in store.notes[0]
        store.add(decision("l"))
        store.close()
        kept = lines[:3] if is_whole else lines[:2]
        assert path.read_bytes() == b"".join(kept) + decision("l").line().encode()


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=40).filter(lambda rest: b"\n" not in rest))
def test_any_bytes_without_a_line_end_are_put_aside(rest: bytes) -> None:
    """Zeros, say, that a file system leaves after the power failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.jsonl"
        path.write_bytes(decision().line().encode() + rest)
        assert reopened(path) == [decision()]
        assert path.read_bytes() == decision().line().encode()
        assert path.with_name("labels.jsonl.torn").read_bytes() == rest + b"\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from clearppo.ui.label_store import LabelStore
from tests.label.conftest import decision

store = LabelStore.open(Path(sys.argv[1]))
real, left = os.write, int(sys.argv[2])

def write(handle, data):
    global left
    part = data[: min(len(data), left, 16)]
    left -= real(handle, part)
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(part)

os.write = write
for number in range(100):
    store.add(decision(f"item-{number}"))
    real(1, f"{number}\\n".encode())
"""


@pytest.mark.parametrize("bytes_written", [1, 250, 999, 3000])
def test_a_kill_loses_nothing_that_was_confirmed(bytes_written: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(bytes_written)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -9, done.stderr
    confirmed = [f"item-{number}" for number in done.stdout.split()]
    found = [one.item for one in reopened(path)]
    assert found[: len(confirmed)] == confirmed
    assert len(found) <= len(confirmed) + 1


@pytest.mark.parametrize("fails_at", ["write", "fsync"])
def test_a_full_disk_leaves_the_file_as_it_was(
    fails_at: str, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(decision("i"))
    before = store.path.read_bytes()
    real = os.write

    def fail(handle: int, data: bytes = b"") -> int:
        if fails_at == "write" and len(data) > 10:
            return real(handle, data[:10])  # a part of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, fails_at, fail if fails_at == "fsync" else _twice(fail))
        with pytest.raises(RunDirError, match=r"no space left to write .*--output"):
            store.add(decision("j", nonce="its-nonce"))
    assert store.path.read_bytes() == before
    assert store.add(decision("j", nonce="its-nonce"))  # nothing was remembered of the failure


def _twice(fail: Any) -> Any:
    calls: list[bytes] = []

    def write(handle: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fail(handle, data)

    return write


def test_a_file_that_was_moved_away_is_said(store: LabelStore) -> None:
    store.add(decision("i"))
    store.path.rename(store.path.with_name("elsewhere.jsonl"))
    with pytest.raises(RunDirError, match="moved or removed"):
        store.add(decision("j"))
    store.path.touch()  # another file of that name
    with pytest.raises(RunDirError, match="moved or removed"):
        store.add(decision("j"))
    assert len(rows_of(store.path.with_name("elsewhere.jsonl"))) == 1


@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_a_file_that_another_program_changes_is_said(change: str, store: LabelStore) -> None:
    """A line would stand after half of another, or after a hole; the labeller would think that it is kept."""
    store.add(decision("i"))
    whole = store.path.read_bytes()
    changed = {"longer": whole + b'{"half', "shorter": whole[:-9], "empty": b""}[change]
    store.path.write_bytes(changed)  # in place, by another program
    for _ in range(2):
        with pytest.raises(
            RunDirError, match=rf"changed by another program .* has {len(changed)} bytes, and {len(whole)}"
        ):
            store.add(decision("j", nonce="its-nonce"))
    assert store.path.read_bytes() == changed
    assert not store.seen("its-nonce")
    store.path.write_bytes(whole)  # put back
    assert store.add(decision("j", nonce="its-nonce"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{}", "no `item`"),
        ("not json", "not JSON"),
        ("[1]", "a list, not an object"),
        (json.dumps({**json.loads(decision().line()), "choice": 2}), "`choice` is 2, and there are 2 answers"),
        (json.dumps({**json.loads(decision().line()), "choice": None}), "`choice` is nothing"),
        (json.dumps({**json.loads(decision().line()), "verdict": "good"}), "must be one of better, tie, all bad"),
        (json.dumps({**json.loads(decision().line()), "verdict": "tie"}), "Write null"),
        (json.dumps({**json.loads(decision().line()), "order": [0, 0]}), "each of 0 to 1 once"),
        (json.dumps({**json.loads(decision().line()), "completions": "ab"}), "a list of two answers"),
        (json.dumps({**json.loads(decision().line()), "labeller": " "}), "`labeller` is blank"),
        (json.dumps({**json.loads(decision().line()), "seconds": -1}), "`seconds` is -1"),
        (json.dumps({**json.loads(decision().line()), "seconds": int("9" * 401)}), "from 0 to 1000000000. Mend"),
        (json.dumps({**json.loads(decision().line()), "seconds": float("nan")}), "`seconds` is nan"),
    ],
)
def test_a_line_that_is_no_decision_is_an_error_and_stays(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    content = decision().line() + line + "\n"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        LabelStore.open(path)
    assert f"{path} line 2: " in str(caught.value)
    assert words in str(caught.value)
    assert path.read_text() == content
    with pytest.raises(DataError):  # it was let go of
        LabelStore.open(path)


# --------------------------------------------------------------------------------------------- several at once


def test_threads_write_whole_lines(store: LabelStore) -> None:
    def work(labeller: str) -> None:
        for number in range(25):
            store.add(decision(f"item-{number}", labeller, note="x" * number, nonce=f"{labeller}-{number:08}"))
            store.add(decision(f"item-{number}", labeller, note="x" * number, nonce=f"{labeller}-{number:08}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "eve", "joe")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(store.path)
    assert len(rows) == 100
    assert {(row["labeller"], row["item"]) for row in rows} == {(d.labeller, d.item) for d in store.standing()}


def test_another_process_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    store = LabelStore.open(path)
    code = (
        "import sys; from clearppo.ui.label_store import LabelStore; from clearppo.errors import RunDirError\n"
        "try: LabelStore.open(sys.argv[1])\n"
        "except RunDirError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"another clearppo label has {path} open" in done.stdout
    store.close()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.parametrize(("name", "words"), [("labels.json", "must end in .jsonl"), ("folder.jsonl", "is a directory")])
def test_places_that_cannot_be_written(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(RunDirError, match=words):
        LabelStore.open(tmp_path / name)
