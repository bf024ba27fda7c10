"""Finding a reward function by name, and what is said when it is not there."""

import sys
from pathlib import Path

import pytest

from clearppo.errors import RewardError
from clearppo.feedback.function import load_reward_function

FILE = """\
import math
from dataclasses import dataclass
from math import sqrt

LIMIT = 3

def length(completions, **columns):
    return [len(text) for text in completions]

def politeness(completions): ...

def _hidden(): ...

@dataclass
class Judge:
    weight: float = 1.0
"""


@pytest.fixture(autouse=True)
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    return path


def refused(spec: str) -> str:
    with pytest.raises(RewardError) as caught:
        load_reward_function(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def test_a_file_a_module_and_a_callable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reward_function(f"{file}:length")(completions=["ab", ""]) == [2, 0]
    assert load_reward_function("textwrap:shorten").__module__ == "textwrap"
    assert load_reward_function(len) is len
    (file.parent / "package").mkdir()
    (file.parent / "package" / "inner.py").write_text("def f(completions): return [7]")
    monkeypatch.chdir(file.parent)
    assert load_reward_function("package.inner:f")(completions=["x"]) == [7]
    assert load_reward_function("rewards.py:length")(completions=["x"]) == [1]


def test_a_file_may_import_its_neighbours_and_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)  # of the standard library, and seldom imported
    (tmp_path / "neighbour_of_reward.py").write_text("VALUE = 5")
    (tmp_path / "tabnanny.py").write_text("raise RuntimeError('this must not hide the real one')")
    (tmp_path / "r.py").write_text(
        "import tabnanny\ndef f(completions):\n    from neighbour_of_reward import VALUE\n    return [VALUE]\n"
    )
    assert load_reward_function(f"{tmp_path / 'r.py'}:f")(completions=["x"]) == [5]


def test_a_file_runs_once_until_it_changes(tmp_path: Path) -> None:
    import os

    path = tmp_path / "r.py"
    path.write_text("RUNS = []\ndef f(completions): return RUNS\ndef g(completions): return RUNS\n")
    f, g = (load_reward_function(f"{path}:{name}") for name in "fg")
    assert f(completions=[]) is g(completions=[])
    path.write_text("def f(completions): return [8]\n")
    os.utime(path, ns=(1, 1))
    assert load_reward_function(f"{path}:f")(completions=[]) == [8]


def test_missing_files(tmp_path: Path) -> None:
    assert f"the file {tmp_path / 'no.py'} does not exist" in refused(f"{tmp_path / 'no.py'}:f")
    (tmp_path / "folder.py").mkdir()
    assert f"the file {tmp_path / 'folder.py'} is a directory" in refused(f"{tmp_path / 'folder.py'}:f")
    (tmp_path / "r.txt").write_text("def f(): ...")
    assert f"{tmp_path / 'r.txt'} is no Python file" in refused(f"{tmp_path / 'r.txt'}:f")


def test_missing_modules() -> None:
    assert "there is no module no_such_module." in refused("no_such_module:f")
    assert "there is no module json.nothing." in refused("json.nothing:f")
    assert "names no file or module" in refused(":f")
    assert "names no file or module" in refused("")


def test_missing_names(file: Path) -> None:
    message = refused(f"{file}:lenght")
    assert message.startswith(f"reward function `lenght` is missing: {file} has length, politeness, Judge. ")
    assert message.endswith(f"Did you mean {file}:length?")
    assert "Use one of its functions" in refused(f"{file}:zzz")
    message = refused(str(file))
    assert "names no function" in message
    assert f"Use --reward_funcs {file}:length." in message
    assert "textwrap has TextWrapper, wrap, fill" in refused("textwrap")
    (file.parent / "empty.py").write_text("")
    assert "has no function of its own" in refused(f"{file.parent / 'empty.py'}:f")


def test_names_that_are_no_function(file: Path) -> None:
    message = refused(f"{file}:LIMIT")
    assert "`LIMIT`" in message
    assert "is a int and cannot be called" in message
    assert "is a module and cannot be called" in refused(f"{file}:math")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n\nx = 1 / 0\n", "raised ZeroDivisionError: division by zero ({file}:3)"),
        ("def f(:\n", "raised SyntaxError: invalid syntax ({file}:1)"),
        (
            "import json\njson.loads('x')\n",
            "raised JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({file}:2)",
        ),
        ("\nimport no_such_module\n", "raised ModuleNotFoundError: No module named 'no_such_module' ({file}:2)"),
        ("raise SystemExit(3)", "raised SystemExit: 3 ({file}:1)"),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_importing_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str, as_module: bool
) -> None:
    name = f"raising_{abs(hash(content))}"
    path = tmp_path / f"{name}.py"
    path.write_text(content)
    monkeypatch.chdir(tmp_path)
    message = refused(f"{name}:f" if as_module else f"{path}:f")
    assert said.format(file=path) in message
    assert not [module for module in sys.modules if getattr(sys.modules[module], "__file__", None) == str(path)]


def test_a_package_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_package").mkdir()
    (tmp_path / "raising_package" / "__init__.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "raising_package" / "inner.py").write_text("def f(completions): ...")
    monkeypatch.chdir(tmp_path)
    assert "raised RuntimeError: no licence (" in refused("raising_package.inner:f")


def test_ctrl_c_passes_through_an_import(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_reward_function(f"{tmp_path / 'r.py'}:f")
