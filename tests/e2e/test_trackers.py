"""Whole runs that report to trackers: they are told what the run's own files say, and change nothing of it."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import clearppo as library
from tests.train.test_trackers_read_back import events, texts
from tests.wandb_file import history, run_of

Options = dict[str, Any]
Command = Callable[..., tuple[int, str, str]]
ALL = [name for name in ("tensorboard", "wandb", "trackio", "mlflow") if find_spec(name)]


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def told(place: Path) -> dict[int, dict[str, float]]:
    """What TensorBoard was told, by step."""
    found, seen = events(place), dict[int, dict[str, float]]()
    for name in found.Tags()["scalars"]:
        for event in found.Scalars(name):
            seen.setdefault(event.step, {})[name] = event.value
    return seen


def says_the_same(output: Path, place: Path) -> None:
    """TensorBoard has every number of metrics.jsonl, as float32, and the times beside them."""
    rows, seen = read(output / "metrics.jsonl"), told(place)
    assert list(seen) == [row["step"] for row in rows]
    for row in rows:
        numbers = {name: value for name, value in row.items() if name != "step"}
        assert {name: seen[row["step"]][name] for name in numbers} == pytest.approx(numbers, rel=1e-6, nan_ok=True)
        assert any(name.startswith("time/") for name in seen[row["step"]])


@pytest.fixture
def demonstrations(tmp_path: Path) -> str:
    rows = [{"prompt": f"The film {i} was", "completion": " good."} for i in range(12)]
    return lines(tmp_path / "demonstrations.jsonl", rows)


@pytest.fixture
def comparisons(tmp_path: Path) -> str:
    rows = [{"prompt": f"The film {i} was", "chosen": " good", "rejected": " dull"} for i in range(24)]
    return lines(tmp_path / "comparisons.jsonl", rows)


@pytest.fixture
def small(model: str) -> Options:
    return {"model_name_or_path": model, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "bf16": False}


def test_ppo_reports_to_tensorboard(files: Options, clearppo: Command, quiet_trackers: Path) -> None:
    pytest.importorskip("tensorboard")
    code, out, error = clearppo("ppo", {**files, "report_to": "tensorboard", "sample_steps": 2, "logging_steps": 3})
    assert (code, error) == (0, "")
    output = Path(files["output_dir"])
    place = output / "tensorboard"
    assert f"tracker tensorboard: tensorboard --logdir {place}" in out.replace("\n", "")
    says_the_same(output, place)  # every iteration, whatever logging_steps says of the screen
    shown = events(place).Tensors("samples/text_summary")
    assert [event.step for event in shown] == [1, 2]
    sample = read(output / "samples.jsonl")[0]
    first = texts(events(place), "samples")[0].splitlines()[2]
    assert first.startswith(f"| {sample['prompt']} |")
    assert texts(events(place), "run/config")[0] == f"```yaml\n{(output / 'config.yaml').read_text()}```"
    assert "maximise" in texts(events(place), "run/about")[0]


def test_sft_and_reward_report_to_tensorboard(
    small: Options, demonstrations: str, comparisons: str, tmp_path: Path, quiet_trackers: Path
) -> None:
    pytest.importorskip("tensorboard")
    shared = {**small, "report_to": ["tensorboard"], "tracking_dir": str(tmp_path / "tracked")}
    library.sft(**shared, dataset_name=demonstrations, output_dir=str(tmp_path / "a" / "sft"), num_train_epochs=2)
    library.reward(**shared, dataset_name=comparisons, output_dir=str(tmp_path / "a" / "reward"), eval_fraction=0.5)
    for step in ("sft", "reward"):
        (place,) = (tmp_path / "tracked" / "tensorboard").glob(f"a-{step}-*")
        says_the_same(tmp_path / "a" / step, place)
    (report,) = texts(events(place), "reward_report")
    assert "accuracy" in report


def test_a_pipeline_reports_every_step(
    small: Options, files: Options, demonstrations: str, comparisons: str, tmp_path: Path, quiet_trackers: Path
) -> None:
    pytest.importorskip("tensorboard")
    steps: dict[str, Options] = {
        "sft": {"max_steps": 2, "batch_size": 4},
        "reward": {"max_steps": 2, "batch_size": 4, "eval_fraction": 0.0, "report_to": None},
        "ppo": {"total_episodes": 8, "batch_size": 4, "response_length": 4, "run_name": "mine"},
    }
    options = {
        "model_name_or_path": small["model_name_or_path"],
        "device": "cpu",
        "demonstrations": demonstrations,
        "comparisons": comparisons,
        "prompts": files["dataset_name"],
        "output_dir": str(tmp_path / "rlhf"),
        "report_to": ["tensorboard"],
        "tracking_dir": str(tmp_path / "tracked"),
    }
    made = library.rlhf(**options, steps=steps)
    assert [step.kept for step in made] == [False, False, False]
    names = sorted(place.name[:-5] for place in (tmp_path / "tracked" / "tensorboard").iterdir())
    assert names == ["mine", "rlhf-sft"], "a step may have its own, or none"
    del options["report_to"], options["tracking_dir"], steps["ppo"]["run_name"]
    again = library.rlhf(**options, steps=steps)
    assert all(step.kept for step in again), "whom a run is reported to does not say what it makes"


@pytest.mark.parametrize("name", ALL)
def test_a_tracker_changes_nothing_of_a_run(name: str, files: Options, quiet_trackers: Path, tmp_path: Path) -> None:
    del files["reward_funcs"]
    outputs = [tmp_path / "without", tmp_path / "with"]
    for output, more in zip(outputs, ({}, {"report_to": [name]}), strict=True):
        library.ppo(**{**files, "output_dir": str(output), "seed": 1, **more}, reward_funcs=[drawing])
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (outputs[0] / file).read_bytes() == (outputs[1] / file).read_bytes()
    one, other = (load_file(output / "model.safetensors") for output in outputs)
    assert all(one[tensor].equal(other[tensor]) for tensor in one)


def drawing(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """A reward that draws from torch's global generator, as users' do."""
    import torch

    return [text.count("e") + float(torch.rand(())) for text in completions]


@pytest.mark.skipif(len(ALL) < 2, reason="needs more than one tracker")
def test_several_at_once(files: Options, clearppo: Command, quiet_trackers: Path, tmp_path: Path) -> None:
    flags = {**files, "report_to": ",".join(ALL), "run_name": "all of them"}
    code, _, error = clearppo("ppo", flags)
    assert (code, error) == (0, "")
    rows = read(Path(files["output_dir"]) / "metrics.jsonl")
    kl = [row["objective/kl"] for row in rows]
    says_the_same(Path(files["output_dir"]), Path(files["output_dir"]) / "tensorboard")
    if "wandb" in ALL:
        (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        assert [row["objective/kl"] for row in history(file)] == kl
    if "mlflow" in ALL:
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("clearppo").experiment_id])
        assert [m.value for m in client.get_metric_history(run.info.run_id, "objective/kl")] == kl
    if "trackio" in ALL:
        from trackio.sqlite_storage import SQLiteStorage

        name = next(name for name in SQLiteStorage.get_runs("clearppo") if name.startswith("all of them-"))
        rows = [row for row in SQLiteStorage.get_logs("clearppo", name) if "objective/kl" in row]
        assert [row["objective/kl"] for row in rows] == kl


def test_a_tracker_that_breaks_ends_no_run(
    files: Options, clearppo: Command, quiet_trackers: Path, tmp_path: Path
) -> None:
    """Its directory cannot be written: one note, and the run is whole."""
    pytest.importorskip("tensorboard")
    (tmp_path / "a file").write_text("")
    code, out, error = clearppo("ppo", {**files, "report_to": "tensorboard", "tracking_dir": str(tmp_path / "a file")})
    assert (code, error) == (0, "")
    assert out.count("tracker tensorboard is switched off for the rest of the run (") == 1
    assert len(read(Path(files["output_dir"]) / "metrics.jsonl")) == 3
    assert (Path(files["output_dir"]) / "model.safetensors").is_file()


@pytest.mark.parametrize("command", ["ppo", "sft", "reward"])
def test_one_that_is_not_installed_is_said_before_anything_is_made(
    command: str,
    files: Options,
    small: Options,
    demonstrations: str,
    comparisons: str,
    clearppo: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clearppo.build.tracking.find_spec", lambda name: None)
    data = {"sft": demonstrations, "reward": comparisons, "ppo": files["dataset_name"]}[command]
    flags = files if command == "ppo" else {**small, "output_dir": files["output_dir"], "bf16": "false"}
    code, _, error = clearppo(command, {**flags, "dataset_name": data, "report_to": "wandb"})
    assert code == 2
    assert "report_to = wandb, and the package wandb is not installed. Install it with pip install" in error
    assert not Path(files["output_dir"]).exists()


def test_a_run_that_goes_on_is_the_same_run_to_each(
    files: Options, clearppo: Command, quiet_trackers: Path, tmp_path: Path
) -> None:
    """Its reward function breaks in the third iteration; then it is mended, and the run goes on."""
    pytest.importorskip("tensorboard")
    broken = tmp_path / "broken"
    (tmp_path / "reward.py").write_text(
        "import pathlib\n"
        "calls = []\n"
        "def score(prompts, completions, **columns):\n"
        f"    calls.append(1)\n    if pathlib.Path({str(broken)!r}).exists() and len(calls) > 2:\n"
        "        raise OSError('the disk is gone')\n"
        "    return [float(completion.count('e')) for completion in completions]\n"
    )
    flags = {**files, "report_to": ",".join(ALL), "run_name": "in two parts", "save_steps": 1}
    broken.touch()
    code, _, error = clearppo("ppo", flags)
    assert code == 2
    assert "the disk is gone" in error
    output = Path(files["output_dir"])
    assert [row["step"] for row in read(output / "metrics.jsonl")] == [1, 2]
    broken.unlink()
    code, _, error = clearppo("ppo", {**flags, "resume_from_checkpoint": "auto"})
    assert (code, error) == (0, "")
    says_the_same(output, output / "tensorboard")
    assert len(events(output / "tensorboard").Scalars("objective/kl")) == 3
    if "mlflow" in ALL:
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("clearppo").experiment_id])
        assert run.info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run.info.run_id, "objective/kl")] == [1, 2, 3]
    if "wandb" in ALL:
        logs = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        assert len({run_of(log).run_id for log in logs}) == 1
        assert sorted(row["step"] for log in logs for row in history(log)) == [1, 2, 3]
    if "trackio" in ALL:
        from trackio.sqlite_storage import SQLiteStorage

        (name,) = [name for name in SQLiteStorage.get_runs("clearppo") if name.startswith("in two parts-")]
        steps = [row["step"] for row in SQLiteStorage.get_logs("clearppo", name) if "objective/kl" in row]
        assert steps == [1, 2, 3]
