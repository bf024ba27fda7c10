"""Checkpoint directories that were damaged, and everything else in output_dir that a resumed run reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.errors import CheckpointError, RunDirError
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import Checkpoints
from clearppo.train.state_file import read_state, write_state
from tests.fuzz.mutation import ends_well, mutated, mutated_bytes, seeds, tree_of

STATE: dict[str, Any] = {
    "optimiser": {"0": {"exp_avg": torch.arange(6.0).reshape(2, 3), "step": 3}, "lr": 1e-3},
    "chance": {"words": ["a", None, True, 2**80, float("inf"), -0.0], "empty": torch.empty(0, 2, dtype=torch.int64)},
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def save_model(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(bytes(range(256)))
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter_config.json").write_text("{}")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run with two checkpoints, and the notes about them."""
    path, notes = tmp_path / "run", list[str]()
    path.mkdir()
    (path / "config.yaml").write_text("run: {}\n")
    store = Checkpoints(RunDir(path), limit=None, note=notes.append)
    for step in (1, 2):
        written = store.write(step, STATE, save_model)
    store.mark_best(written, "eval/score", 0.5)
    return path, notes


def test_a_damaged_file_is_named_and_the_one_before_is_used(run: tuple[Path, list[str]]) -> None:
    path, notes = run
    whole = tree_of(path / "checkpoint-2")
    for chance in seeds(150):
        name = chance.choice(sorted(whole))
        raw = mutated_bytes(chance, whole[name])
        file = path / "checkpoint-2" / name
        if chance.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(raw)
        notes.clear()
        found: list[Any] = []
        ends_well(lambda found=found: found.append(Checkpoints(RunDir(path), limit=None, note=notes.append).newest()),
                  (name, raw))  # fmt: skip
        damaged = not file.exists() or raw != whole[name]
        assert found[0].step == (1 if damaged else 2), (name, raw)
        assert bool(notes) == damaged
        assert all(Path(name).name in note for note in notes) or "manifest" in notes[0], (notes, name)
        opened = ends_well(lambda: Checkpoints(RunDir(path), limit=None, note=print).open(path / "checkpoint-2"), name)
        assert isinstance(opened, CheckpointError) == damaged
        file.write_bytes(whole[name])


def test_directories_that_look_like_checkpoints(run: tuple[Path, list[str]]) -> None:
    path, notes = run
    odd = (
        "checkpoint-",
        "checkpoint-x",
        "checkpoint-03",
        "checkpoint--1",
        "checkpoint-3.5",
        "checkpoint-²",
        "checkpoint-9",
    )
    for name in odd:
        (path / name).mkdir()
    (path / "checkpoint-10").write_text("a file")
    (path / ".saving-checkpoint-11").mkdir()
    newest = Checkpoints(RunDir(path), limit=None, note=notes.append).newest()
    assert newest is not None
    assert newest.step == 2
    assert not list(path.glob(".saving-*"))
    assert (path / "checkpoint-10").read_text() == "a file"


def test_manifests_with_other_values(run: tuple[Path, list[str]]) -> None:
    path, _ = run
    file = path / "checkpoint-2" / "manifest.json"
    whole = file.read_bytes()
    for chance in seeds(300):
        tree = json.loads(whole)
        for _ in range(chance.choice((1, 2))):
            tree = mutated(chance, tree)
        file.write_text(json.dumps(tree))
        ends_well(lambda: Checkpoints(RunDir(path), limit=None, note=print).newest(), tree)
        ends_well(lambda: Checkpoints(RunDir(path), limit=None, note=print).open(path / "checkpoint-2"), tree)
    file.write_bytes(whole)


def test_marks_of_the_best(run: tuple[Path, list[str]]) -> None:
    path, _ = run
    file = path / "best.json"
    whole = file.read_bytes()
    found_once = [b'{"best": [{"step": Infinity, "metric": "eval/score", "value": 0.5}]}', b"[" * 20_000]
    for raw in found_once:
        file.write_bytes(raw)
        assert Checkpoints(RunDir(path), limit=1, note=print).best is None
    for chance in seeds(300):
        tree = json.loads(whole)
        raw = json.dumps(mutated(chance, tree)).encode() if chance.random() < 0.5 else mutated_bytes(chance, whole)
        file.write_bytes(raw)

        def use() -> None:
            store = Checkpoints(RunDir(path), limit=1, note=lambda text: None)
            best = store.best
            assert best is None or (isinstance(best.step, int) and isinstance(best.value, float))
            store.forget_after(2)

        ends_well(use, raw)
    assert (path / "checkpoint-2" / "manifest.json").exists()


def test_any_state_comes_back(tmp_path: Path) -> None:
    for number, chance in enumerate(seeds(150)):
        tree = {"tree": mutated(chance, {"a": [1, {"b": "x"}], "c": None, "$tensor": 1, "d": {"$tensor": "e"}})}
        place = tmp_path / str(number)
        write_state(place, tree)
        assert repr(read_state(place)) == repr(tree)
        shutil.rmtree(place)


METRICS = b"".join(json.dumps({"step": step, "x": 0.5}).encode() + b"\n" for step in (0, 1, 2, 2, 3))


def test_rows_of_a_run_that_is_taken_back(tmp_path: Path) -> None:
    file, refused = tmp_path / "metrics.jsonl", 0
    for chance in seeds(400):
        raw = mutated_bytes(chance, METRICS)
        file.write_bytes(raw)
        run = RunDir(tmp_path)
        error = ends_well(lambda run=run: run.rewind(2), raw)
        if error is not None:
            assert isinstance(error, RunDirError)
            assert file.read_bytes() == raw  # as it was
            refused += 1
        else:
            kept = [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
            assert all(row["step"] <= 2 for row in kept), raw
    assert refused
