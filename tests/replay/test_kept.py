"""What a run has kept, and what is said where that is not enough; the run itself is only read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearppo.build.replay import replay
from clearppo.errors import CheckpointError, ClearPPOError, ConfigError, RecordError, RunDirError
from clearppo.lock import lock, unlock
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import Checkpoints
from tests.replay.conftest import Ran, options_in
from tests.replay.test_identical import CASES
from tests.resume.runs import files_of, train
from tests.tiny import tiny_causal_lm


@pytest.fixture
def copy(ran: Ran, tmp_path: Path) -> Path:
    """A run that a test may spoil."""
    return Path(shutil.copytree(ran("shared"), tmp_path / "run"))


def refused(run: Path, step: int = 6, kind: type[ClearPPOError] = RecordError, **more: object) -> str:
    with pytest.raises(kind) as error:
        replay(run, step, **more)  # type: ignore[arg-type]
    return str(error.value)


def test_a_run_is_only_read_and_may_be_going_on(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    files = files_of(copy)
    held = lock(copy)
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert replay(copy, 6, settings=["clip=0.1"]).check.identical
    finally:
        copy.chmod(0o700)
        for path in before:
            path.chmod(0o700)
        unlock(held)
    assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before
    assert files_of(copy) == files


def test_nothing_stays_behind(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    replay(ran("shared"), 6, settings=["clip=0.1"])
    refused(ran("shared"), 6, ConfigError, settings=["clip=0.2"])
    assert list(tmp_path.iterdir()) == []


def test_threads_are_those_of_the_run_and_come_back(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    started = json.loads((copy / "started.json").read_text())
    assert started["machine"]["threads"] == 1
    assert started["machine"]["torch"] == torch.__version__
    started["machine"]["threads"] = 3
    (copy / "started.json").write_text(json.dumps(started))
    replay(copy, 1)
    replay(copy, 5)  # its checkpoint says 1
    assert asked == [3, 1, 1, 1]


def test_iterations_that_are_not_there(copy: Path) -> None:
    assert refused(copy, 7) == f"--step 7: {copy} has iterations 1 to 6. Give one of them."
    assert "left out whole" in refused(_left_out(copy, 5), 5)


def _left_out(run: Path, step: int) -> Path:
    """The run, as if this iteration had been given up before it learned."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[step - 1] = json.dumps({"step": step, "episode": 8.0 * step, "faults/skipped_steps": 4.0})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "record" / f"step-{step:06d}.parquet").unlink()
    return run


def test_a_record_with_gaps(copy: Path) -> None:
    for step in (2, 3, 5):
        (copy / "record" / f"step-{step:06d}.parquet").unlink()
    assert "iteration 5 of" in refused(copy, 6)
    assert f"--resume_from_checkpoint {copy}/checkpoint-4" in refused(copy, 6)
    said = refused(copy, 4)
    assert "iterations 2 to 3 of" in said
    assert said.endswith(
        f"clearppo ppo --config {copy}/config.yaml --output_dir {copy}-again --record_steps 1 --record_answers none"
    )
    assert replay(copy, 1).check.identical


def test_the_way_out_of_a_thin_record(tmp_path: Path) -> None:
    """The command that the error names makes a run with the same iterations, which can be replayed."""
    model = tiny_causal_lm(tmp_path / "model")
    options = options_in(tmp_path, "thin", model, {"record_answers": "2"})
    train("ppo", options)
    run = tmp_path / "thin" / "run"
    said = refused(run, 6).split("replay there: ")[1].split()
    flags = dict(zip((word.removeprefix("--") for word in said[2::2]), said[3::2], strict=True))
    assert flags.pop("config") == f"{run}/config.yaml"
    train("ppo", {**options, **flags})
    again = Path(flags["output_dir"])
    assert (again / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert replay(again, 6, checkpoint=str(run / "checkpoint-4")).check.identical


def test_checkpoints_that_are_damaged_are_passed_over(copy: Path) -> None:
    (copy / "checkpoint-4" / "model.safetensors").write_bytes(b"x")
    found = replay(copy, 6)
    assert (found.origin, found.iterations) == ("the start of the run", 5)
    assert found.check.identical
    assert "model.safetensors has 1 bytes" in refused(copy, 6, CheckpointError, checkpoint=str(copy / "checkpoint-4"))


def test_checkpoints_that_cannot_be_used(copy: Path, ran: Ran) -> None:
    said = refused(copy, 6, CheckpointError, checkpoint=str(copy / "checkpoint-6"))
    assert "has learned in 6 iterations, and iteration 6 begins after 5" in said
    assert "it is no directory" in refused(copy, 6, CheckpointError, checkpoint="nowhere")
    assert "manifest.json is missing" in refused(copy, 6, CheckpointError, checkpoint=str(copy))
    other = ran("separate", critic="separate") / "checkpoint-4"
    assert "other weights" in refused(copy, 6, CheckpointError, checkpoint=str(other))


def test_a_checkpoint_that_goes_while_it_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on removes its old ones."""
    import clearppo.build.replay as module

    make = module._replaying

    def slow(*args: object, **more: object) -> object:
        shutil.rmtree(copy / "checkpoint-4")
        return make(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_replaying", slow)
    assert "checkpoint-4 is gone: the run goes on" in refused(copy, 6, CheckpointError)


def test_a_start_model_that_has_changed(tmp_path: Path) -> None:
    model = tiny_causal_lm(tmp_path / "model")
    options = options_in(tmp_path, "other", model, {"use_peft": "true"})
    train("ppo", options)
    tiny_causal_lm(tmp_path / "model", seed=3)
    said = refused(tmp_path / "other" / "run", 6, CheckpointError)
    assert "the run read other start model: what is there under this name has changed since" in said


def test_options_that_changed_on_the_way(ran: Ran, tmp_path: Path) -> None:
    """Iterations after a checkpoint were learned with others: each is replayed with its own."""
    run = ran("shared")
    options = options_in(run.parents[1], "shared", (run.parents[1] / "model").as_posix(), CASES["shared"])
    options |= {"output_dir": str(tmp_path / "run"), "save_total_limit": "none"}
    train("ppo", {**options, "total_episodes": "48"})
    changed = {**options, "gamma": "0.9", "allow_changed_options": "true"}
    RunDir.create(tmp_path / "run", resume=True).release()
    train("ppo", changed, resume=str(tmp_path / "run" / "checkpoint-4"))
    assert replay(tmp_path / "run", 6).check.identical
    assert replay(tmp_path / "run", 4).check.identical
    said = refused(tmp_path / "run", 6, ConfigError, checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert "the options of these iterations are not known" in said
    assert "gamma is 1.0, and was 0.9" in said or "gamma is 0.9, and was 1.0" in said


def test_directories_that_hold_no_run_of_ppo(tmp_path: Path, copy: Path) -> None:
    assert "is no directory. Give the output_dir" in refused(tmp_path / "nowhere", 1, RunDirError)
    (tmp_path / "all").mkdir()
    assert "it has no config.yaml. Give the output_dir" in refused(tmp_path / "all", 1, RunDirError)
    shutil.copytree(copy, tmp_path / "all" / "ppo")
    assert f"Give {tmp_path / 'all' / 'ppo'}." in refused(tmp_path / "all", 1, RunDirError)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("clearppo ppo", "clearppo sft"))
    assert "is a run of clearppo sft" in refused(copy, 1, RunDirError)


def _everywhere(run: Path, content: bytes) -> None:
    for config in run.rglob("config.yaml"):
        config.write_bytes(content)


def test_a_config_that_was_spoilt_is_read_from_a_checkpoint(copy: Path) -> None:
    for config in (copy / "config.yaml", copy / "checkpoint-4" / "config.yaml"):
        config.write_text("x: [")
        assert replay(copy, 5).check.identical


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "has no iteration yet"),
        (lambda run: (run / "metrics.jsonl").write_text("no\nrow\n"), "is no row of a run"),
        (lambda run: _everywhere(run, b"x: ["), "this is no YAML"),
        (lambda run: _everywhere(run, b"\xff\xfe\x00"), "is no text file"),
        (lambda run: _everywhere(run, b"ppo:\n  nothing: 3\n"), "Unknown option nothing"),
        (lambda run: (run / "record" / "step-000005.parquet").write_bytes(b"PAR1"), "cannot be read as a record"),
    ],
)
def test_spoilt_files_are_one_sentence(spoil: Callable[[Path], None], words: str, copy: Path) -> None:
    spoil(copy)
    assert words in refused(copy, 6, ClearPPOError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(copy: Path) -> None:
    (copy / "config.yaml").chmod(0)
    assert "cannot be read" in refused(copy, 6, ClearPPOError)


def test_a_disk_without_room(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert "environment variable TMPDIR" in refused(ran("shared"), 6, RunDirError)


def test_a_damaged_newest_checkpoint_is_left_where_it_is(copy: Path) -> None:
    hidden = copy / ".saving-checkpoint-5"
    hidden.mkdir()
    replay(copy, 6)
    assert hidden.is_dir()
    assert Checkpoints(RunDir(copy), limit=None, note=print).newest() is not None
