"""What leaves the command line: exit codes, one sentence for a mistake, a traceback only for a bug of ours."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from clearppo.cli import main
from clearppo.cli.lazy import LazyCommand, LazyGroup
from clearppo.config import list_recipes
from clearppo.errors import DataError, TrainingError

SRC = Path(__file__).resolve().parents[2] / "src"
ARGUMENTS = [
    *("ppo", "--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--reward_funcs", "a.py:f"),
]


def training_that_raises(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_ppo(config: Any, *, console: bool = False) -> None:
        raise error

    api = ModuleType("clearppo.api")
    api.train_ppo = train_ppo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clearppo.api", api)


@pytest.mark.parametrize(
    ("error", "exit_code", "stderr"),
    [
        (DataError("d.jsonl, line 3: no prompt."), 2, "error: d.jsonl, line 3: no prompt.\n"),
        (TrainingError("the loss is not finite."), 3, "error: the loss is not finite.\n"),
        (KeyboardInterrupt(), 130, "\nerror: interrupted.\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_we_understand(
    error: BaseException, exit_code: int, stderr: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_that_raises(error, monkeypatch)
    result = run(*ARGUMENTS)
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, stderr, "")


def test_a_bug_of_ours_keeps_its_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    training_that_raises(ZeroDivisionError("ours"), monkeypatch)
    result = run(*ARGUMENTS)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pp"], "Unknown command pp. Did you mean ppo?"),
        (
            ["zzz"],
            "Unknown command zzz. There are quickstart, sft, reward, ppo, rlhf, doctor, plan, prefs, label, "
            "serve-reward, vllm-serve, view, report, compare, replay, chat, explain, recipes, import-config, env.",
        ),
        (["--versio"], "Unknown option --versio. Did you mean --version?"),
        (["recipes", "show"], "Missing argument 'NAME'."),
        (["recipes", "show", "x"], f"Unknown recipe x. There are {', '.join(list_recipes()[:-1])} and trl."),
        (["recipes", "--zzz"], "Unknown option --zzz. See clearppo recipes --help for all options."),
    ],
)
def test_mistakes_outside_ppo(arguments: list[str], sentence: str, run: Any) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {sentence}\n")


def test_a_command_that_is_not_there_fails_only_when_called() -> None:
    group = LazyGroup(name="g", table={"ghost": LazyCommand("clearppo.cli.ghost:ghost", "Not there.")})
    context = click.Context(group)
    assert "Not there." in group.get_help(context)
    with pytest.raises(click.UsageError, match="ghost is not part of this installation"):
        group.get_command(context, "ghost")


def test_a_command_whose_own_imports_fail_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_command.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    group = LazyGroup(name="g", table={"broken": LazyCommand("broken_command:command", "Broken.")})
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        group.get_command(click.Context(group), "broken")


def test_version(run: Any) -> None:
    assert run("--version").stdout.startswith("clearppo ")


def test_recipes(run: Any) -> None:
    listed = run("recipes").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list_recipes()
    assert run("recipes", "show", "article").stdout.startswith("# The article's PPO")


def test_env_tells_what_a_bug_report_needs_and_nothing_private(run: Any) -> None:
    result = run("env")
    assert result.exit_code == 0
    facts = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert facts["python"] == sys.version.split()[0]
    assert {"clearppo", "torch", "transformers", "peft", "CPU capability", "CPU bf16 instructions"} <= set(facts)
    assert {"torch threads", "OMP_NUM_THREADS", "CLEARPPO_ALLOCATOR", "CUDA", "MPS", "platform"} <= set(facts)
    assert str(Path.home()) not in result.stdout
    assert os.uname().nodename not in result.stdout or len(os.uname().nodename) < 4


def test_env_works_where_torch_does_not(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("env")
    assert result.exit_code == 0
    assert "torch import: failed: ModuleNotFoundError" in result.stdout


def test_as_with_any_click_command_errors_can_be_had_as_exceptions() -> None:
    with pytest.raises(click.UsageError):
        main.main(["pp"], standalone_mode=False)


# ------------------------------------------------------------------------------------------------ in a process

HEAVY = """
import sys
from clearppo.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pyarrow", "beartype"}
print("HEAVY", *sorted(heavy & set(sys.modules)))
"""


def process(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=environment,
        **more,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["ppo", "--help"], ["recipes"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = process("-c", HEAVY, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"


def test_a_mistake_leaves_no_traceback_and_no_file(tmp_path: Path) -> None:
    done = process("-m", "clearppo.cli", *ARGUMENTS, "--kl_cof", "1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Unknown option --kl_cof. Did you mean --kl_coef?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m clearppo.cli ppo --help | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert (done.stderr, done.stdout.split(":")[0]) == ("", "Usage")


def test_a_terminal_without_chinese_gets_question_marks() -> None:
    done = process("-m", "clearppo.cli", "ppo", "--help", env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0
    assert "sampling  ??" in done.stdout
