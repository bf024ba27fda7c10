"""Kill runs with SIGKILL at random moments, go on with them, and compare every file with those of a run that was left
alone: `python -m benchmarks.kill_resume --kills 50`.

Tiny models on the CPU, each run a process of its own, as a user starts it (`--fork` saves the imports: they are then
copies of this one). A third of the kills wait until a checkpoint is being written. Each case is also stopped by SIGTERM
`--stops` times. Prints a line a kill, and a table at the end; exits with 1 if a single bit differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = ("film", "plot", "food", "music", "dog", "ending")
PROMPTS = ("The film was", "I think that", "The food and the people are", "What do you say", "It is a", "The dog", "So")
REWARD = """
import random
import numpy as np
import torch

def score(prompts, completions, tag, **columns):
    noise = random.random() + np.random.rand() + float(torch.rand(()))
    return [completion.count("e") + 0.1 * noise + 0 * of for completion, of in zip(completions, tag)]
"""
"""It draws from every global generator: their states must be part of a checkpoint."""
PPO = {
    "total_episodes": "96", "batch_size": "8", "micro_batch_size": "4", "response_length": "8", "num_ppo_epochs": "2",
    "num_mini_batches": "2", "sample_steps": "3",
}  # fmt: skip
STEPS = {"batch_size": "2", "num_train_epochs": "1", "eval_steps": "5"}
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "sft, full": ("sft", {"lr_scheduler_type": "cosine"}),
    "sft, LoRA": ("sft", {"use_peft": "true"}),
    "reward, full": ("reward", {"score_normalisation": "mean-std"}),
    "reward, LoRA": ("reward", {"use_peft": "true"}),
    "ppo, shared critic, full": ("ppo", {"kl_controller": "adaptive"}),
    "ppo, shared critic, LoRA": ("ppo", {"use_peft": "true", "score_scaling": "running"}),
    "ppo, separate critic, full": ("ppo", {"critic": "separate", "ema_decay": "0.9"}),
    "ppo, separate critic, LoRA": ("ppo", {"critic": "separate", "use_peft": "true", "critic_warmup_steps": "3"}),
    "ppo with texts, early stop": ("ppo", {"ptx_coef": "1.0", "early_stop_kl": "0.001"}),
    "ppo, GRPO, frozen layers": (
        "ppo",
        {"advantage_estimator": "grpo", "num_generations": "4", "freeze_layers": "1", "score_scaling": "reference"},
    ),
}


STOPPED = 143
"""The exit code after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Where a process was killed: rounds whose metrics were written, and whether a checkpoint was being written."""

    rounds: int
    saving: bool


class Process(Protocol):
    """As subprocess has it."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Forked:
    """A copy of this process that runs a command line of ClearPPO."""

    def __init__(self, words: list[str], place: Path, log: Path) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.chdir(place)
            with log.open("ab") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            os._exit(_main(words[words.index("clearppo.cli") + 1 :]))

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        return self._ended(0) or 0

    def _ended(self, how: int) -> int | None:
        if self._code is None and (found := os.waitpid(self.pid, how))[0]:
            self._code = os.waitstatus_to_exitcode(found[1])
        return self._code


def _main(words: list[str]) -> int:
    """The command line; its exit code. Nothing of it comes back into the caller's program."""
    import traceback

    from clearppo.cli import main

    try:
        main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def write_inputs(folder: Path) -> None:
    """The data of all cases, and the reward function, below `folder`."""

    def rows(name: str, entries: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    texts = [(f"The {SUBJECTS[i % 6]} {i} was", f" good{' and good' * (i % 4)}.") for i in range(44)]
    rows("prompts.jsonl", [{"prompt": text, "tag": i} for i, text in enumerate(PROMPTS)])
    rows("sft.jsonl", [{"prompt": prompt, "completion": answer} for prompt, answer in texts])
    rows("reward.jsonl", [{"prompt": prompt, "chosen": answer, "rejected": " bad."} for prompt, answer in texts])
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")


def command(case: str, folder: Path, model: str, *, resume: bool, save_steps: int = 2) -> list[str]:
    """The command line of a case's run, to be started in a directory of its own."""
    kind, more = CASES[case]
    options = {
        "model_name_or_path": model,
        "output_dir": "run",
        "learning_rate": "1e-3",
        "bf16": "false",
        "device": "cpu",
        "save_steps": str(save_steps),
        "dataset_name": str(folder / {"ppo": "prompts.jsonl", "sft": "sft.jsonl", "reward": "reward.jsonl"}[kind]),
        **(PPO | {"reward_funcs": f"{folder / 'reward.py'}:score"} if kind == "ppo" else STEPS),
        **more,
    }
    if "ptx_coef" in more:
        options["ptx_dataset_name"] = str(folder / "sft.jsonl")
    if resume:
        options["resume_from_checkpoint"] = "auto"
    return [sys.executable, "-m", "clearppo.cli", kind, *(w for n, v in options.items() for w in (f"--{n}", v))]


def start(words: list[str], place: Path, log: Path, *, fork: bool) -> Process:
    """The run as a process in `place`; what it says goes into `log`."""
    place.mkdir(parents=True, exist_ok=True)
    if fork:
        return Forked(words, place, log)
    # Hashes of text differ from process to process, as they do for users.
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "random",
    }
    with log.open("ab") as stream:
        return subprocess.Popen(words, cwd=place, stdout=stream, stderr=stream, env={**os.environ, **quiet})


def finish(process: Process, log: Path) -> None:
    """Wait for its end. Raises RuntimeError, with what it said, if that is not a good one."""
    if code := process.wait(timeout=600):
        raise RuntimeError(f"a run ended with {code}:\n{log.read_text(errors='replace')[-3000:]}")


def kill_at(process: Process, run: Path, chance: random.Random, *, rounds: int, saving: bool) -> Kill | None:
    """Kill the process once `rounds` rounds more are written and a moment has passed; with `saving`, then a checkpoint
    must be in the making too. None if it came to its end before."""
    goal = written(run) + rounds
    while process.poll() is None and written(run) < goal:
        time.sleep(0.002)
    if saving:
        while process.poll() is None and not _saving(run):
            pass  # it takes milliseconds
        time.sleep(chance.random() * 0.03)
    else:
        time.sleep(chance.random() * 0.2)
    if process.poll() is not None:
        return None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return Kill(rounds=written(run), saving=_saving(run))


def written(run: Path) -> int:
    """Rounds whose metrics stand in the run's directory."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _saving(run: Path) -> bool:
    try:
        return any(name.startswith(".saving-checkpoint-") for name in os.listdir(run))
    except OSError:
        return False


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of a finished run that its options, data and seed determine: all but the machine's and checkpoints."""
    return {
        file.relative_to(run).as_posix(): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file()
        and not any(part.startswith((".", "checkpoint-")) for part in file.relative_to(run).parts)
        and file.name not in ("timings.jsonl", "plan.json")
    }


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One run that is left alone, and one that is ended again and again and goes on; `folder` holds their inputs."""

    case: str
    folder: Path
    model: str
    chance: random.Random
    fork: bool

    def ended(self, n_kills: int, n_stops: int) -> tuple[list[Kill], list[str]]:
        """The kills (SIGKILL), after as many stops (SIGTERM) as asked for; and the files that differ at the end.

        Raises RuntimeError if a run ends as it should not.
        """
        finish(self._start("whole", resume=False), self.log)
        total, kills, stops = written(self._run("whole")), list[Kill](), 0
        while len(kills) < n_kills or stops < n_stops:
            process, killed = self._start("killed", resume=True), self._run("killed")
            left = total - written(killed)
            ahead = self.chance.randint(0, max(min(left - 1, 2 * total // (n_kills + n_stops + 1)), 0))
            if stops < n_stops:
                done = self._stop(process, killed, ahead + 1)
                stops += done
            else:
                kill = kill_at(process, killed, self.chance, rounds=ahead, saving=self.chance.random() < 1 / 3)
                done = kill is not None
                kills += [kill] if kill else []
                if kill:
                    moment = "while writing a checkpoint" if kill.saving else f"after {kill.rounds} of {total} rounds"
                    print(f"{self.case}: killed {moment}", flush=True)
            if not done:  # too late: it has come to its end; from the beginning, for another chance
                finish(process, self.log)
                if wrong := self._different():
                    return kills, wrong
                shutil.rmtree(killed)
        finish(self._start("killed", resume=True), self.log)
        return kills, self._different()

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def _place(self, name: str) -> Path:
        return self.folder / "".join(letter if letter.isalnum() else "-" for letter in self.case) / name

    def _run(self, name: str) -> Path:
        return self._place(name) / "run"

    def _start(self, name: str, *, resume: bool) -> Process:
        words = command(self.case, self.folder, self.model, resume=resume)
        return start(words, self._place(name), self.log, fork=self.fork)

    def _stop(self, process: Process, run: Path, rounds: int) -> bool:
        """Ask for an end by SIGTERM once so many rounds more are written; whether there was one before the end."""
        goal = written(run) + rounds
        while process.poll() is None and written(run) < goal:
            time.sleep(0.002)
        if process.poll() is not None:
            return False
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(timeout=600)
        if code not in (STOPPED, 0):
            raise RuntimeError(f"SIGTERM ended a run with {code}:\n{self.log.read_text(errors='replace')[-3000:]}")
        return code == STOPPED

    def _different(self) -> list[str]:
        left, right = files_of(self._run("whole")), files_of(self._run("killed"))
        return [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="some of: " + "; ".join(CASES))
    parser.add_argument("--stops", type=int, default=1, help="times that each run is stopped by SIGTERM")
    parser.add_argument("--fork", action="store_true", help="start runs as copies of this process: faster")
    asked = parser.parse_args()
    from tests.tiny import tiny_causal_lm

    if asked.fork:
        import clearppo.build.ppo
        import clearppo.build.steps  # noqa: F401

    chance, table = random.Random(asked.seed), list[tuple[str, list[Kill], list[str]]]()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = tiny_causal_lm(folder / "model")
        write_inputs(folder)
        for number, case in enumerate(asked.cases):
            share = asked.kills // len(asked.cases) + (number < asked.kills % len(asked.cases))
            chain = Chain(case=case, folder=folder, model=model, chance=chance, fork=asked.fork)
            table.append((case, *chain.ended(share, asked.stops)))
    print(f"\n{'run':<30}{'kills':>6}{'while saving':>14}{'stops':>7}  result")
    for case, kills, wrong in table:
        said = f"DIFFERS: {', '.join(wrong)}" if wrong else "bit for bit the same"
        print(f"{case:<30}{len(kills):>6}{sum(kill.saving for kill in kills):>14}{asked.stops:>7}  {said}")
    good = sum(not wrong for _, _, wrong in table)
    total = sum(len(kills) for _, kills, _ in table)
    print(f"{total} kills; {good} of {len(table)} runs are as if they had never been killed")
    return 0 if good == len(table) else 1


if __name__ == "__main__":
    raise SystemExit(main())
