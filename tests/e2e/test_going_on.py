"""A run that is stopped, and goes on, through the command line."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.e2e

# It draws from a global generator, but not from Python's own: beartype, which checks types in tests, draws from that.
STOPS = """
import os
from pathlib import Path
import numpy
calls = Path(__file__).with_name("calls")
def score(prompts, completions, tag, **columns):
    n = int(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text(str(n))
    if n == {at}:
        os.kill(os.getpid(), {number})
    return [completion.count("e") + numpy.random.random() for completion in completions]
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would a run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stopping(files: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`stopping(at, signal)`: a run of 4 iterations that gets this signal while it scores for the at-th time."""

    def options(at: int, number: int = signal.SIGTERM, name: str = "run") -> dict[str, Any]:
        folder = tmp_path / f"{name}_reward"
        folder.mkdir()
        (folder / "reward.py").write_text(STOPS.format(at=at, number=int(number)))
        return {
            **files,
            "reward_funcs": f"{folder / 'reward.py'}:score",
            "output_dir": str(tmp_path / name),
            "total_episodes": "32",
            "save_steps": "1",
        }

    return options


def results(path: str) -> dict[str, bytes]:
    """What a run left, but for its clock, its checkpoints, and the config, which names a place."""
    skipped = ("timings.jsonl", "plan.json", "config.yaml", "README.md")
    files = [file for file in Path(path).rglob("*") if file.is_file() and file.name not in skipped]
    return {name: file.read_bytes() for file in files if "checkpoint-" not in (name := str(file.relative_to(path)))}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on_to_the_very_same_end(
    number: int, code: int, stopping: Callable[..., dict[str, Any]], clearppo: Run
) -> None:
    whole, broken = stopping(0, name="whole"), stopping(3, number)
    assert clearppo("ppo", whole)[0] == 0
    done, out, err = clearppo("ppo", broken)
    assert done == code, err
    assert "Traceback" not in err
    assert "interrupted; checkpoint-2 is written: go on with --resume_from_checkpoint auto" in err
    assert len((Path(broken["output_dir"]) / "metrics.jsonl").read_text().splitlines()) == 2
    assert clearppo("ppo", broken)[0] == 2  # without asking for it
    done, out, err = clearppo("ppo", broken, "--resume_from_checkpoint", "auto")
    assert done == 0, err
    assert results(broken["output_dir"]) == results(whole["output_dir"])
    done, out, err = clearppo("ppo", broken, "--resume_from_checkpoint", "auto")
    assert done == 0, err
    assert "is finished" in out
    assert results(broken["output_dir"]) == results(whole["output_dir"])


def test_changed_options_are_refused_unless_allowed(stopping: Callable[..., dict[str, Any]], clearppo: Run) -> None:
    options = stopping(3)
    assert clearppo("ppo", options)[0] == 143
    changed = {**options, "kl_coef": "0.1", "resume_from_checkpoint": "auto"}
    before = results(options["output_dir"])
    done, _, err = clearppo("ppo", changed)
    assert done == 2
    assert "kl_coef was 0.05, is 0.1" in err
    assert results(options["output_dir"]) == before
    assert os.listdir(options["output_dir"]).count("checkpoint-2") == 1
    done, out, err = clearppo("ppo", changed, "--allow_changed_options")
    assert done == 0, err
    assert "goes on with other options, as allowed: kl_coef was 0.05, is 0.1" in " ".join(out.split())
    rows = [json.loads(line) for line in (Path(options["output_dir"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    stopping: Callable[..., dict[str, Any]], clearppo: Run
) -> None:
    whole, broken = stopping(0, name="whole"), stopping(4)
    assert clearppo("ppo", whole)[0] == 0
    assert clearppo("ppo", broken)[0] == 143
    weights = Path(broken["output_dir"]) / "checkpoint-3" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 4
    weights.write_bytes(data)
    given = str(weights.parent)
    done, _, err = clearppo("ppo", broken, "--resume_from_checkpoint", given)
    assert done == 2
    assert "is damaged: model.safetensors is not what was written" in err
    done, out, err = clearppo("ppo", broken, "--resume_from_checkpoint", "auto")
    assert done == 0, err
    assert "checkpoint-3 is damaged and passed over: model.safetensors is not what was written" in " ".join(out.split())
    assert results(broken["output_dir"]) == results(whole["output_dir"])


def test_a_finished_run_is_made_longer_as_if_it_had_been_longer_from_the_start(
    stopping: Callable[..., dict[str, Any]], clearppo: Run
) -> None:
    constant = {"lr_scheduler_type": "constant"}
    short, long = ({**stopping(0, name=name), **constant} for name in ("short", "long"))
    assert clearppo("ppo", {**short, "total_episodes": "16"})[0] == 0
    assert clearppo("ppo", long)[0] == 0
    linear = {**short, "lr_scheduler_type": "linear"}
    assert clearppo("ppo", linear, "--resume_from_checkpoint", "auto")[0] == 2
    done, out, err = clearppo("ppo", short, "--resume_from_checkpoint", "auto")
    assert done == 0, err
    assert "total_episodes was 16, is 32" in out
    assert results(short["output_dir"]) == results(long["output_dir"])


def test_it_goes_on_in_another_directory_from_an_earlier_checkpoint(
    stopping: Callable[..., dict[str, Any]], clearppo: Run, tmp_path: Path
) -> None:
    first = stopping(0)
    first["save_total_limit"] = "none"
    assert clearppo("ppo", first)[0] == 0
    before = results(first["output_dir"])
    branch = {**first, "output_dir": str(tmp_path / "branch")}
    done, _, err = clearppo("ppo", branch, "--resume_from_checkpoint", f"{first['output_dir']}/checkpoint-1")
    assert done == 0, err
    assert results(branch["output_dir"]) == before == results(first["output_dir"])
    done, _, err = clearppo("ppo", first, "--resume_from_checkpoint", f"{first['output_dir']}/checkpoint-2")
    assert done == 0, err
    assert results(first["output_dir"]) == before  # what came after it was done anew


def test_a_deterministic_run_on_a_cpu(stopping: Callable[..., dict[str, Any]], clearppo: Run) -> None:
    plain, fixed = stopping(0, name="plain"), stopping(0, name="fixed")
    assert clearppo("ppo", plain)[0] == 0
    try:
        done, _, err = clearppo("ppo", fixed, "--deterministic")
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert done == 0, err
    assert results(fixed["output_dir"]) == results(plain["output_dir"])


@pytest.mark.parametrize("asked", ["auto", "checkpoint-3", ".", "reward.py"])
def test_where_there_is_nothing_to_go_on_from(asked: str, files: dict[str, Any], clearppo: Run, tmp_path: Path) -> None:
    given = asked if asked == "auto" else str(tmp_path / asked)
    done, out, err = clearppo("ppo", {**files, "total_episodes": "8"}, "--resume_from_checkpoint", given)
    if asked == "auto":
        assert done == 0, err
        assert "starts afresh" in out
        return
    assert done == 2
    assert "no directory" in err or "is no checkpoint" in err
    assert not (tmp_path / "run").exists()
