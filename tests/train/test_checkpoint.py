"""Checkpoints are whole or not there: damage is seen, named and passed over, and no kill or full disk costs one."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.errors import CheckpointError, RunDirError
from clearppo.rundir import RunDir
from clearppo.train import checkpoint as module
from clearppo.train import manifest
from clearppo.train.checkpoint import Best, Checkpoints
from clearppo.train.manifest import damage

STATE = {"weights": torch.arange(6.0), "kl": 0.05, "seen": [1, 2]}


def save_model(directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(range(64)))
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter.bin").write_bytes(b"adapter")


class Store:
    """A run's checkpoints, and what was said of them."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path = path
        self.notes: list[str] = []
        self.checkpoints = Checkpoints(RunDir.create(path, resume=True), limit=limit, note=self.notes.append)

    def write(self, *steps: int) -> None:
        for step in steps:
            self.checkpoints.write(step, {**STATE, "step": step}, save_model)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_is_written_is_read(store: Store) -> None:
    assert store.checkpoints.newest() is None
    store.checkpoints.run_dir.write("config.yaml", "run: {}\n")
    written = store.checkpoints.write(7, STATE, save_model)
    found = store.checkpoints.newest()
    assert found is not None
    assert (found.path, found.step) == (store.path / "checkpoint-7", 7) == (written.path, written.step)
    assert found.state["kl"] == 0.05
    assert torch.equal(found.state["weights"], STATE["weights"])
    assert found.state is found.state  # read once
    assert (found.path / "config.yaml").read_text() == "run: {}\n"
    assert {path.name for path in found.path.iterdir()} == {
        "adapter", "config.json", "config.yaml", "manifest.json", "model.safetensors", "training_state",
    }  # fmt: skip
    assert store.notes == []


def test_the_newest_is_the_one_with_the_largest_number(store: Store) -> None:
    store.write(9, 10, 100)
    (store.path / "checkpoint-x").mkdir()
    (store.path / "checkpoint-0200").mkdir()
    (store.path / "checkpoint-300").write_text("a file")
    found = store.checkpoints.newest()
    assert found is not None
    assert found.step == 100
    assert store.notes == []


# ------------------------------------------------------------------------------------------------ damage


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def cut_to_nothing(file: Path) -> None:
    os.truncate(file, 0)


def lengthen(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\0")


def flip(at: Callable[[int], int], bit: int) -> Callable[[Path], None]:
    def flipped(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[at(len(data))] ^= 1 << bit
        file.write_bytes(data)

    flipped.__name__ = f"flip_{at(1000)}_{bit}"
    return flipped


def become_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


FILES = (
    "config.json", "model.safetensors", "adapter/adapter.bin", "training_state/state.json",
    "training_state/tensors.safetensors", "manifest.json",
)  # fmt: skip
DAMAGES = (
    remove, cut, cut_to_nothing, lengthen, become_a_directory, flip(lambda n: 0, 0), flip(lambda n: n // 2, 5),
    flip(lambda n: n - 1, 7),
)  # fmt: skip


def test_the_list_above_names_every_file(store: Store) -> None:
    store.write(1)
    there = store.path / "checkpoint-1"
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", DAMAGES, ids=lambda harm: harm.__name__)
def test_a_damaged_one_is_named_and_the_one_before_is_used(
    name: str, harm: Callable[[Path], None], store: Store
) -> None:
    store.write(3, 6)
    harm(store.path / "checkpoint-6" / name)
    found = store.checkpoints.newest()
    assert found is not None
    assert found.step == 3
    (note,) = store.notes
    assert note.startswith("checkpoint-6 is damaged and passed over: ")
    assert Path(name).name in note
    with pytest.raises(CheckpointError, match=r"checkpoint-6 is (damaged|no checkpoint): ") as error:
        store.checkpoints.open(store.path / "checkpoint-6")
    assert Path(name).name in str(error.value)


def test_every_single_bit_of_a_manifest_counts(store: Store) -> None:
    store.write(1)
    manifest = store.path / "checkpoint-1" / "manifest.json"
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            manifest.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            assert damage(manifest.parent, 1) is not None, (at, bit, manifest.read_bytes()[at : at + 1])
    manifest.write_bytes(whole)
    assert damage(manifest.parent, 1) is None


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{}", '{"format": 1}', "[" * 100_000, '{"format": 1, "step": 1, "files": 3}', "\0"]
)
def test_a_manifest_that_is_something_else(text: str, store: Store) -> None:
    store.write(1)
    (store.path / "checkpoint-1" / "manifest.json").write_text(text)
    assert "manifest.json" in str(damage(store.path / "checkpoint-1"))


def test_what_is_wrong_is_said_with_numbers(store: Store) -> None:
    store.write(1)
    path = store.path / "checkpoint-1"
    cut(path / "model.safetensors")
    assert damage(path) == "model.safetensors has 32 bytes, and 64 were written"
    path.joinpath("model.safetensors").write_bytes(bytes(64))
    assert damage(path) == "model.safetensors is not what was written (its checksum differs)"
    remove(path / "model.safetensors")
    assert damage(path) == "model.safetensors is missing"
    remove(path / "manifest.json")
    assert damage(path) == "manifest.json is missing"


def test_one_under_another_name_is_not_taken_for_that_step(store: Store) -> None:
    store.write(1)
    (store.path / "checkpoint-1").rename(store.path / "checkpoint-9")
    assert damage(store.path / "checkpoint-9", 9) == "manifest.json is that of step 1"


def test_one_of_another_format_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(1)
    monkeypatch.setattr(manifest, "FORMAT", 3)
    wrong = damage(store.path / "checkpoint-1")
    assert wrong == "it has format 1, and this version of ClearPPO reads the formats 3 and 2"


def test_a_manifest_names_nothing_outside(store: Store) -> None:
    store.write(1)
    path = store.path / "checkpoint-1"
    for name in ("../../secret", "/etc/hostname"):
        (path / "manifest.json").write_bytes(manifest._rendered(1, 1, {name: {"size": 0, "sha256": ""}}))
        assert "manifest.json is not what was written" in str(damage(path))


def test_files_that_somebody_adds_do_not_matter(store: Store) -> None:
    store.write(1)
    (store.path / "checkpoint-1" / "notes.txt").write_text("mine")
    assert damage(store.path / "checkpoint-1") is None


def test_if_none_is_whole_nothing_is_started_afresh(store: Store) -> None:
    store.write(1, 2)
    for step in (1, 2):
        cut(store.path / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: checkpoint-2 \(model.* checkpoint-1 \("):
        store.checkpoints.newest()
    assert store.names() == ["checkpoint-1", "checkpoint-2"]


def test_a_given_one_is_looked_for_with_care(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    store.write(1, 2)
    assert store.checkpoints.open(store.path / "checkpoint-1").step == 1
    with pytest.raises(CheckpointError, match=r"checkpoint-3 is no directory\. Give one that is called checkpoint-N"):
        store.checkpoints.open(store.path / "checkpoint-3")
    with pytest.raises(CheckpointError, match=r"has no manifest\.json\. Give one of checkpoint-1, checkpoint-2 below"):
        store.checkpoints.open(store.path)
    other = Store(tmp_path_factory.mktemp("other"))
    assert (
        other.checkpoints.open(store.path / "checkpoint-1").step == 1
    )  # to go on from there in a directory of its own


# ------------------------------------------------------------------------------------------------ how many are kept


def test_as_many_as_asked_for_are_kept(tmp_path: Path) -> None:
    for limit, kept in ((None, [1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])):
        store = Store(tmp_path / str(limit), limit)
        store.write(1, 2, 3, 4)
        assert store.names() == [f"checkpoint-{step}" for step in kept]


def test_the_best_one_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, 2)
    store.checkpoints.mark_best(store.checkpoints.write(1, STATE, save_model), "eval/score", 0.5)
    store.write(2, 3, 4)
    assert store.names() == ["best.json", "checkpoint-1", "checkpoint-4"]
    assert store.checkpoints.best == Best(step=1, metric="eval/score", value=0.5)
    store.checkpoints.mark_best(store.checkpoints.write(5, STATE, save_model), "eval/score", 0.7)
    store.write(6)
    assert store.names() == ["best.json", "checkpoint-5", "checkpoint-6"]
    only = Store(tmp_path, 1)
    only.write(7)
    assert only.names() == ["best.json", "checkpoint-5", "checkpoint-7"]  # the newest stays too


def test_marks_of_the_best_outlive_a_process_and_bad_ones_count_as_none(store: Store) -> None:
    assert store.checkpoints.best is None
    checkpoint = store.checkpoints.write(1, STATE, save_model)
    store.checkpoints.mark_best(checkpoint, "eval/score", -0.1)
    store.checkpoints.mark_best(checkpoint, "eval/score", -0.2)  # said again
    again = Store(store.path)
    assert again.checkpoints.best == Best(step=1, metric="eval/score", value=-0.2)
    for text in ("", "[]", '{"best": [3]}', '{"best": [{"step": 1}]}', "\0"):
        (store.path / "best.json").write_text(text)
        assert again.checkpoints.best is None
        assert again.notes.pop().startswith("best.json cannot be read (")


def test_going_back_forgets_what_came_after(store: Store) -> None:
    for step in (1, 2, 3, 4):
        checkpoint = store.checkpoints.write(step, STATE, save_model)
        if step != 2:
            store.checkpoints.mark_best(checkpoint, "eval/score", float(step))
    store.checkpoints.forget_after(2)
    assert store.names() == ["best.json", "checkpoint-1", "checkpoint-2"]
    assert store.checkpoints.best == Best(step=1, metric="eval/score", value=1.0)


def test_one_of_the_same_step_is_replaced(store: Store) -> None:
    store.write(1)
    store.checkpoints.write(1, {"other": 2}, save_model)
    assert store.names() == ["checkpoint-1"]
    found = store.checkpoints.newest()
    assert found is not None
    assert found.state == {"other": 2}


# ------------------------------------------------------------------------------------------------ a disk that refuses


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["save_model", "write_state", "seal"])
def test_a_full_disk_leaves_what_was_there(place: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(1, 2)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    if place != "save_model":
        monkeypatch.setattr(module, place, full)
    for step in (2, 3):  # one that replaces, and a new one
        with pytest.raises(RunDirError, match=f"no space left to write .*checkpoint-{step}"):
            store.checkpoints.write(step, STATE, full if place == "save_model" else save_model)
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
    found = store.checkpoints.newest()
    assert found is not None
    assert found.step == 2


def test_a_limit_on_the_size_of_files_is_a_sentence(store: Store) -> None:
    """As a quota would: the kernel itself refuses, in the middle of the largest file."""
    store.write(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        with pytest.raises(RunDirError, match=r"write .*checkpoint-2"):
            store.checkpoints.write(2, {"large": torch.zeros(1_000_000)}, save_model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.names() == ["checkpoint-1"]


def test_whatever_else_goes_wrong_passes_and_leaves_nothing(store: Store) -> None:
    store.write(1)

    def broken(directory: Path) -> None:
        save_model(directory)
        raise ZeroDivisionError

    for step in (1, 2):
        with pytest.raises(ZeroDivisionError):
            store.checkpoints.write(step, STATE, broken)
    with pytest.raises(TypeError, match="a: a tuple"):
        store.checkpoints.write(2, {"a": (1,)}, save_model)
    assert store.names() == ["checkpoint-1"]
    assert damage(store.path / "checkpoint-1", 1) is None


# ------------------------------------------------------------------------------------------------ a kill at any moment


class Killed(BaseException):
    """The process is gone: whatever would tidy up is not run either."""


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Have the n-th step that changes the disk, and all after it, not happen."""
    left = [-1]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **options)

        return call

    for name in ("rename", "mkdir", "write_bytes", "write_text", "replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    synced = counted(manifest.sync)
    for place in (module, manifest):
        monkeypatch.setattr(place, "sync", synced)
    yield lambda n: left.__setitem__(0, n)
    left[0] = -1


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("limit", [1, 2])
def test_a_kill_at_any_moment_of_writing_costs_no_checkpoint(
    step: int, limit: int, tmp_path: Path, dies: Callable[[int], None]
) -> None:
    """Of writing checkpoint-3 after checkpoint-2, and of replacing checkpoint-2 by another."""
    survived = 0
    for n in range(200):
        store = Store(tmp_path / str(n), limit)
        store.write(*((1, 2) if limit == 2 else (2,)))
        dies(n)
        try:
            store.checkpoints.write(step, {"new": True}, save_model)
            survived += 1
        except Killed:
            pass
        finally:
            dies(-1)
        found = store.checkpoints.newest()
        assert found is not None, n
        assert found.step == step or (found.step == 2 and "weights" in found.state), n
        assert not any(name.startswith(".") for name in store.names()), n
        assert store.notes == [], n  # nothing was ever damaged
        if survived > 1:
            assert found.state == {"new": True}
            return
    pytest.fail("the writer never got through")


def test_a_whole_one_that_lacks_its_name_only_is_given_it(store: Store) -> None:
    store.write(1, 2)
    (store.path / "checkpoint-2").rename(store.path / ".saving-checkpoint-2")
    (store.path / ".saving-abcd").mkdir()
    found = store.checkpoints.newest()
    assert found is not None
    assert found.step == 2
    assert store.names() == ["checkpoint-1", "checkpoint-2"]


def test_what_a_killed_writer_left_is_removed(store: Store) -> None:
    store.write(1, 2)
    shutil.copytree(store.path / "checkpoint-2", store.path / ".saving-checkpoint-3")
    (store.path / ".saving-checkpoint-3" / "manifest.json").unlink()
    (store.path / ".saving-gone-x" / "checkpoint-1").mkdir(parents=True)
    (store.path / ".best.json.part").write_text("{")
    found = store.checkpoints.newest()
    assert found is not None
    assert found.step == 2
    assert store.names() == ["checkpoint-1", "checkpoint-2"]


WRITER = """
import sys
from pathlib import Path
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import Checkpoints
store = Checkpoints(RunDir.create(sys.argv[1], resume=True), limit=2, note=print)
def save_model(directory):
    (directory / "model.safetensors").write_bytes(bytes(2_000_000))
    print("writing", flush=True)
for step in range(1, 1_000_000):
    store.write(step, {"step": step, "noise": list(range(1000))}, save_model)
"""


def test_a_writer_that_is_killed_for_real_leaves_whole_ones(tmp_path: Path) -> None:
    """SIGKILL in the middle of the fourth, or of the seventh, checkpoint of a process of its own."""
    for n in (4, 7):
        path = tmp_path / str(n)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert writer.stdout is not None
        for _ in range(n):
            writer.stdout.readline()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        store = Store(path)
        found = store.checkpoints.newest()
        assert found is not None
        assert found.step >= n - 1
        assert found.state["step"] == found.step
        assert store.notes == []
        assert not any(name.startswith(".") for name in store.names())


def test_the_manifest_is_json_that_people_can_read(store: Store) -> None:
    store.write(1)
    manifest = json.loads((store.path / "checkpoint-1" / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"]) == (1, 1)
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
    assert manifest["files"]["config.json"]["size"] == 2
