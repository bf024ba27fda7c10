"""The house guards itself: rules of docs/house.md that no linter, type or import contract can see."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src" / "clearppo"
SOURCES = sorted(SRC.rglob("*.py"))

MAX_FILE, MAX_FUNCTION = 400, 60
# path under src/clearppo (or path::function) -> why it may be long. Better kept empty.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def room(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def found(check: str, wrong: list[str]) -> None:
    assert not wrong, f"{check}:\n  " + "\n  ".join(wrong)


# ------------------------------------------------------------------------------------------------ sizes


def test_files_are_short() -> None:
    lengths = {room(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    found(
        f"files over {MAX_FILE} lines; split them",
        [f"{name}: {n}" for name, n in lengths.items() if n > MAX_FILE and name not in LONG_FILES],
    )


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line, the docstring left out."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        total -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return total


def test_functions_are_short() -> None:
    lengths = {f"{room(path)}::{name}": lines_of(f) for path in SOURCES for name, f in functions(tree(path))}
    found(
        f"functions over {MAX_FUNCTION} lines; split them",
        [f"{name}: {n}" for name, n in lengths.items() if n > MAX_FUNCTION and name not in LONG_FUNCTIONS],
    )


def test_there_is_no_room_for_odds_and_ends() -> None:
    names = {"utils", "util", "helpers", "misc"}
    found("name a file after what it does", [room(p) for p in SRC.rglob("*") if p.stem in names])


# ------------------------------------------------------------------------------------------------ masks


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_pad(node: ast.expr) -> bool:
    return re.fullmatch(r"_?pad(ding)?(_token)?(_?id)?", last_name(node)) is not None


def is_single(node: ast.expr) -> bool:
    """A number, None, or the id of another special token: comparing a pad id with one of these makes no mask."""
    return isinstance(node, ast.Constant) or is_pad(node) or "eos" in last_name(node)


def compares_with_pad(node: ast.AST) -> bool:
    match node:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq()], comparators=[right]):
            sides = [left, right]
        case ast.Call(func=ast.Attribute(value=left, attr="ne" | "eq"), args=[*_, right]):
            sides = [right if last_name(left) == "torch" else left, right]
            if last_name(left) == "torch" and len(node.args) == 2:
                sides = node.args
        case _:
            return False
    return any(is_pad(side) for side in sides) and not all(is_single(side) for side in sides)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ids != pad", True),
        ("ids != self.pad_id", True),
        ("tokenizer.pad_token_id == batch.ids", True),
        ("torch.ne(ids, pad_id)", True),
        ("ids.eq(self.tokenizer.pad_token_id)", True),
        ("tokenizer.pad_token_id != tokenizer.eos_token_id", False),
        ("config.pad_token_id == tokenizer.pad_token_id", False),
        ("pad != 0", False),
        ("ids != eos", False),
        ("keypad != ids", False),
    ],
)
def test_the_mask_check_sees_what_it_should(code: str, expected: bool) -> None:
    assert compares_with_pad(ast.parse(code, mode="eval").body) is expected


def test_masks_come_from_lengths() -> None:
    found(
        "pad may equal EOS, so a mask must come from lengths, never from comparing ids with pad",
        [
            f"{room(path)}:{node.lineno}  {ast.unparse(node)}"
            for path in SOURCES
            for node in ast.walk(tree(path))
            if isinstance(node, ast.expr) and compares_with_pad(node)
        ],
    )


# ------------------------------------------------------------------------------------------------ files from strangers


def unsafe(node: ast.AST) -> bool:
    picklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}
    match node:
        case ast.Import():
            return any(alias.name.split(".")[0] in picklers for alias in node.names)
        case ast.ImportFrom():
            return (node.module or "").split(".")[0] in picklers or (
                node.module == "torch" and any(alias.name == "load" for alias in node.names)
            )
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
            safe = {k.arg: k.value for k in node.keywords}.get("weights_only")
            return not (isinstance(safe, ast.Constant) and safe.value is True)
    return False


def test_reading_a_file_never_runs_it() -> None:
    found(
        "a pickle runs code when it is read: safetensors and JSON, or torch.load(..., weights_only=True)",
        [f"{room(p)}:{node.lineno}" for p in SOURCES for node in ast.walk(tree(p)) if unsafe(node)],
    )


# ------------------------------------------------------------------------------------------------ a light front door

LOOK_AROUND = """
import sys, time
import clearppo.cli
sys.argv = ["clearppo", "--help"]
try:
    clearppo.cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pyarrow"} & set(sys.modules)
print("HEAVY", *sorted(heavy), file=sys.stderr)
print("SECONDS", time.process_time(), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def front_door() -> subprocess.CompletedProcess[str]:
    """`clearppo --help` in a process of its own, which says on stderr what it imported and how long it worked."""
    if importlib.util.find_spec("clearppo.cli") is None or not (SRC / "cli" / "__init__.py").exists():
        pytest.skip("clearppo.cli is not there yet")
    done = [
        subprocess.run([sys.executable, "-c", LOOK_AROUND], capture_output=True, text=True, check=False)
        for _ in range(2)  # the first may have to compile
    ][-1]
    assert done.returncode == 0, done.stderr
    return done


def test_help_answers_without_torch(front_door: subprocess.CompletedProcess[str]) -> None:
    assert "Usage" in front_door.stdout
    heavy = re.search(r"^HEAVY(.*)$", front_door.stderr, re.M)
    assert heavy is not None
    assert heavy[1].split() == []


def test_help_answers_in_under_a_second(front_door: subprocess.CompletedProcess[str]) -> None:
    """Seconds of work, not of waiting: a busy machine is no fault of the house."""
    seconds = re.search(r"^SECONDS (.*)$", front_door.stderr, re.M)
    assert seconds is not None
    assert float(seconds[1]) < 1.0


# ------------------------------------------------------------------------------------------------ the repository


def repository_files() -> list[Path]:
    """What git holds or would take, not what it ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := REPO / name).is_file()]


def test_no_file_names_the_machine_it_was_written_on() -> None:
    # Put together here, so that this file does not hold them.
    places = ["/" + "work/", "/" + "root/", "/" + "opt/wheels", "/" + "opt/pypi"]
    private = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, places)) + ")")
    wrong = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(REPO)}:{number}  {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if private.search(line)
        ]
    found("paths of one machine", wrong)


def readme_commands() -> list[str]:
    readme = REPO / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not there yet")
    text = readme.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\b[^\n]*\n(.*?)^```", text, re.M | re.S)
    return [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]


def test_the_readme_names_make_targets_that_exist() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.M))
    named = {target for line in readme_commands() for target in re.findall(r"^make ([a-z][\w-]*)", line)}
    assert named <= targets


def test_the_readme_names_commands_that_exist() -> None:
    click = pytest.importorskip("click")
    named = {name for line in readme_commands() for name in re.findall(r"^(?:\S*/)?clearppo ([a-z][\w-]*)", line)}
    main = pytest.importorskip("clearppo.cli").main
    assert named <= set(main.list_commands(click.Context(main)))
