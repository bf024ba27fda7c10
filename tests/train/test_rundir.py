"""What a run leaves on disk, and what it refuses to touch."""

import errno
import json
import os
import subprocess
import sys
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


# ------------------------------------------------------------------------------------------------ going on with a run


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ran(path: Path, steps: int) -> RunDir:
    run = RunDir.create(path)
    for step in range(1, steps + 1):
        run.append("metrics.jsonl", [{"step": step, "loss": 0.5}])
        run.append("timings.jsonl", [{"step": step, "seconds": 2.5}])
        run.append("samples.jsonl", [{"step": step, "prompt": "a"}, {"step": step, "prompt": "\u2028\r"}])
    return run


def test_a_run_is_refused_with_the_way_to_go_on_and_taken_if_that_is_asked_for(tmp_path: Path) -> None:
    ran(tmp_path, 2)
    with pytest.raises(RunDirError, match="--resume_from_checkpoint auto to go on with that run"):
        RunDir.create(tmp_path)
    again = RunDir.create(tmp_path, resume=True)
    assert [row["step"] for row in again.rows("metrics.jsonl")] == [1, 2]
    assert again.rows("other.jsonl") == []


def test_a_checkpoint_alone_is_a_run_too(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-0").mkdir()
    (tmp_path / "checkpoint-mine").mkdir()
    with pytest.raises(RunDirError, match=r"already holds a run \(checkpoint-0\)"):
        RunDir.create(tmp_path)
    RunDir.create(tmp_path, resume=True).begin()  # afresh
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-mine"]


@pytest.mark.parametrize("step", [0, 1, 3, 9])
def test_rewinding_keeps_what_was_done_up_to_a_round(step: int, tmp_path: Path) -> None:
    run = ran(tmp_path, 3)
    run.rewind(step)
    kept = list(range(1, min(step, 3) + 1))
    assert [row["step"] for row in run.rows("metrics.jsonl")] == kept
    assert [row["step"] for row in run.rows("timings.jsonl")] == kept
    assert [row["step"] for row in run.rows("samples.jsonl")] == [s for s in kept for _ in range(2)]
    if not kept:
        assert list(tmp_path.iterdir()) == []
    run.append("metrics.jsonl", [{"step": len(kept) + 1}])
    assert len(lines(tmp_path / "metrics.jsonl")) == len(kept) + 1


def test_what_is_kept_keeps_its_bytes(tmp_path: Path) -> None:
    run = ran(tmp_path, 3)
    before = (tmp_path / "samples.jsonl").read_bytes().splitlines(keepends=True)
    run.rewind(2)
    assert (tmp_path / "samples.jsonl").read_bytes() == b"".join(before[:4])


def test_no_more_is_kept_than_there_was(tmp_path: Path) -> None:
    """A measurement after a round has that round's number too, and may have come after the checkpoint."""
    run = ran(tmp_path, 2)
    sizes = run.sizes()
    run.append("metrics.jsonl", [{"step": 2, "eval/score": 1.0}])
    run.append("metrics.jsonl", [{"step": 3, "loss": 0.5}])
    run.rewind(2)
    assert [len(row) for row in run.rows("metrics.jsonl")] == [2, 2, 2]
    run.rewind(2, sizes)
    assert [len(row) for row in run.rows("metrics.jsonl")] == [2, 2]
    assert run.sizes() == sizes
    assert "eval/score" not in run.rows("metrics.jsonl")[-1]


def test_a_run_that_goes_on_elsewhere_takes_its_rows_along(tmp_path: Path) -> None:
    first = ran(tmp_path / "first", 3)
    for step in (0, 2, 3):
        first.write(f"evaluation/step-{step}.jsonl", f"{step}\n")
    second = RunDir.create(tmp_path / "second")
    second.rewind(2, of=first.path)
    assert [row["step"] for row in second.rows("metrics.jsonl")] == [1, 2]
    assert sorted(file.name for file in (second.path / "evaluation").iterdir()) == ["step-0.jsonl", "step-2.jsonl"]
    assert [row["step"] for row in first.rows("metrics.jsonl")] == [1, 2, 3]
    assert len(list((first.path / "evaluation").iterdir())) == 3


def recorded(path: Path, *steps: int) -> None:
    (path / "record").mkdir()
    for step in steps:
        (path / "record" / f"step-{step:06d}.parquet").write_bytes(bytes([step % 256]))


def test_the_record_of_later_rounds_goes_and_that_of_another_directory_comes_along(tmp_path: Path) -> None:
    first = ran(tmp_path / "first", 3)
    recorded(first.path, 1, 2, 3, 1_000_000)
    second = RunDir.create(tmp_path / "second")
    second.rewind(2, of=first.path)
    assert {file.name: file.read_bytes() for file in (second.path / "record").iterdir()} == {
        "step-000001.parquet": b"\1", "step-000002.parquet": b"\2",
    }  # fmt: skip
    assert len(list((first.path / "record").iterdir())) == 4
    first.rewind(1)
    assert [file.name for file in (first.path / "record").iterdir()] == ["step-000001.parquet"]


def test_what_a_run_has_recorded_and_reported_goes_with_it(tmp_path: Path) -> None:
    ran(tmp_path, 3).release()
    recorded(tmp_path, 1, 2)
    (tmp_path / "figures").mkdir()
    for name in ("report.html", "figures/score.png", "mine.html"):
        (tmp_path / name).write_text("x")
    RunDir.create(tmp_path, overwrite=True).begin()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.html"]


def test_a_file_of_the_record_that_was_not_finished_is_taken_away(tmp_path: Path) -> None:
    run = ran(tmp_path, 1)
    recorded(tmp_path, 1)
    (tmp_path / "record" / ".step-000002.parquet.part").write_text("x")
    run.tidy()
    assert [file.name for file in (tmp_path / "record").iterdir()] == ["step-000001.parquet"]


@pytest.mark.parametrize("rest", ['{"step": 4, "lo', '{"step": 2}', "\0\0", '{"step": "x"}\n', "\xff"])
def test_a_line_that_a_kill_has_cut_short_goes(rest: str, tmp_path: Path) -> None:
    run = ran(tmp_path, 3)
    with (tmp_path / "metrics.jsonl").open("a", encoding="latin-1") as stream:
        stream.write(rest)
    run.rewind(3)
    assert [row["step"] for row in run.rows("metrics.jsonl")] == [1, 2, 3]


def test_a_bad_line_in_the_middle_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    run = ran(tmp_path, 1)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"ste\n{"step": 2}\n')
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunDirError, match=r'metrics\.jsonl, line 2 is no row of a run: \{"ste\. Mend or delete'):
        run.rewind(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_rewinding_on_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran(tmp_path, 3)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirError, match="no space left"):
        run.rewind(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_goes_on_and_one_that_starts_afresh_tidy_up(tmp_path: Path) -> None:
    run = ran(tmp_path, 1)
    for name in (".saving-ab12", ".saving-checkpoint-3", ".saving-gone-x"):
        (tmp_path / name).mkdir()
    (tmp_path / ".metrics.jsonl.part").write_text("x")
    (tmp_path / ".mine.part").write_text("x")
    run.tidy()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".mine.part", "metrics.jsonl", "samples.jsonl", "timings.jsonl",
    ]  # fmt: skip


OTHER = """
import sys
from clearppo.errors import RunDirError
from clearppo.rundir import RunDir
try:
    RunDir.create(sys.argv[1], resume=True)
except RunDirError as error:
    print(error)
"""


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    def other() -> str:
        done = subprocess.run([sys.executable, "-c", OTHER, str(tmp_path)], capture_output=True, text=True, check=True)
        return done.stdout

    run = RunDir.create(tmp_path)
    again = RunDir.create(tmp_path)  # the same process may
    assert other().startswith(f"another process is writing its run to output_dir = {tmp_path}. Wait until")
    run.release()
    run.release()
    assert "another process" in other()
    again.release()
    assert other() == ""
    third = RunDir.create(tmp_path)
    assert "another process" in other()
    del third  # nobody holds it any more
    assert other() == ""
