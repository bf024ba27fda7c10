"""Processes that do not fit together, that are lost, or that are stopped: one sentence, and all of them end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clearppo
from clearppo.engines.environment import Place, place
from clearppo.errors import ConfigError
from tests.distributed.pair import ROOT, difference, read, together
from tests.resume.runs import options_of
from tests.tiny import tiny_causal_lm

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}
FAILING = "def score(prompts, completions, **columns):\n    raise ValueError('no such score')\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def options(tmp_path: Path, model: str) -> dict[str, Any]:
    return {**options_of("ppo", tmp_path, model), "dtype": "float64", "output_dir": str(tmp_path / "run")}


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_all(**values: str | None) -> None:
        for name, value in {**TORCHRUN, "LOCAL_WORLD_SIZE": None, **values}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_all


def test_where_a_process_stands(set_environment: Callable[..., None]) -> None:
    set_environment()
    assert place() == Place(rank=1, world=4, local_rank=1, local_world=4)
    set_environment(LOCAL_WORLD_SIZE="2")
    assert place() == Place(rank=1, world=4, local_rank=1, local_world=2)
    set_environment(WORLD_SIZE="1", RANK="0", MASTER_ADDR=None)
    assert place() == Place()
    set_environment(RANK=None, WORLD_SIZE=None, LOCAL_RANK=None)  # a cluster may set MASTER_ADDR for everything
    assert place() == Place()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RANK": None}, "WORLD_SIZE = 4 is in the environment and RANK is not, .* with torchrun .*unset WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "RANK = 1 is in .* MASTER_ADDR, MASTER_PORT are not"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE = four in the environment is no whole number"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT = 0 in the environment is no port"),
        ({"RANK": "4"}, "RANK = 4 of WORLD_SIZE = 4, .* counted from 0"),
    ],
)
def test_half_an_environment(
    values: dict[str, str | None], said: str, set_environment: Callable[..., None], options: dict[str, Any]
) -> None:
    set_environment(**values)
    with pytest.raises(ConfigError, match=said):
        place()
    with pytest.raises(ConfigError, match=said):
        clearppo.ppo(**options)


def test_one_process_imports_nothing_of_this() -> None:
    code = (
        "import sys, clearppo.api, clearppo.build.ppo, clearppo.build.steps\n"
        "several = [f'clearppo.engines.{name}' for name in ('group', 'parallel', 'signs')]\n"
        "print([name for name in several if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_that_differ(options: dict[str, Any]) -> None:
    only = {"rank": 1, "options": {"learning_rate": "2e-3"}}
    ended = together([{"kind": "ppo", "options": options, "only": only}])
    assert ended.codes == [2, 2]
    said = "error: learning_rate is 0.002 in process 1 and 0.001 in process 0. All processes must be started with the "
    assert ended.err[0].startswith(said)
    assert ended.err[0].count("\n") == 1
    assert ended.err[1] == ""
    assert not Path(options["output_dir"]).exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RANK": "-1"}, "error: RANK = -1 in the environment is no whole number"),
        ({"RANK": "x"}, "error: RANK = x in the environment is no whole number"),
        ({"RANK": "1"}, "error in process 1: --nonsense is no option|error in process 1: Unknown option --nonsense"),
        ({"RANK": "0"}, "error: Unknown option --nonsense"),
    ],
)
def test_before_they_meet_each_speaks_for_itself(values: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "clearppo", "ppo"] + (["--nonsense", "1"] if values["RANK"].isdecimal() else [])
    if not values["RANK"].isdecimal():
        command += [
            "--model_name_or_path",
            "m",
            "--dataset_name",
            "d.jsonl",
            "--reward_funcs",
            "r.py:f",
            "--output_dir",
            "o",
        ]
    where = {**os.environ, **TORCHRUN, "WORLD_SIZE": "2", "LOCAL_RANK": "0", **values}
    ended = subprocess.run(command, cwd=ROOT, env=where, text=True, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert any(ended.stderr.startswith(words) for words in said.split("|"))
    assert ended.stderr.count("\n") == 1


def test_an_address_that_nobody_knows(options: dict[str, Any]) -> None:
    began = time.monotonic()
    where = {**os.environ, **TORCHRUN, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "no.invalid"}
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "clearppo", "ppo", *words]
    ended = subprocess.run(command, cwd=ROOT, env=where, text=True, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: MASTER_ADDR = no.invalid in the environment is the name of no machine")
    assert time.monotonic() - began < 50


def test_a_process_that_is_killed(options: dict[str, Any]) -> None:
    began = time.monotonic()
    ended = together([{"kind": "ppo", "options": options, "only": {"rank": 1, "die_at": 3}}])
    assert ended.codes == [3, -9]
    assert ended.err[0].startswith("error: process 1 of 0 to 1 is lost: it was killed")
    assert ended.err[0].count("\n") == 1
    assert time.monotonic() - began < 60
    again = {**options, "resume_from_checkpoint": "auto"}
    assert len(clearppo.ppo(**again).history) == 6


@pytest.mark.slow
def test_the_first_process_is_killed(options: dict[str, Any]) -> None:
    ended = together([{"kind": "sft", "options": _sft(options), "only": {"rank": 0, "die_at": 3}}])
    assert ended.codes == [-9, 3]
    assert "error: process 0 of 0 to 1 is lost: it was killed" in ended.err[1]


@pytest.mark.slow
def test_what_goes_wrong_in_one_ends_all_and_is_said_once(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    broken = {**options, "reward_funcs": f"{tmp_path / 'failing.py'}:score"}
    ended = together([{"kind": "ppo", "options": broken}])
    assert ended.codes == [2, 2]
    assert "reward function `score` raised ValueError: no such score" in ended.err[0]
    assert ended.err[0].count("\n") == 1
    assert ended.err[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_the_others(rank: int, options: dict[str, Any]) -> None:
    ended = together([{"kind": "ppo", "options": options, "only": {"rank": rank, "die_at": 2, "signal": None}}])
    assert ended.codes == [3, 3]
    said = "only this process has failed." if rank == 0 else "process 1 of 0 to 1 has ended: only this process has"
    assert [line for line in ended.err[0].splitlines() if line.startswith("error")] == [ended.err[0].strip()]
    assert f"error: {said}" in ended.err[0]
    assert ended.err[1] == ""  # who ends because of another has nothing to add


@pytest.mark.slow
def test_a_mistake_of_one_process(options: dict[str, Any], tmp_path: Path) -> None:
    only = {"rank": 1, "options": {"model_name_or_path": str(tmp_path / "nowhere")}}
    ended = together([{"kind": "sft", "options": _sft(options), "only": only}])
    assert ended.codes == [2, 2]
    assert ended.err[0].startswith("error: model_name_or_path is ")
    assert ended.err[1] == ""


def test_a_stop_is_agreed_on_and_two_one_two_processes_go_on(options: dict[str, Any], tmp_path: Path) -> None:
    straight = {**options, "output_dir": str(tmp_path / "straight"), "save_steps": "0"}
    clearppo.ppo(**straight)
    stop = {"rank": 1, "die_at": 2, "signal": 15}  # SIGTERM reaches one process only
    again = {**options, "resume_from_checkpoint": "auto"}
    ended = together([{"kind": "ppo", "options": {**options, "save_steps": "50"}, "only": stop}])
    assert ended.codes == [143, 143], ended.err
    assert "checkpoint-2 is written" in ended.err[0]
    assert ended.err[1] == ""
    place = Path(options["output_dir"])
    assert [row["step"] for row in read(place / "metrics.jsonl")] == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        _stopped_after(4, again)
    assert [row["step"] for row in read(place / "metrics.jsonl")] == [1, 2, 3, 4]
    ended = together([{"kind": "ppo", "options": again}])
    assert ended.codes == [0, 0], ended.err
    for part in place.glob("checkpoint-*"):
        part.rename(tmp_path / part.name)
    gap, where = difference(Path(straight["output_dir"]), place)
    assert gap <= 1e-9, where


@pytest.mark.slow
def test_torchrun_starts_the_command_line(options: dict[str, Any]) -> None:
    words = [f"--{name}={value}" for name, value in options.items()]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, "-m", "clearppo", "ppo", *words], cwd=ROOT, env=env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iteration 6/6") == 1
    assert len(read(Path(options["output_dir"]) / "metrics.jsonl")) == 6
    done = subprocess.run(
        [*start, "-m", "clearppo", "ppo", *words], cwd=ROOT, env=env, text=True, capture_output=True, check=False
    )
    assert done.stderr.count("already holds a run") == 1


def _sft(options: dict[str, Any]) -> dict[str, Any]:
    place = Path(options["output_dir"]).parent
    return {**options_of("sft", place, options["model_name_or_path"]), "output_dir": str(place / "sft")}


def _stopped_after(step: int, options: dict[str, Any]) -> None:
    """A run of this process that somebody stops."""
    from clearppo.train.track import Track

    call = Track.__call__

    def called(self: Any, done: int, *args: Any, **kwargs: Any) -> None:
        call(self, done, *args, **kwargs)
        if done == step:
            os.kill(os.getpid(), 15)  # SIGINT would be ignored where the tests run in a shell's background

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Track, "__call__", called)
        clearppo.ppo(**options)
