"""`clearppo replay`: what it prints, writes and exits with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clearppo.cli import main
from clearppo.cli.replay_tables import AFTER, LEARNING
from clearppo.config.replayable import SETTABLE
from clearppo.train.metrics import REGISTRY
from tests.replay.conftest import Ran
from tests.replay.test_identical import CASES


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def test_as_it_was(ran: Ran) -> None:
    result = command(ran("shared"), "--step", 6)
    assert result.exit_code == 0
    out = result.stdout
    assert out.startswith(f"iteration 6 of {ran('shared')}, from checkpoint-4: 1 before it learned again first\n")
    found = re.search(
        r"^identical: (\d+) metrics, (\d+) recorded numbers, ([\d,]+) weights \(checkpoint-6\), ", out, re.M
    )
    assert found is not None
    assert "changed" not in out
    assert "cosine" not in out
    assert "the 10 tokens whose probability moved most" in out
    assert "learning (1 of 2) ..." in result.stderr


def test_without_a_checkpoint_of_the_iteration(ran: Ran) -> None:
    out = command(ran("shared"), "--step", 5, "--tokens", 0).stdout
    assert "(no checkpoint of this iteration: weights are not compared)" in out
    assert "moved most" not in out


def test_otherwise(ran: Ran, tmp_path: Path) -> None:
    file = tmp_path / "replay.json"
    result = command(ran("separate", critic="separate"), "--step", 5, "--set", "clip=0.05", "--set", "lr=1e-4",
                     "--output", file)  # fmt: skip
    assert result.exit_code == 0
    assert "cliprange 0.2 → 0.05, learning_rate 0.001 → 0.0001" in result.stdout
    assert "update of the weights, the critic's part: cosine" in result.stdout
    assert f"wrote {file}" in result.stdout
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["identical"] is True
    assert found["settings"]["cliprange"] == {"was": 0.2, "is": 0.05}
    assert set(found["gradient"]) == set(found["update"]) == {"all", "policy", "critic"}
    assert 0 < found["update"]["all"]["cosine"] < 1
    assert found["as_it_was"]["lr"] > found["changed"]["lr"]
    assert found["compared"]["metrics"] > 25
    assert len(found["tokens"]) == 10
    assert {"row", "token", "text", "left", "right", "advantage", "before", "after", "after_changed"} == set(
        found["tokens"][0]
    )


def test_another_number_is_exit_code_1(ran: Ran, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(ran("shared"), tmp_path / "run"))
    metrics = run / "metrics.jsonl"
    metrics.write_text(re.sub(r'"val/ratio": [\d.e-]+', '"val/ratio": 1.5', metrics.read_text()))
    started = run / "checkpoint-4" / "training_state" / "state.json"
    result = command(run, "--step", 5)
    assert result.exit_code == 1
    assert "different:\n  val/ratio of iteration 5 was 1.5 and is " in result.stdout
    assert "The versions and the machine are those of the run, as far as is noted" in result.stdout
    about = json.loads((run / "started.json").read_text())
    about["machine"]["torch"] = "1.0"
    (run / "started.json").write_text(json.dumps(about))
    assert started.is_file()
    assert "torch was 1.0, is" in command(run, "--step", 5, "--checkpoint", "start").stdout
    (run / "started.json").unlink()
    assert "the run has not noted its own" in command(run, "--step", 5, "--checkpoint", "start").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "0"], "0 is not in the range x>=1"),
        (["--step", "x"], "is not a valid integer"),
        ([], "Missing option '--step'"),
        (["--step", "5", "--tokens", "-1"], "-1 is not in the range"),
        (["--step", "5", "--sett", "clip=1"], "Unknown option --sett. Did you mean --set?"),
        (["--step", "5", "--output", "."], "is a directory. Name a file"),
        (["--step", "5", "--output", "no/where.json"], "there is no directory no"),
        (["--step", "9"], "has iterations 1 to 6"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str, ran: Ran) -> None:
    result = command(ran("shared"), *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.output


def test_the_help_lists_what_can_be_set() -> None:
    out = " ".join(command("--help").stdout.split())
    assert all(name in out for name in SETTABLE)


def test_what_is_shown_exists(ran: Ran) -> None:
    assert set(LEARNING) <= REGISTRY.keys()
    file = ran("shared").parent / "all.json"
    command(ran("shared"), "--step", 5, "--output", file)
    numbers = json.loads(file.read_text())["as_it_was"]
    assert set(AFTER) == {name for name in numbers if name not in REGISTRY and not name.startswith("rewards/")}


def test_answers_do_not_drive_the_terminal(ran: Ran) -> None:
    from clearppo.cli.replay_tables import _in_context
    from clearppo.train.replay.effect import Moved

    token = Moved(
        row=0, token=1, text="\x1b[2J", left="a\n[bold]", right="\u202e", advantage=None, before=0.1, after=0.2,
        after_changed=None,
    )  # fmt: skip
    shown = _in_context(token)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "a⏎" in shown


def test_in_a_process_of_its_own_and_into_a_pipe(ran: Ran) -> None:
    """With other threads than the run had, and 80 columns: the same numbers, and nothing on stdout but the result."""
    run = ran("rloo", **CASES["rloo"])
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "clearppo.cli", "replay", str(run), "--step", "6"],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "identical: " in done.stdout
    assert "\x1b" not in done.stdout
    assert "loss/value_avg" not in done.stdout
