"""`--launch ray`: what Ray starts is what torchrun would have started, and what is lost is started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clearppo.engines.launch import Job, launch
from clearppo.engines.servers import Servers
from clearppo.errors import ConfigError, DistributedError
from tests.distributed.pair import ROOT, difference, together
from tests.resume.runs import options_of
from tests.tiny import tiny_causal_lm

pytest.importorskip("ray", reason="pip install 'clearppo[ray]'")

RUN = {"save_steps": "2", "total_episodes": "32", "dtype": "float64"}
# The whole process is gone, in the middle of the fourth iteration, once.
KILLED = """
import os
import signal
from pathlib import Path

calls = []

def score(prompts, completions, **columns):
    calls.append(len(prompts))
    if len(calls) == 4 and not Path("killed").exists():  # the self-check judges nothing
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [completion.count("e") for completion in completions]
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a run, and in `reference` what two processes made of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("ray")
    options = {**options_of("ppo", folder, tiny_causal_lm(folder / "model")), **RUN}
    (folder / "killed.py").write_text(KILLED, encoding="utf-8")
    (folder / "calm.py").write_text(KILLED.replace("== 4", "== 0"), encoding="utf-8")
    options["reward_funcs"] = f"{folder / 'killed.py'}:score"
    calm = {**options, "reward_funcs": f"{folder / 'calm.py'}:score", "output_dir": str(folder / "reference")}
    ended = together([{"kind": "ppo", "options": calm}])
    assert ended.codes == [0, 0], ended.err
    return {"options": options, "reference": folder / "reference"}


def command(options: dict[str, Any], *more: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """`clearppo ppo --launch ray` in a directory."""
    words = [f"--{name}={value}" for name, value in options.items()]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    quiet["OMP_NUM_THREADS"] = "1"  # as in the reference: last bits depend on it
    return subprocess.run(
        [sys.executable, "-m", "clearppo", "ppo", *words, "--launch", "ray", *more],
        cwd=directory, env={**os.environ, **quiet}, text=True, capture_output=True, timeout=240, check=False,
    )  # fmt: skip


def test_two_processes_of_ray_are_those_of_torchrun(started: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "killed").touch()
    options = {**started["options"], "output_dir": "run"}  # beside the processes, in their own directory
    done = command(options, "--num_processes", "2", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iteration 4/4") == 1
    assert "process 1" not in done.stdout + done.stderr
    assert difference(started["reference"], tmp_path / "run")[0] == 0.0


def test_a_process_that_is_killed_starts_all_again(started: dict[str, Any], tmp_path: Path) -> None:
    options = {**started["options"], "output_dir": str(tmp_path / "run")}
    done = command(options, "--num_processes", "2", "--max_restarts", "1", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "was killed by SIGKILL: all processes are started again (1 of 1)" in done.stderr
    assert "goes on after iteration 2" in done.stdout
    assert difference(started["reference"], tmp_path / "run")[0] == 0.0


@pytest.mark.slow
def test_a_mistake_is_said_once_and_nothing_is_started_again(started: dict[str, Any], tmp_path: Path) -> None:
    options = {**started["options"], "output_dir": str(tmp_path / "run"), "reward_funcs": "nowhere.py:score"}
    done = command(options, "--num_processes", "2", directory=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "started again" not in done.stderr


SLOW = """
import time

def score(prompts, completions, **columns):
    time.sleep(0.5)
    return [1.0] * len(prompts)
"""


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint(started: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    more = {"output_dir": str(tmp_path / "run"), "reward_funcs": f"{tmp_path / 'slow.py'}:score", "save_steps": "100"}
    options = {**started["options"], **more, "total_episodes": "4000"}
    words = [f"--{name}={value}" for name, value in options.items()]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "clearppo", "ppo", *words, "--launch", "ray", "--num_processes", "2"],
        cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    while "iteration 2/" not in (line := process.stdout.readline()) and line:
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "is written: go on with --resume_from_checkpoint auto" in said
    assert [file for file in (tmp_path / "run").iterdir() if file.name.startswith("checkpoint-")]


def job(code: str, folder: Path, **more: Any) -> Job:
    """Processes that run a line of Python; once the file `begun` is there they are told that they go on."""
    begun = folder / "begun"
    own: dict[str, Any] = {
        "words": ["-c", f"begun = {str(begun)!r}\n{code}"], "again": ["-c", f"again = 1\nbegun = ''\n{code}"],
        "begun": str(begun), "processes": 2, "cpus": 1, "gpus": None, "address": None, "max_restarts": 1,
        "directory": str(folder),
    }  # fmt: skip
    return Job(**{**own, **more})


def run(what: Job) -> tuple[int, list[tuple[str, str]], list[str]]:
    """The exit code, what was said, and what was told."""
    said: list[tuple[str, str]] = []
    told: list[str] = []
    return launch(what, tell=told.append, say=lambda *line: said.append(line)), said, told


@pytest.mark.slow
def test_exit_codes_output_and_environment(tmp_path: Path) -> None:
    code = (
        "import os, sys\nnames = 'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE OMP_NUM_THREADS'.split()\n"
        "print(*(os.environ[name] for name in names))\nprint('hm', file=sys.stderr)\n"
        "sys.exit(int(os.environ['RANK']) * 2)"
    )
    ended, said, told = run(job(code, tmp_path))
    assert ended == 2
    assert sorted(said) == [
        ("stderr", "[process 1] hm\n"), ("stderr", "hm\n"), ("stdout", "0 0 2 2 1\n"),
        ("stdout", "[process 1] 1 1 2 2 1\n"),
    ]  # fmt: skip
    assert told == []


@pytest.mark.slow
def test_a_run_that_has_not_begun_is_started_as_before(tmp_path: Path) -> None:
    code = "import os\nassert 'again' not in globals()\nos.kill(os.getpid(), 9)"
    with pytest.raises(DistributedError, match=r"process \d on .* was killed by SIGKILL, after 1 restarts"):
        run(job(code, tmp_path))
    begins = "from pathlib import Path\nif begun: Path(begun).touch()\n"
    ended, said, told = run(job(f"{begins}if 'again' not in globals(): raise SystemExit(1)\nprint('on')", tmp_path))
    assert ended == 0
    assert len(told) == 1
    assert ("stdout", "on\n") in said


@pytest.mark.slow
def test_a_crash_before_the_beginning_would_come_again(tmp_path: Path) -> None:
    with pytest.raises(DistributedError, match="has crashed with exit code 1, after 0 restarts"):
        run(job("raise SystemExit(1)", tmp_path))


@pytest.mark.slow
def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    waits = "import os, time\nprint('there', os.getpid(), flush=True)\ntime.sleep(600)"
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.ray.test_launch import job\n"
        "from clearppo.engines.launch import launch\n"
        f"launch(job({waits!r}, Path({str(tmp_path)!r})), tell=print, "
        "say=lambda _, line: print(line, end='', flush=True))"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ids = [int(process.stdout.readline().split()[-1]) for _ in range(2)]
    process.kill()
    process.wait()
    until = time.monotonic() + 40
    while any(Path(f"/proc/{number}").exists() for number in ids) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{number}").exists() for number in ids)


@pytest.mark.slow
def test_a_directory_that_the_machine_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no directory /nowhere on .* see the files of the run"):
        run(job("1", tmp_path, directory="/nowhere"))
    with pytest.raises(ConfigError, match=r"90 processes with 1 CPU each are asked for, .* 1 machine with [2-9]"):
        run(job("1", tmp_path, processes=90))


SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("ValueError: told to", flush=True)
            os._exit(9)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
ASKS = """
import os, time, urllib.request

def ask(path):
    for _ in range(200):
        try:
            return urllib.request.urlopen(os.environ["URLS"] + path, timeout=5).read()
        except OSError:
            if path == "/die":
                return b""
            time.sleep(0.1)

before = ask("/")
ask("/die")
print(before != ask("/"), flush=True)
"""


def servers(code: str, *arguments: str) -> Servers:
    return Servers(
        count=1, cpus=1, gpus=1, variable="URLS", patience=60.0, reason=lambda log: log.strip().splitlines()[-1],
        command=lambda host, port, gpus: (["python", "-c", code, host, str(port), *arguments], {}),
    )  # fmt: skip


@pytest.mark.slow
def test_a_server_that_ends_is_started_again_where_it_was(tmp_path: Path) -> None:
    ended, said, told = run(job(ASKS, tmp_path, processes=1, servers=servers(SERVER)))
    assert ended == 0
    assert said == [("stdout", "True\n")]
    assert told[0] == "1 engine is starting"
    assert told[1].endswith("has ended with exit code 9: it is started again (1 of 1)")


@pytest.mark.slow
def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    fails = "import sys; sys.exit('OSError: no such model')"
    with pytest.raises(DistributedError, match=r"engine 1 on .* exit code 1 before it was ready: OSError: no such mod"):
        run(job("1", tmp_path, processes=1, servers=servers(fails)))
