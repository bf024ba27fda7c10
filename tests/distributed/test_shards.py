"""Checkpoints of weights that are shared out: each process writes its part, and any number of them goes on from it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, load  # noqa: TID251

from clearppo.models.whole import InShards, whole
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import Checkpoint, Checkpoints
from clearppo.train.manifest import damage
from clearppo.train.shards import open_shards
from tests.distributed.pair import Ended, difference, read, together
from tests.resume.runs import options_of
from tests.tiny import tiny_causal_lm

ALL = {"dtype": "float64", "critic": "separate", "ema_decay": "0.9", "save_total_limit": "none"}
UNLIKE = {"timings.jsonl", "plan.json", "started.json", "config.yaml", "README.md", "manifest.json", "state.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def ended(place: Path) -> Ended:
    """Runs of two processes and of one, in one go."""
    common = {**options_of("ppo", place, tiny_causal_lm(place / "model")), **ALL}

    def run(name: str, **more: Any) -> dict[str, Any]:
        options = {**common, "output_dir": str(place / name), **more.pop("options", {})}
        return {"kind": "ppo", "options": options, **more}

    full, auto = {"sharding": "full"}, {"resume_from_checkpoint": "auto"}
    stop = {"rank": 1, "die_at": 2, "signal": 15}
    first = {"rank": 0, "signal": 15}
    return together(
        [
            run("straight", options=full),
            run("stopped", options={**full, "save_steps": "50"}, only=stop, ends=True),
            run("one", options={"resume_from_checkpoint": str(place / "stopped" / "checkpoint-2"), "save_steps": "50"},
                alone=True, only={**first, "die_at": 4}, ends=True),
            run("one", options={**full, **auto}),
            run("stopped", options={**full, **auto}),
            run("full disk", options={**full, "save_steps": "3"}, only={"rank": 1, "full_disk": True}, ends=True),
        ]
    )  # fmt: skip


def test_two_one_two_processes_go_on(place: Path, ended: Ended, tmp_path: Path) -> None:
    assert ended.codes == [0, 0], ended.err
    assert "checkpoint-2 is written" in ended.err[0]
    assert "checkpoint-4 is written" in ended.err[0]
    assert [row["step"] for row in read(place / "one" / "metrics.jsonl")] == list(range(1, 7))
    gap, where = difference(*(result_of(place / name, tmp_path) for name in ("straight", "one")))
    assert gap <= 1e-9, where


def test_the_same_number_of_processes_goes_on_bit_for_bit(place: Path, ended: Ended) -> None:
    straight, stopped = place / "straight", place / "stopped"
    everything = [file.relative_to(straight) for file in straight.rglob("*") if file.is_file()]
    # But for what was written because of the signal, and what tells of the clock, of options and of the files' sizes.
    files = [file for file in everything if file.parts[0] != "checkpoint-2" and file.name not in UNLIKE]
    assert {"shards", "ema_model", "value_model", "checkpoint-6"} <= {file.parent.name for file in files}
    for file in files:
        assert (straight / file).read_bytes() == (stopped / file).read_bytes(), file


def test_what_each_process_wrote_is_all_of_it(place: Path, ended: Ended) -> None:
    checkpoint = place / "stopped" / "checkpoint-2"
    parts = sorted((checkpoint / "training_state" / "shards").iterdir())
    assert [part.name for part in parts] == ["shard-00001-of-00002.safetensors", "shard-00002-of-00002.safetensors"]
    state = Checkpoint(checkpoint, 2).state
    average, weights = state["late"]["average"], state["weights"]["tensors"]
    shared_out = [tensor for tensor in [*average.values(), *weights.values()] if isinstance(tensor, InShards)]
    assert shared_out
    assert any(name.startswith("critic") and isinstance(tensor, InShards) for name, tensor in weights.items())
    one = Checkpoint(place / "one" / "checkpoint-4", 4)
    assert not any(isinstance(tensor, InShards) for tensor in one.state["late"]["average"].values())
    assert not (one.path / "training_state" / "shards").exists()
    before = Checkpoint(place / "straight" / "checkpoint-4", 4).state["late"]["average"]
    for name, tensor in one.state["late"]["average"].items():
        torch.testing.assert_close(whole(before[name]), tensor, rtol=0, atol=1e-9)


def test_torchs_own_reader_reads_them(place: Path, ended: Ended) -> None:
    folder = place / "stopped" / "checkpoint-2" / "training_state" / "shards"
    ours = open_shards(folder)
    theirs: dict[str, Tensor] = {name: torch.full(found.shape, 7, dtype=found.dtype) for name, found in ours.items()}
    load(theirs, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert len(ours) > 20
    for name, found in ours.items():
        assert torch.equal(whole(found), theirs[name])
        assert torch.equal(found.rows(1, 2), theirs[name][1:2])


@pytest.mark.parametrize("wrong", ["gone", "cut", "changed"])
def test_a_part_that_is_not_whole_is_seen(wrong: str, place: Path, ended: Ended, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "straight", run)
    part = run / "checkpoint-6" / "training_state" / "shards" / "shard-00002-of-00002.safetensors"
    match wrong:
        case "gone":
            part.unlink()
        case "cut":
            part.write_bytes(part.read_bytes()[:-1])
        case _:
            part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert "shards/shard-00002-of-00002.safetensors" in str(damage(run / "checkpoint-6", 6))
    notes: list[str] = []
    newest = Checkpoints(RunDir(run), limit=None, note=notes.append).newest()
    assert newest is not None
    assert newest.step == 4
    assert "checkpoint-6 is damaged and passed over" in notes[0]


def test_a_process_that_cannot_write_ends_all_and_leaves_nothing(place: Path, ended: Ended) -> None:
    run = place / "full disk"
    assert "process 1 cannot write its part of a checkpoint: no space left to write" in ended.err[0]
    assert ended.err[1] == ""
    assert len(read(run / "metrics.jsonl")) == 3
    assert not [entry.name for entry in run.iterdir() if "checkpoint" in entry.name]


def result_of(run: Path, folder: Path) -> Path:
    """A copy of a run without its checkpoints."""
    shutil.copytree(run, folder / run.name, ignore=shutil.ignore_patterns("checkpoint-*"))
    return folder / run.name
