"""Runs whose disk fills up at one place after another. test_full_disk.py calls it where it may mount a disk:

    unshare -rm python full_disk.py WORK N COMMAND...   prints a line of JSON each, or a traceback

A first run has room enough. Then the same run gets a disk that is too small, N times, each time a little larger; what
it leaves must be whole, and with more room it goes on from there to the very files of the first.
"""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from clearppo.batch import Sequences
from clearppo.build.ppo import build_ppo
from clearppo.build.prefs import build_prefs
from clearppo.build.steps import build_reward, build_sft
from clearppo.config import PPOConfig, PrefsConfig, RewardModelConfig, SFTConfig, load_config
from clearppo.errors import RunDirError
from clearppo.learning.faults import Fault, Place
from clearppo.rundir import RunDir
from clearppo.train import watchdog
from clearppo.train.checkpoint import Checkpoints
from clearppo.train.faults import Faults
from clearppo.train.listener import Silence
from tests.tiny import tiny_causal_lm

PLENTY = "256m"
BUILD = {
    "ppo": (PPOConfig, build_ppo), "sft": (SFTConfig, build_sft), "reward": (RewardModelConfig, build_reward),
    "prefs": (PrefsConfig, build_prefs),
}  # fmt: skip


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def resize(disk: Path, size: int | str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", "tmpfs", str(disk)], check=True)


def lengths(prompts: Sequence[Any], completions: Sequence[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def options(command: str, work: Path, out: Path) -> dict[str, Any]:
    model = tiny_causal_lm(work / "model") if not (work / "model").exists() else str(work / "model")
    common = {"model_name_or_path": model, "bf16": False, "device": "cpu"}
    trained = {**common, "output_dir": str(out), "save_steps": 1}
    match command:
        case "ppo":
            prompts = jsonl(work / "prompts.jsonl", [{"prompt": f"The film {n}"} for n in range(6)])
            return {
                **trained, "dataset_name": prompts, "reward_funcs": [lengths], "total_episodes": 12, "batch_size": 4,
                "num_ppo_epochs": 1, "response_length": 4, "sample_steps": 1, "ema_decay": 0.9, "profile": [2],
                "eval_steps": 1, "eval_fraction": 0.4,
            }  # fmt: skip
        case "sft":
            rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(6)]
            return {**trained, "dataset_name": jsonl(work / "sft.jsonl", rows), "batch_size": 2, "eval_fraction": 0.3}
        case "reward":
            rows = [{"prompt": f"Say {n}. ", "chosen": f"It is {n}.", "rejected": "No."} for n in range(6)]
            return {**trained, "dataset_name": jsonl(work / "rm.jsonl", rows), "batch_size": 2, "eval_fraction": 0.3}
        case _:
            prompts = jsonl(work / "prompts.jsonl", [{"prompt": f"The film {n}"} for n in range(40)])
            return {
                **common, "dataset_name": prompts, "output_file": str(out / "pairs.jsonl"), "labeller": lengths,
                "response_length": 40,
            }  # fmt: skip


def run(command: str, flags: dict[str, Any]) -> list[str]:
    """Run it to its end or to its error. Returns the notes."""
    schema, build = BUILD[command]
    notes, made = Notes(), None
    try:
        made = build(load_config(schema, flags=flags), listener=notes)
        made.train()
    finally:
        if made is not None and hasattr(made, "run_dir"):
            made.run_dir.release()
    return notes.notes


def whole(out: Path) -> None:
    """Every file in the directory can be read to its end, and nothing half-done lies about."""
    for file in (path for path in out.rglob("*") if path.is_file()):
        name = str(file.relative_to(out))
        assert not any(half in name for half in (".saving-", ".part", ".gone-")), name
        match file.suffix:
            case ".jsonl":
                text = file.read_text()
                assert not text or text.endswith("\n"), name
                rows = [json.loads(line) for line in text.splitlines()]
                if name in ("metrics.jsonl", "timings.jsonl"):
                    assert sorted({row["step"] for row in rows} - {0}) == list(range(1, rows[-1]["step"] + 1)), name
            case ".json":
                json.loads(file.read_text())
            case ".safetensors":
                with safe_open(file, framework="pt") as tensors:
                    names = list(tensors.keys())
                    for key in names:
                        tensors.get_tensor(key)
            case _:
                pass
    notes: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        Checkpoints(RunDir(out), limit=None, note=notes.append).newest()
    assert not notes, notes


def contents(out: Path) -> dict[str, bytes]:
    """What must be the same however often the disk was full: all but what depends on the clock or on the place."""
    kept = ("model.safetensors", "metrics.jsonl", "samples.jsonl", "pairs.jsonl", "step-0.jsonl", "step-3.jsonl")
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.name in kept}


def largest(disk: Path, command: str, flags: dict[str, Any]) -> int:
    """The room that the run needs at most, in bytes: what is used when anything is written or renamed."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            most[0] = max(most[0], shutil.disk_usage(disk).used)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        run(command, flags)
    finally:
        over.set()
        thread.join()
    return max(most[0], shutil.disk_usage(disk).used)


def beside_the_run(work: Path) -> None:
    """What is written beside a run and may not end it: batches of faults, the watchdog's reports."""
    disk = mounted(work)
    run_dir, notes = RunDir.create(disk / "out"), Notes()
    run_dir.append("metrics.jsonl", [{"step": 1}])
    (disk / "ballast").write_bytes(b"x" * shutil.disk_usage(disk).free)
    before = {file: file.read_bytes() for file in run_dir.path.rglob("*") if file.is_file()}
    faults = Faults(run_dir, notes, max_bad_steps=9, step=lambda: 1)
    batch = Sequences(ids=torch.zeros(64, 512, dtype=torch.long), mask=torch.ones(64, 512, dtype=torch.bool),
                      loss_mask=torch.ones(64, 512, dtype=torch.bool))  # fmt: skip
    faults.bad(Fault(what="the loss", place=Place(phase="learning", tensor="loss", words="somewhere"), batch=batch))
    assert "Its batch was not saved: no space left to write" in notes.notes[0], notes.notes
    watchdog._tell("where everybody stands\n" * 1000, run_dir)
    for rows in ([{"step": 2, "text": "x" * 9000}], [{"step": n, "text": "y" * 50} for n in range(500)]):
        with contextlib.suppress(RunDirError):
            run_dir.append("metrics.jsonl", rows)
            raise AssertionError("there was room")
        with contextlib.suppress(RunDirError):
            run_dir.write("config.yaml", json.dumps(rows))
            raise AssertionError("there was room")
    after = {file: file.read_bytes() for file in run_dir.path.rglob("*") if file.is_file()}
    assert after == before, (sorted(after), sorted(before))
    print(json.dumps({"room": 0, "errors": ["no space left to write"]}))


def mounted(work: Path) -> Path:
    """A disk of its own."""
    disk = work / "disk"
    disk.mkdir(parents=True)
    size = "1m" if work.name == "beside" else PLENTY
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    return disk


def fills_up(command: str, work: Path, n: int) -> None:
    """The run of `command` on `n` disks that are too small."""
    RunDir.require_space = lambda *_: None  # type: ignore[method-assign,assignment]  # it would say so before the start
    disk = mounted(work)
    out = disk / "out"
    flags = options(command, work, out)
    out.mkdir()
    room = largest(disk, command, flags)
    expected = contents(out)
    assert expected
    errors: list[str] = []
    for k in range(n):
        shutil.rmtree(out)
        size = math.ceil(room * (k + 0.5) / n / 4096) * 4096
        resize(disk, size)
        try:
            out.mkdir()
            run(command, flags)
            errors.append("")
        except RunDirError as error:
            errors.append(str(error))
        assert all("no space left to write" in error for error in errors if error), errors
        whole(out)
        resize(disk, PLENTY)
        again = {"overwrite_output_file": True} if command == "prefs" else {"resume_from_checkpoint": "auto"}
        run(command, {**flags, **again})
        whole(out)
        after = contents(out)
        assert after == expected, [name for name in {**after, **expected} if after.get(name) != expected.get(name)]
    print(json.dumps({"room": room, "errors": errors}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        if name == "beside":
            beside_the_run(Path(sys.argv[1]) / name)
        else:
            fills_up(name, Path(sys.argv[1]) / name, int(sys.argv[2]))
