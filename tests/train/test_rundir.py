"""What a run leaves on disk, and what it refuses to touch."""

import errno
import json
import os
from pathlib import Path

import pytest

from clearppo.errors import RunDirError
from clearppo.rundir import RunDir


def test_a_new_directory_is_made_and_rows_are_lines(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a" / "b")
    run.append("metrics.jsonl", [{"step": 1}])
    run.append("metrics.jsonl", [{"step": 2, "text": "é"}])
    rows = [json.loads(line) for line in (tmp_path / "a" / "b" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1}, {"step": 2, "text": "é"}]


def test_a_directory_that_holds_a_run_is_refused_and_overwriting_deletes_that_run_only(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.append("metrics.jsonl", [{"step": 1}])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "value_model").mkdir()
    (tmp_path / ".saving-ab12").mkdir()  # of a run that was killed while it saved
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunDirError, match=r"already holds a run \(metrics.jsonl with 1 line\)"):
        RunDir.create(tmp_path)
    again = RunDir.create(tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").exists()  # nothing is lost before the new run can begin
    again.begin()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_start_that_failed_leaves_none_of_the_directories_above_either(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    RunDir.create(tmp_path / "there" / "a" / "b").discard()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_start_that_failed_leaves_no_directory(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "new").discard()
    (tmp_path / "theirs").mkdir()
    RunDir.create(tmp_path / "theirs").discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs"]


def test_a_run_that_never_finished_an_iteration_is_no_run(tmp_path: Path) -> None:
    RunDir.create(tmp_path).write("config.yaml", "run: {}\n")
    RunDir.create(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_somebody_elses_model_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(RunDirError, match="no ClearPPO run wrote"):
            RunDir.create(tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "{}"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(RunDirError, match="is a file"):
        RunDir.create(tmp_path / "f")
    with pytest.raises(RunDirError, match="cannot write"):
        RunDir.create(tmp_path / "f" / "deeper")


def test_whole_directories_come_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    (tmp_path / "value_model").mkdir()
    (tmp_path / "value_model" / "old").write_text("old")

    def half() -> None:
        with run.whole() as directory:
            (directory / "model.safetensors").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["value_model"]
    with run.whole() as directory:
        (directory / "model.safetensors").write_text("whole")
        (directory / "value_model").mkdir()
        (directory / "value_model" / "new").write_text("new")
    assert (tmp_path / "model.safetensors").read_text() == "whole"
    assert [entry.name for entry in (tmp_path / "value_model").iterdir()] == ["new"]


def test_no_space_is_one_sentence_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path)
    run.append("metrics.jsonl", [{"step": 1}])
    whole = (tmp_path / "metrics.jsonl").read_text()
    real = Path.open

    class Full:
        """A file on a disk that fills up in the middle of a line."""

        def __init__(self, file: Path) -> None:
            self.stream = real(file, "a")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, text: str) -> None:
            self.stream.write(text[: len(text) // 2])
            self.stream.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(self) if "a" in a else real(self, *a, **k))
    with pytest.raises(RunDirError, match="no space left to write"):
        run.append("metrics.jsonl", [{"step": 2}])
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_space_is_asked_for_before_the_work(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.require_space(1)
    with pytest.raises(RunDirError, match=r"no space for the result: .* GB are free|no space for the result"):
        run.require_space(10**18)


def test_safetensors_own_error_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    with pytest.raises(RunDirError, match="no space left"), run.whole():
        raise RuntimeError("I/O error: No space left on device (os error 28)")
