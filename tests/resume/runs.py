"""Tiny runs that are killed and gone on with, in this process; and how two directories are compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.kill_resume import files_of
from clearppo.build.ppo import build_ppo
from clearppo.build.steps import build_reward, build_sft
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, load_config
from clearppo.train.listener import Silence

Options = dict[str, Any]
KINDS: dict[str, tuple[Any, Any]] = {
    "ppo": (PPOConfig, build_ppo),
    "sft": (SFTConfig, build_sft),
    "reward": (RewardModelConfig, build_reward),
}
# Draws from global generators: their states must be part of a checkpoint. Not from Python's, from which the checks of
# types draw that the tests switch on in this process; processes of their own do, with PYTHONS.
PYTHONS = "import random\ndraw = random.random\n"
REWARD = """
import numpy as np
import torch

draw = float

def score(prompts, completions, tag, **columns):
    noise = draw() + np.random.rand() + float(torch.rand(()))
    return [completion.count("e") + 0.1 * noise + 0 * of for completion, of in zip(completions, tag)]
"""
PROMPTS = ("The film was", "I think that", "The food and the people are", "What do you say", "It is a", "The dog", "So")


class Killed(BaseException):
    """The process ends here and now, as by SIGKILL: nobody catches it."""


class KilledAt(Silence):
    """Kills the run at its n-th event, from 1; 0 never does. `events` are those that were seen."""

    def __init__(self, event: int = 0) -> None:
        self.event = event
        self.events: list[str] = []
        self.notes: list[str] = []

    def phase(self, name: str) -> None:
        self._see(name)

    def iteration(self, step: int, metrics: Mapping[str, float]) -> None:
        self._see(f"step {step}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _see(self, what: str) -> None:
        self.events.append(what)
        if len(self.events) == self.event:
            raise Killed


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def options_of(kind: str, folder: Path, model: str) -> Options:
    """Options of a run of 6 iterations (12 steps of SFT and reward) that takes a second; the data lie in `folder`."""
    options: Options = {
        "model_name_or_path": model,
        "output_dir": "run",
        "learning_rate": "1e-3",
        "bf16": "false",
        "device": "cpu",
        "save_steps": "2",
    }
    if kind == "ppo":
        (folder / "reward.py").write_text(REWARD, encoding="utf-8")
        rows = [{"prompt": text, "tag": i} for i, text in enumerate(PROMPTS)]
        return options | {
            "dataset_name": lines(folder / "prompts.jsonl", rows),
            "reward_funcs": f"{folder / 'reward.py'}:score",
            "total_episodes": "48",
            "batch_size": "8",
            "micro_batch_size": "4",
            "response_length": "6",
            "num_ppo_epochs": "2",
            "num_mini_batches": "2",
        }
    subjects = ("film", "plot", "food", "music", "dog", "ending")
    if kind == "sft":
        rows = [{"prompt": f"The {subjects[i % 6]} {i} was", "completion": f" good{' .' * (i % 4)}"} for i in range(26)]
    else:
        rows = [
            {
                "prompt": f"The {subjects[i % 6]} {i} was",
                "chosen": f" good{' .' * (i % 4)}",
                "rejected": " bad and dull",
            }
            for i in range(26)
        ]
    return options | {
        "dataset_name": lines(folder / f"{kind}.jsonl", rows),
        "batch_size": "4",
        "num_train_epochs": "2",
        "eval_steps": "4",
    }


def train(kind: str, options: Options, *, kill_at: int = 0, resume: str | None = None) -> KilledAt:
    """A run in the present directory, killed at its n-th event (0: never). What was seen of it."""
    schema, build = KINDS[kind]
    listener = KilledAt(kill_at)
    more = {} if resume is None else {"resume_from_checkpoint": resume}
    run = None
    try:
        run = build(load_config(schema, flags={**options, **more}), listener=listener)
        run.train()
    except Killed:
        pass
    finally:
        if run is not None:
            run.run_dir.release()
    return listener


def difference(left: Path, right: Path) -> str:
    """The names of the files in which two runs differ; "" if there is none."""
    a, b = files_of(left), files_of(right)
    return ", ".join(name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name))
