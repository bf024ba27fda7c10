"""Which runs are found, by which names, and in which state they are said to be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clearppo.errors import RunDirError
from clearppo.lock import is_locked, lock, unlock
from clearppo.ui.runs import Index, find_runs, last_step, open_index

CONFIG = (
    "# The resolved configuration of a run, written by ClearPPO 0.1.0.\n# Run it again: clearppo {kind} --config F\n"
)
RUN_SECTION = "run:\n  total_episodes: 10\n  batch_size: 4\n"


def make_run(path: Path, kind: str = "ppo", metrics: str = '{"step": 1}\n') -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(CONFIG.format(kind=kind) + RUN_SECTION)
    (path / "metrics.jsonl").write_text(metrics)
    return path


def ids(*folders: Path) -> dict[str, Path]:
    return {run.id: run.path for run in open_index(folders).runs()}


# --------------------------------------------------------------------------------------------- finding


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name, kind in (("a", "ppo"), ("chain/sft", "sft"), ("chain/reward", "reward")):
        make_run(tmp_path / name, kind)
    make_run(tmp_path / ".hidden")
    make_run(tmp_path / "a" / "checkpoint-3")  # a checkpoint has a config.yaml, too
    make_run(tmp_path / "prefs", "prefs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("name: somebody else's\n")
    assert ids(tmp_path) == {
        "a": tmp_path / "a", "chain~reward": tmp_path / "chain/reward", "chain~sft": tmp_path / "chain/sft"
    }  # fmt: skip
    kinds = {run.name: run.kind for run in open_index([tmp_path]).runs()}
    assert kinds == {"a": "ppo", "chain/sft": "sft", "chain/reward": "reward"}


def test_a_run_that_is_given_itself_is_called_by_its_name(tmp_path: Path) -> None:
    assert ids(make_run(tmp_path / "deep" / "mine")) == {"mine": tmp_path / "deep/mine"}


def test_several_folders_and_equal_names(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "x" / "ppo"), make_run(tmp_path / "y" / "ppo")
    assert ids(one, two) == {"ppo": one, "ppo-2": two}
    assert ids(one, one) == {"ppo": one}
    assert ids(tmp_path / "x", tmp_path / "y") == {"x~ppo": one, "y~ppo": two}
    assert ids(tmp_path, tmp_path / "x") == {tmp_path.name + "~x~ppo": one, tmp_path.name + "~y~ppo": two}


def test_no_deeper_than_it_says_and_through_no_link(tmp_path: Path) -> None:
    deep = make_run(tmp_path / "1/2/3/4/5")
    make_run(tmp_path / "1/2/3/4/5x/6")
    (tmp_path / "link").symlink_to(tmp_path / "1")
    assert list(find_runs(tmp_path)) == [deep]


def test_an_id_stays_while_runs_come_and_go(tmp_path: Path) -> None:
    make_run(tmp_path / "b")
    index = open_index([tmp_path])
    first = index.runs()[0]
    make_run(tmp_path / "a~c")
    make_run(tmp_path / "a" / "c")
    index._rest = 0  # a search is not repeated at once
    assert [run.id for run in index.runs()] == ["a~c", "a~c-2", "b"]
    assert index.get("b") == first
    (tmp_path / "b" / "config.yaml").unlink()
    index._rest = 0
    index.runs()
    assert index.get("b") is None


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"there is no run in .*Give the output_dir of a run: clearppo view RUN_DIR"):
        open_index([tmp_path])
    with pytest.raises(RunDirError, match="is not there"):
        open_index([tmp_path / "absent"])
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="is a file"):
        open_index([tmp_path / "file"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (tmp_path / "locked").mkdir(mode=0)
    assert list(find_runs(tmp_path)) == [run]


# --------------------------------------------------------------------------------------------- what is said of one

HOLDER = """
import sys, time
from pathlib import Path
from clearppo.lock import lock
lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_states(tmp_path: Path) -> None:
    run = open_index([make_run(tmp_path / "a")]).runs()[0]
    assert (run.state, run.step, run.n_steps) == ("stopped", 1, 3)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert run.state == "running"
        (run.path / "metrics.jsonl").write_text('{"step": 0, "eval/score": 1.0}\n')
        assert run.state == "waiting"
    finally:
        holder.kill()
        holder.wait()
    (run.path / "started.json").write_text('{"rounds": 5, "objective": "minimise all"}')
    assert (run.n_steps, run.objective()) == (5, "minimise all")
    (run.path / "finished.json").write_text('{"rounds": 7}')
    assert (run.state, run.n_steps) == ("finished", 7)


def test_to_look_at_a_lock_takes_none(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    key = lock(tmp_path)
    assert is_locked(tmp_path)
    unlock(key)
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "absent")


def test_the_last_step(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for text, step in (
        ("", 0),
        ('{"step": 3}\n', 3),
        ('{"step": 3}\n{"step": 3, "eval/score": 1}\n', 3),
        ('{"step": 3}\n{"step": 4', 3),
        ('{"step": 3}\nrubbish\n', 3),
        ('{"step": 3}\n[4]\n{"step": true}\n', 3),
        ('{"step": 3}\n' + "[" * 100_000 + "\n", 3),
        ("x" * 300_000 + "\n" + '{"step": 9}\n', 9),
    ):
        file.write_text(text)
        assert last_step(file) == step, text[:40]


def test_damaged_files_are_no_obstacle(tmp_path: Path) -> None:
    run = open_index([make_run(tmp_path / "a")]).runs()[0]
    (run.path / "config.yaml").write_text(CONFIG.format(kind="ppo") + "run: [1, 2\n")
    (run.path / "finished.json").write_text("{")
    (run.path / "best.json").write_text("[]")
    assert (run.options(), run.n_steps, run.objective(), run.json("best.json")) == ({}, None, None, None)


@pytest.mark.parametrize(
    "text", ["ppo: &a [*a]", "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "[" * 5000, "a: 1\n\tb: 2"]
)
def test_a_configuration_that_no_run_wrote(text: str, tmp_path: Path) -> None:
    run = open_index([make_run(tmp_path / "a")]).runs()[0]
    (run.path / "config.yaml").write_text(CONFIG.format(kind="ppo") + text)
    assert (run.options(), run.objective()) == ({}, None)


def test_links_out_of_a_run_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": 1}')
    run = Index([make_run(tmp_path / "runs" / "a").parent]).runs()[0]
    (run.path / "reward_report.json").symlink_to(secret)
    (run.path / "evaluation").symlink_to(tmp_path)
    assert run.json("reward_report.json") is None
    assert run.directory("evaluation") is None
    (run.path / "inside.json").write_text("{}")
    (run.path / "best.json").symlink_to(run.path / "inside.json")
    assert run.json("best.json") == {}


def test_the_objective_is_what_the_run_says_or_its_model_card(tmp_path: Path) -> None:
    run = open_index([make_run(tmp_path / "a", "sft")]).runs()[0]
    assert run.objective() is None
    (run.path / "README.md").write_text("---\n---\n# A model\n\n    minimise E[-log p],  E over all  \n")
    assert run.objective() == "minimise E[-log p],  E over all"
    (run.path / "started.json").write_text('{"rounds": true, "objective": ["x"]}')
    assert (run.objective(), run.n_steps) == ("minimise E[-log p],  E over all", 3)
    (run.path / "started.json").write_text('{"objective": "minimise this"}')
    assert run.objective() == "minimise this"
