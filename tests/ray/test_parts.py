"""What `--launch ray` can be asked without a cluster: options, environments, room, and every mistake about them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clearppo
from clearppo.build.launch import starts_others
from clearppo.cli.launching import launch_elsewhere, launch_pipeline
from clearppo.config import PPOConfig, load_config, load_pipeline
from clearppo.engines import launch as ray_launch
from clearppo.engines.cluster import Place, fits, joined
from clearppo.engines.environment import LAUNCHED, place
from clearppo.engines.launch import Job, Member, environments, exit_code, in_order
from clearppo.errors import ConfigError

NEEDED = {"model_name_or_path": "m", "dataset_name": "p.jsonl", "reward_funcs": "r.py:f", "output_dir": "out"}
RAY = {**NEEDED, "launch": "ray", "num_processes": "3"}


@pytest.fixture(autouse=True)
def _nobody_has_started_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS", LAUNCHED):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that would be run."""
    jobs: list[Job] = []

    def run(job: Job, **_: Any) -> int:
        jobs.append(job)
        return 7

    monkeypatch.setattr(ray_launch, "launch", run)
    return jobs


def test_the_same_command_is_started(started: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("OTHER", "o")
    flags = {
        **RAY, "reward_funcs": ["a.py:f", "b.py:g"], "reward_auth_env": "SECRET", "reward_urls": "http://x",
        "stop_strings": ["\n", "--x"], "overwrite_output_dir": "true", "device": "cpu", "cpus_per_process": "4",
    }  # fmt: skip
    config = load_config(PPOConfig, flags=flags)
    with pytest.raises(SystemExit) as ended:
        launch_elsewhere(config, "article", Path("c.yaml"), flags)
    assert ended.value.code == 7
    (job,) = started
    assert job.words[:5] == ["-m", "clearppo", "ppo", "--recipe=article", "--config=c.yaml"]
    assert '--stop_strings=["\\n", "--x"]' in job.words
    assert "--reward_funcs=a.py:f,b.py:g" in job.words
    assert (job.processes, job.cpus, job.gpus, job.max_restarts) == (3, 4, 0, 3)
    assert Path(job.begun) == Path("out/started.json").absolute()
    assert "--overwrite_output_dir=true" in job.words
    assert {"--overwrite_output_dir=false", "--resume_from_checkpoint=auto"} <= set(job.again)
    assert job.environment["HF_HOME"] == "/models"
    assert job.environment["SECRET"] == "s"
    assert "OTHER" not in job.environment
    assert load_config(PPOConfig, flags=flags) == config  # what is typed again means the same


def test_a_pipeline_is_started_whole(started: list[Job], tmp_path: Path) -> None:
    flags = {
        "model_name_or_path": "m", "prompts": "p.jsonl", "comparisons": "c.jsonl", "output_dir": str(tmp_path),
        "launch": "ray", "num_processes": "2", "ppo.kl_coef": "0.1",
    }  # fmt: skip
    pipeline = load_pipeline(flags=flags)
    with pytest.raises(SystemExit):
        launch_pipeline(pipeline, None, None, flags)
    assert started[0].words == started[0].again
    assert "--ppo.kl_coef=0.1" in started[0].words
    assert started[0].begun == str(tmp_path / "pipeline.json")
    with pytest.raises(ConfigError, match=r"launch of step ppo follows from the pipeline"):
        load_pipeline(flags={**flags, "ppo.launch": "ray"})


def test_who_starts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not starts_others("here")
    assert starts_others("ray")
    monkeypatch.setenv(LAUNCHED, "ray")
    assert not starts_others("ray")
    monkeypatch.delenv(LAUNCHED)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"launch = ray starts .* RANK = 1 in the environment says that torchrun"):
        starts_others("ray")


def test_options_that_say_nothing() -> None:
    with pytest.raises(ConfigError, match=r"num_processes = 2 has no effect because launch = here.*--launch ray"):
        load_config(PPOConfig, flags={**NEEDED, "num_processes": "2"})
    with pytest.raises(ConfigError, match=r"launch = ray is for the command line"):
        clearppo.ppo(**dict[str, Any](RAY))
    with pytest.raises(ConfigError, match=r"launch = ray is for the command line"):
        clearppo.rlhf(
            model_name_or_path="m", prompts="p.jsonl", comparisons="c.jsonl", output_dir="o", launch="ray"
        )  # fmt: skip


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_of_this_machine(device: str, started: list[Job]) -> None:
    config = load_config(PPOConfig, flags={**RAY, "device": device})
    with pytest.raises(ConfigError, match=rf"device = {device} names a device of this machine"):
        launch_elsewhere(config, None, None, RAY)
    assert started == []


def test_ray_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs the package ray.*pip install 'clearppo\[ray\]'"), joined(None):
        pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "cannot be reached"),
        ("nowhere.invalid:6379", "cannot be reached"),
        ("ray://head:10001", "is no address of a cluster"),
        ("head", "is no address of a cluster"),
        ("head:0", "is no address of a cluster"),
    ],
)
def test_addresses(address: str, said: str) -> None:
    pytest.importorskip("ray", reason="pip install 'clearppo[ray]'")
    with pytest.raises(ConfigError, match=f"ray_address = {address} {said}"), joined(address):
        pass


def spot(node: str, gpu: str) -> Place:
    return Place(actor=None, node=node, address=f"10.0.0.{node}", gpus={"CUDA_VISIBLE_DEVICES": gpu})


def test_what_torchrun_would_have_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines, three GPUs, as Ray happens to give them."""
    spots = in_order([spot("2", "1"), spot("1", "0"), spot("2", "0")])
    found = list(environments(spots, 1234))
    assert [spot.node for spot in spots] == ["2", "2", "1"]
    assert {env["MASTER_ADDR"] for env in found} == {"10.0.0.2"}
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["0,1", "0,1", "0"]
    names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_PORT")
    assert [tuple(env[name] for name in names) for env in found] == [
        ("0", "0", "2", "0", "3", "2", "1234"), ("1", "1", "2", "0", "3", "2", "1234"),
        ("2", "0", "1", "1", "3", "2", "1234"),
    ]  # fmt: skip
    for env in found:  # as our own reader takes it
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert place().rank == int(env["RANK"])
    (alone,) = environments([spot("1", "3")], 1)
    assert (alone["MASTER_ADDR"], alone["WORLD_SIZE"]) == ("127.0.0.1", "1")


def test_room() -> None:
    one, two = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}
    assert fits([one] * 4, [{"CPU": 3}, {"CPU": 1}])
    assert not fits([{"CPU": 2.0}] * 2, [{"CPU": 3}, {"CPU": 1}])  # enough in sum, and nowhere
    assert fits([one, two], [{"CPU": 1, "GPU": 1}, {"CPU": 1}])  # who needs a GPU comes first
    assert not fits([two], [{"CPU": 8}])


@pytest.mark.parametrize(
    ("codes", "whole", "crashed"),
    [([0, 0], 0, 0), ([3, 3], 3, 0), ([0, 2], 2, 0), ([3, -9], 3, 1), ([None, 3], 3, 1), ([130, 130], 130, 0)],
)
def test_exit_codes(codes: list[int | None], whole: int, crashed: int) -> None:
    members = [Member(rank, spot("1", ""), code=code, over=True) for rank, code in enumerate(codes)]
    assert exit_code(members) == whole
    assert sum(member.crashed for member in members) == crashed


def test_one_process_imports_nothing_of_this() -> None:
    code = (
        "import sys, clearppo.cli.ppo, clearppo.cli.rlhf, clearppo.api, clearppo.build.ppo\n"
        "ours = [f'clearppo.engines.{name}' for name in ('cluster', 'host', 'launch', 'signals', 'tether')]\n"
        "print([name for name in ('ray', *ours) if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
