"""What trackers wrote, read back with their own packages: metrics, options, tables; after a kill, and after going back.

TensorBoard is among the development tools; the others are tested where they are installed (docs/trackers.md).
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clearppo.build.tracking import make_trackers
from clearppo.config import PPOConfig, TrackingConfig, load_config
from clearppo.errors import ConfigError
from clearppo.train.tracking import Trackers
from tests.wandb_file import config_of, history, run_of

LEAST: dict[str, Any] = {"model_name_or_path": "m", "dataset_name": "d", "reward_funcs": "a.py:f"}
ROWS = [["a | b\nc 👍", 1.5], ["", math.nan]]


def run(
    trackers: Trackers, steps: range, *, scale: float = 1.0, notes: list[str] | None = None, **options: Any
) -> None:
    """A run that takes these steps: kl is the step times `scale`; and one table, at the last step."""
    config = load_config(PPOConfig, flags={**LEAST, "output_dir": "runs/first", **options})
    with trackers.running(config, note=(notes if notes is not None else []).append):
        if steps[0] == 1:
            trackers.metrics(0, {"eval/score": 0.5})  # the start model, measured before the first step
        for step in steps:
            trackers.metrics(step, {"objective/kl": scale * step, "loss/value_avg": math.nan, "time/learning": 0.25})
        trackers.table("samples", steps[-1], ("completion", "score"), ROWS)


def made(name: str, place: Path, **more: Any) -> Trackers:
    return make_trackers(TrackingConfig(report_to=[name], tracking_dir=str(place), **more), "runs/first")


def events(place: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def texts(read: Any, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in read.Tensors(f"{tag}/text_summary")]


def test_tensorboard_event_files(quiet_trackers: Path) -> None:
    pytest.importorskip("tensorboard")
    notes: list[str] = []
    run(made("tensorboard", quiet_trackers), range(1, 6), notes=notes, kl_coef=0.07)
    (place,) = (quiet_trackers / "tensorboard").iterdir()
    assert notes == [f"tracker tensorboard: tensorboard --logdir {place}"]
    assert place.name.startswith("runs-first-")
    read = events(place)
    assert sorted(read.Tags()["scalars"]) == ["eval/score", "loss/value_avg", "objective/kl", "time/learning"]
    assert [(event.step, event.value) for event in read.Scalars("eval/score")] == [(0, 0.5)]
    assert [(event.step, event.value) for event in read.Scalars("objective/kl")] == [(s, float(s)) for s in range(1, 6)]
    assert all(math.isnan(event.value) for event in read.Scalars("loss/value_avg"))
    assert "kl_coef: 0.07" in texts(read, "run/config")[0]
    (table,) = texts(read, "samples")
    assert table == "| completion | score |\n| --- | --- |\n| a \\| b ⏎ c 👍 | 1.5 |\n|  | nan |"


def test_tensorboard_shows_the_steps_after_a_checkpoint_once(quiet_trackers: Path) -> None:
    """Killed after step 5, with a checkpoint of step 3: the new steps 4 and 5 replace the old ones."""
    pytest.importorskip("tensorboard")
    first = made("tensorboard", quiet_trackers)
    run(first, range(1, 6))
    second = made("tensorboard", quiet_trackers)
    second.load_state({**first.state(), "step": 3})
    run(second, range(4, 8), scale=10.0)
    (place,) = (quiet_trackers / "tensorboard").iterdir()
    shown = [(event.step, event.value) for event in events(place).Scalars("objective/kl")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0)]


def test_tensorboard_shows_the_steps_of_a_rollback_once(quiet_trackers: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = made("tensorboard", quiet_trackers)
    with trackers.running(load_config(PPOConfig, flags={**LEAST, "output_dir": "runs/first"}), note=lambda text: None):
        for step, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
            trackers.metrics(step, {"lr": value})
            if step == 1:
                state = trackers.state()
        trackers.load_state(state)
        trackers.metrics(2, {"lr": 20.0})
    (place,) = (quiet_trackers / "tensorboard").iterdir()
    assert [(event.step, event.value) for event in events(place).Scalars("lr")] == [(1, 1.0), (2, 20.0)]


def test_tensorboard_without_a_directory_writes_beside_the_run(quiet_trackers: Path) -> None:
    pytest.importorskip("tensorboard")
    run(make_trackers(TrackingConfig(report_to=["tensorboard"]), str(quiet_trackers / "runs" / "one")), range(1, 3))
    assert len(events(quiet_trackers / "runs" / "one" / "tensorboard").Scalars("objective/kl")) == 2


STORES = {"sqlite": "sqlite:///{}/own.db", "files": "file://{}/mlruns", "directory": None}


@pytest.mark.parametrize("store", STORES)
def test_mlflow_stores(store: str, quiet_trackers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of the user's in SQLite or files, and the one in tracking_dir; then the run goes on after a kill."""
    mlflow = pytest.importorskip("mlflow")
    uri = STORES[store]
    quiet_trackers.mkdir()
    if uri is None:
        uri = f"sqlite:///{quiet_trackers}/mlflow.db"
    else:
        uri = uri.format(quiet_trackers)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri(None)
    place = str(quiet_trackers) if store == "directory" else None
    options = TrackingConfig(report_to=["mlflow"], tracking_dir=place, run_name="the first", tracking_project="tests é")
    first = make_trackers(options, "runs/first")
    run(first, range(1, 6), kl_coef=0.07)
    second = make_trackers(options, "runs/first")
    second.load_state({**first.state(), "step": 3})
    notes: list[str] = []
    run(second, range(4, 8), notes=notes, kl_coef=0.07)
    assert notes == [f"tracker mlflow: mlflow ui --backend-store-uri {uri}"]

    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tests é")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "the first"
    assert found.info.status == "FINISHED"
    assert found.data.params["kl_coef"] == "0.07"
    assert found.data.params["reward_funcs"] == '["a.py:f"]'
    kl = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "objective/kl")]
    assert kl == [(step, float(step)) for step in range(1, 8)], "what it had is not written again"
    assert [m.step for m in client.get_metric_history(found.info.run_id, "eval/score")] == [0]
    assert math.isnan(client.get_metric_history(found.info.run_id, "loss/value_avg")[0].value)
    artifacts = Path(found.info.artifact_uri.removeprefix("file://"))
    assert "kl_coef: 0.07" in (artifacts / "config.yaml").read_text()
    assert json.loads((artifacts / "samples" / "step-5.json").read_text()) == {
        "columns": ["completion", "score"],
        "data": [["a | b\nc 👍", 1.5], ["", None]],
    }


def test_an_mlflow_run_says_how_it_ended(quiet_trackers: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    trackers = made("mlflow", quiet_trackers)
    config = load_config(PPOConfig, flags={**LEAST, "output_dir": "runs/first"})
    with pytest.raises(ZeroDivisionError), trackers.running(config, note=lambda text: None):
        raise ZeroDivisionError
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{quiet_trackers}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("clearppo").experiment_id])
    assert found.info.status == "FAILED"


def test_wandb_offline(quiet_trackers: Path) -> None:
    """Nobody is logged in, so the run is kept offline, and nobody is asked for a key."""
    pytest.importorskip("wandb")
    notes: list[str] = []
    trackers = made("wandb", quiet_trackers, run_name="the first", tracking_project="tests")
    run(trackers, range(1, 6), notes=notes, kl_coef=0.07)
    (file,) = quiet_trackers.glob("wandb/offline-run-*/*.wandb")
    assert notes == [
        f"tracker wandb: not logged in (wandb login), so kept offline; send it with: wandb sync {file.parent}"
    ]
    began = run_of(file)
    assert (began.run_id, began.display_name, began.project) == (trackers.state()["key"], "the first", "tests")
    assert began.job_type == "ppo"
    rows = history(file)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0]["eval/score"] == 0.5
    assert [row["objective/kl"] for row in rows[1:]] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert rows[5]["samples/_type"] == "table-file"
    (table,) = file.parent.glob("files/media/table/samples_*.table.json")
    assert json.loads(table.read_text())["columns"] == ["completion", "score"]
    assert json.loads(table.read_text())["data"][0] == ["a | b\nc 👍", 1.5]
    assert config_of(file)["kl_coef"] == 0.07


def test_wandb_goes_on_with_the_same_run(quiet_trackers: Path) -> None:
    pytest.importorskip("wandb")
    first = made("wandb", quiet_trackers)
    run(first, range(1, 4))
    second = made("wandb", quiet_trackers)
    second.load_state({**first.state(), "step": 2})
    run(second, range(3, 5))
    files = list(quiet_trackers.glob("wandb/offline-run-*/*.wandb"))
    assert {run_of(file).run_id for file in files} == {first.state()["key"]}
    assert sorted(row["step"] for file in files for row in history(file)) == [0, 1, 2, 3, 3, 4]


def test_wandb_that_cannot_reach_its_server_ends_in_time(quiet_trackers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logged in, and nothing listens: the run goes on and ends; in a process of its own, whose end counts too."""
    pytest.importorskip("wandb")
    code = (
        "import time; from tests.train.test_trackers_read_back import *\n"
        "began = time.monotonic(); notes = []; trackers = made('wandb', Path('here'))\n"
        "trackers._last_wait = 1.0\n"
        "run(trackers, range(1, 4), notes=notes); print(round(time.monotonic() - began), notes)\n"
    )
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "x" * 40}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "tracker wandb is not ready in time, and " in done.stdout
    assert int(done.stdout.split()[0]) <= 3


def test_trackio(quiet_trackers: Path, trackio_directory: Path) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    options = TrackingConfig(report_to=["trackio"], run_name="the first", tracking_project="tests-é")
    first = make_trackers(options, "runs/first")
    run(first, range(1, 6), kl_coef=0.07)
    second = make_trackers(options, "runs/first")
    second.load_state({**first.state(), "step": 3})
    run(second, range(4, 8), kl_coef=0.07)
    (name,) = SQLiteStorage.get_runs("tests-é")
    assert name == f"the first-{first.state()['key'][:4]}"
    rows = SQLiteStorage.get_logs("tests-é", name)
    assert [(row["step"], row["objective/kl"]) for row in rows if "objective/kl" in row] == [
        (step, float(step)) for step in range(1, 8)
    ]
    table = next(row["samples"] for row in rows if "samples" in row)
    assert table["_value"][0] == {"completion": "a | b\nc 👍", "score": 1.5}
    config = SQLiteStorage.get_run_config("tests-é", name)
    assert config is not None
    assert config["kl_coef"] == 0.07
    assert (trackio_directory / "tests-é.db").exists()


def test_trackio_cannot_move_within_a_process(quiet_trackers: Path) -> None:
    pytest.importorskip("trackio")
    make_trackers(TrackingConfig(report_to=["trackio"]), "runs/first")
    with pytest.raises(ConfigError, match="Use the same --tracking_dir for all runs of a process"):
        made("trackio", quiet_trackers / "elsewhere")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_training_draws_the_same_numbers_with_a_tracker(name: str, quiet_trackers: Path) -> None:
    """In a process of its own: packages draw while they are imported (Trackio does), and beartype while it checks."""
    pytest.importorskip(name)
    code = (
        "import random, torch, numpy as np\n"
        "from clearppo.build.tracking import make_trackers\n"
        "from clearppo.config import PPOConfig, TrackingConfig, load_config\n"
        "before = str(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist()\n"
        f"trackers = make_trackers(TrackingConfig(report_to=['{name}'], tracking_dir='here'), 'runs/first')\n"
        f"config = load_config(PPOConfig, flags={{**{LEAST!r}, 'output_dir': 'runs/first'}})\n"
        "with trackers.running(config, note=print):\n"
        "    for step in (1, 2, 3): trackers.metrics(step, {'lr': 1.0})\n"
        "    trackers.table('samples', 3, ('a',), [['b']])\n"
        "after = str(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist()\n"
        "print('the same' if before == after else 'another')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert "the same" in done.stdout


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearppo.build.tracking.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        make_trackers(TrackingConfig(report_to=["mlflow"]), "runs/first")
    assert str(caught.value) == (
        "report_to = mlflow, and the package mlflow is not installed. Install it with pip install 'clearppo[mlflow]', "
        "or leave mlflow out of --report_to."
    )


def test_a_package_that_cannot_be_imported_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearppo.build.tracking.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"the package wandb cannot be imported \(.*\)\. Install it anew with pip"):
        make_trackers(TrackingConfig(report_to=["wandb"]), "runs/first")


def test_the_name_is_the_last_two_parts_of_output_dir() -> None:
    def name(output_dir: str, **more: Any) -> str:
        return make_trackers(TrackingConfig(**more), output_dir)._name

    assert name("runs/rlhf/ppo") == "rlhf/ppo"
    assert name("/data/somebody/runs/first") == "runs/first"
    assert name("first") == "first"
    assert name("/first") == "first"
