"""What README.md, README.zh-CN.md and docs/ say is so: links, paths, names, flags, commands and quotations."""

import ast
import importlib
import inspect
import json
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import generation, iteration, memory, microbatch, vs_trl
from clearppo import batch
from clearppo.cli import main
from clearppo.config import ALIASES, SCHEMAS, leaves, list_recipes, values
from clearppo.data import load_comparisons, load_demonstrations
from clearppo.pipeline import RECORD
from clearppo.train.eval_metrics import EVALUATION
from clearppo.train.metrics import REGISTRY
from clearppo.train.step_metrics import REWARD, SFT
from tests.docs.readme_commands import Block, blocks, environment, run_all

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src" / "clearppo"
READMES = [REPO / "README.md", REPO / "README.zh-CN.md"]
ROOT = [REPO / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*READMES, *ROOT, *sorted((REPO / "docs").rglob("*.md"))]

# Options that name what a command reads.
READ = (
    "model_name_or_path", "value_model_path", "reward_model_path", "dataset_name", "ptx_dataset_name",
    "demonstrations", "comparisons", "prompts",
)  # fmt: skip
BUILT_IN = "smollm2-135m-instruct"

# Flags of other programs that the pages mention.
OTHERS_FLAGS = {"--no-deps", "--index-url", "--extra-index-url", "--constraint", "--logdir"}
OTHERS_FLAGS |= {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"}  # torchrun's
OTHERS_FLAGS |= {"--node-rank", "--master-addr", "--master-port"}
OTHERS_FLAGS |= {"--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--time"}  # sbatch's
OTHERS_FLAGS |= {"--head", "--address"}  # ray start's
OTHERS_FLAGS |= {"--enable-scale-out", "--generation-config", "--logprobs-mode", "--tensor-parallel-size"}  # vLLM's
ENDINGS = (".py", ".md", ".toml", ".txt", ".yaml", ".json", ".jsonl", ".safetensors")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```[ \t]*$", "", text_of(page), flags=re.M | re.S)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def tables(page: Path) -> list[list[list[str]]]:
    """Every table as rows of cells, the header first and the rule below it left out."""
    found: list[list[list[str]]] = []
    before = ""
    for line in prose(page).splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return [[row for row in table if not set("".join(row)) <= set("-: ")] for table in found]


def table(page: Path, *header: str) -> list[list[str]]:
    """The rows below the one header that begins with these cells."""
    (rows,) = [rows for rows in tables(page) if tuple(rows[0][: len(header)]) == header]
    return rows[1:]


def resolve(name: str) -> Any:
    """The module or the object in it that a dotted name means."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def name_of(page: Path) -> str:
    return page.name


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_readme = pytest.mark.parametrize("page", READMES, ids=name_of)


# ------------------------------------------------------------------------------------------------ paths


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name}: {target}; there are {sorted(anchors(place))}"


def anchors(page: Path) -> set[str]:
    """The headings as links spell them: small letters, hyphens for blanks, no punctuation."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def made_elsewhere() -> set[str]:
    """Files that a run writes, by the docstring of rundir.py, and those that README.md has its reader make."""
    from clearppo import rundir

    by_a_run = set(re.findall(r"[\w.]+/|[\w.]+\.\w+", rundir.__doc__ or ""))
    by_a_run |= {*rundir.OWN_FILES, *rundir.MODEL_FILES, "value_head.safetensors", f"{rundir.CHECKPOINT}N/"}
    by_a_run |= {RECORD, *(f"{step}/" for step in SCHEMAS)}  # a pipeline's own file, and its steps' directories
    by_the_reader = {block.file for block in blocks(text_of(READMES[0])) if block.file}
    return by_a_run | by_the_reader | {"labels.jsonl"}  # what clearppo label writes


@each_page
def test_paths_exist(page: Path) -> None:
    roots = [REPO, SRC, REPO / "docs", REPO / "tests" / "core"]
    metrics = {*REGISTRY, *EVALUATION, *SFT, *REWARD}
    wrong = [
        span
        for span in code_spans(prose(page))
        if re.fullmatch(r"[\w./-]+", span)
        and ("/" in span or span.endswith(ENDINGS))
        and span not in made_elsewhere()
        and span not in metrics
        and not span.startswith("runs/")  # where the reader's runs go
        and not any((root / span).exists() for root in roots)
    ]
    assert wrong == []


# ------------------------------------------------------------------------------------------------ names


@each_page
def test_dotted_names_are_there(page: Path) -> None:
    names = set(re.findall(r"(?<![\w/.])clearppo(?:\.\w+)+", text_of(page)))
    for name in sorted(names):
        resolve(name)


@each_readme
def test_every_equation_has_its_function(page: Path) -> None:
    header = ("equation", "what") if page.name == "README.md" else ("公式", "内容")
    rows = table(page, *header)
    assert [row[0] for row in rows] == [f"({number})" for number in range(1, 10)]
    for row in rows:
        named = [span for span in code_spans(row[2]) if span.startswith("clearppo.")]
        assert named
        assert all(callable(resolve(name)) for name in named)


def math_tables() -> Iterator[list[str]]:
    for rows in tables(REPO / "docs" / "math.md"):
        if rows[0][2:] == ["function", "test"]:
            yield from rows[1:]


def test_the_functions_of_math_md_are_there() -> None:
    found = 0
    for row in math_tables():
        module = ""
        for span in code_spans(row[2]):
            name = re.match(r"[A-Za-z_.]+", span)
            if name is None or span.startswith(("gamma", "lam")):
                continue
            dotted = name[0] if "." in name[0] else f"{module}.{name[0]}"  # a bare name: the module named before it
            root = "clearppo" if (SRC / dotted.partition(".")[0]).is_dir() else "clearppo.core"
            assert callable(resolve(f"{root}.{dotted}")), span
            module, found = dotted.rpartition(".")[0], found + 1
    assert found >= 20


def test_the_tests_of_math_md_are_there() -> None:
    """`test_kl.py::test_signs`, with * for several, in tests/core if no folder is named; and the golden cases."""
    cases = {case["id"] for case in json.loads((REPO / "tests/golden/golden.json").read_text())["cases"]}
    for row in math_tables():
        for span in code_spans(row[3]):
            file, _, test = span.partition("::")
            path = REPO / (file if "/" in file else f"tests/core/{file}")
            source = path.read_text(encoding="utf-8")
            name = test.replace("*", r"\w*") or "test_"
            assert re.search(f"^def {name}", source, re.M), span
        assert set(re.findall(r"\bG\d\d\b", row[3])) <= cases, row[3]


def identifiers() -> set[str]:
    """Every name that the source defines or uses: not what stands in its comments and docstrings."""
    found: set[str] = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name):
                    found.add(name)
                case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    found.add(name)
                case _:
                    pass
    return found


def test_the_glossary_names_what_is_in_the_source() -> None:
    known, terms = identifiers(), 0
    for rows in tables(REPO / "docs" / "glossary.md"):
        assert rows[0] == ["中文", "English", "in code", "meaning"]
        for row in rows[1:]:
            spans = [span for span in code_spans(row[2]) if not span.startswith("--")]
            assert code_spans(row[2]), row
            for span in spans:
                if "." in span:
                    resolve(f"clearppo.{span}")
                else:
                    assert span in known, row
            terms += 1
    assert terms >= 35


# ------------------------------------------------------------------------------------------------ the house


def test_the_floors_are_those_that_are_enforced() -> None:
    tools = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = tools["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["clearppo"]]
    enforced = [{name.strip(" ()") for name in layer.split("|")} for layer in layers]
    rows = table(REPO / "docs" / "house.md", "floor", "rooms")
    assert [set(code_spans(row[1])) for row in rows] == enforced
    assert [int(row[0]) for row in rows] == list(range(len(enforced), 0, -1))


def test_every_room_is_explained() -> None:
    rows = table(REPO / "docs" / "house.md", "room", "what it is for")
    rooms = {path.name + "/" * path.is_dir() for path in SRC.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {code_spans(row[0])[0] for row in rows} == rooms - {"__init__.py", "__pycache__/"}


def test_what_flows_has_these_fields() -> None:
    for row in table(REPO / "docs" / "house.md", "object", "fields"):
        cls = getattr(batch, row[0].strip("`"))
        assert code_spans(row[1]) == [field.name for field in fields(cls)]


def test_every_test_directory_is_explained() -> None:
    rows = table(REPO / "docs" / "house.md", "directory", "what it is for")
    there = {f"tests/{path.parent.name}" for path in (REPO / "tests").glob("*/*.py")}
    assert {code_spans(row[0])[0] for row in rows} == there


def test_sockets_and_plugs_are_where_house_md_says() -> None:
    known = identifiers()
    for row in table(REPO / "docs" / "house.md", "socket", "where it is"):
        names = [span for cell in row[:4] for span in code_spans(cell) if "/" not in span]
        assert [name for name in names if name not in known] == []
        for file, name in zip(
            re.findall(r"`(tests/\S+\.py)`", row[4]), re.findall(r"`(\w+)` in `tests/", row[4]), strict=True
        ):
            assert re.search(rf"^def {name}\b", (REPO / file).read_text(encoding="utf-8"), re.M)


# ------------------------------------------------------------------------------------------------ flags and commands


def commands(group: click.Group) -> Iterator[click.Command]:
    yield group
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [command]


def flags() -> set[str]:
    ours = {f"--{name}" for name in (*leaves(), *ALIASES)}
    clicks = {
        option
        for command in commands(main)
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    scripts = (iteration, vs_trl, generation, memory, microbatch)
    theirs = {
        option for script in scripts for action in script.arguments()._actions for option in action.option_strings
    }
    return ours | clicks | theirs | {"--help"}


@each_page
def test_flags_exist(page: Path) -> None:
    of_steps = re.findall(r"--(sft|prefs|reward|ppo)\.(\w+)", text_of(page))  # as clearppo rlhf takes them
    assert [(step, option) for step, option in of_steps if option not in leaves(SCHEMAS[step])] == []
    mentioned = set(re.findall(r"(?<![\w-])--(?!(?:sft|prefs|reward|ppo)\.)[a-zA-Z]\w*(?:-\w+)*", text_of(page)))
    assert mentioned - flags() - OTHERS_FLAGS == set()


def lines_of(page: Path) -> list[str]:
    """The commands of all bash blocks, continued lines joined, comments left out."""
    found: list[str] = []
    for block in blocks(text_of(page)):
        if block.language == "bash":
            found += [shlex.join(shlex.split(line, comments=True)) for line in joined(block).splitlines()]
    return [line for line in found if line]


def joined(block: Block) -> str:
    return block.text.replace("\\\n", " ")


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join([*code_spans(prose(page)), *lines_of(page)])))
        assert named <= targets, page.name


def test_recipes_exist() -> None:
    for page in PAGES:
        named = re.findall(r"(?:--recipe |recipes show |recipe=\")([\w-]+)", text_of(page))
        assert set(named) <= set(list_recipes()), page.name


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each command would be asked for, in a directory with the files that README.md has its reader make."""
    asked: dict[str, list[Any]] = {}

    def asks(command: str) -> Any:
        return lambda config, **_: asked.setdefault(command, []).append(config)

    def run_pipeline(pipeline: Any, **_: Any) -> list[Any]:
        asked.setdefault("rlhf", []).append(pipeline)
        return [SimpleNamespace(step=s, output=o, kept=True, seconds=0.0) for s, o in pipeline.outputs.items()]

    api, whole = ModuleType("clearppo.api"), ModuleType("clearppo.pipeline")
    runners = {"sft": "train_sft", "prefs": "make_prefs", "reward": "train_reward", "ppo": "train_ppo"}
    for command, runner in runners.items():
        setattr(api, runner, asks(command))
    whole.run_pipeline = run_pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clearppo.api", api)
    monkeypatch.setitem(sys.modules, "clearppo.pipeline", whole)
    monkeypatch.chdir(tmp_path)
    for block in blocks(text_of(READMES[0])):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
    return asked


def type_all(lines: Iterable[str]) -> int:
    """Type every line that trains or makes comparisons; how many there are."""
    typed = 0
    for line in lines:
        words = shlex.split(line)
        if words[0] == "clearppo" and words[1] in (*SCHEMAS, "rlhf"):
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}"
            typed += 1
    return typed


def test_the_commands_of_the_readme_are_understood(reader: dict[str, list[Any]]) -> None:
    """Up to the point where they would train. `.ci/readme` runs them for real."""
    assert type_all(lines_of(READMES[0])) == sum(map(len, reader.values()))
    assert {"rlhf", "reward", "prefs", "ppo"} <= set(reader)
    (pipeline,) = reader["rlhf"]
    assert list(pipeline.steps) == ["sft", "reward", "ppo"]
    assert {config.model.critic for config in reader["ppo"]} == {"shared", "separate"}
    assert any(config.model.use_peft for config in reader["ppo"])
    assert any(config.ptx.ptx_coef and config.run.ema_decay and not config.has_critic for config in reader["ppo"])
    assert any(config.ppo.cliprange is None for config in reader["ppo"])  # the recipe article
    assert any(config.run.resume_from_checkpoint == "auto" and config.eval.eval_steps for config in reader["ppo"])


def test_what_ci_runs_takes_seconds(reader: dict[str, list[Any]]) -> None:
    type_all(lines_of(READMES[0]))
    steps = [(step, config) for pipeline in reader["rlhf"] for step, config in pipeline.steps.items()]
    steps += [(step, config) for step in SCHEMAS for config in reader.get(step, [])]
    for step, config in steps:
        if step == "ppo":
            assert config.num_iterations <= 2, config.run
            assert config.run.batch_size * config.sampling.response_length <= 64
        elif step == "prefs":
            assert config.sampling.num_completions * config.sampling.response_length <= 80
        else:
            assert config.run.max_steps == 1, config.run


def test_what_the_commands_read_is_there(reader: dict[str, list[Any]]) -> None:
    """Made by a block of the README, or by a command that comes before."""
    made: set[str] = set()
    for line in lines_of(READMES[0]):
        if not type_all([line]):
            continue
        ((command, (config,)),) = reader.items()
        reader.clear()
        options = dict(config.options) if command == "rlhf" else values(config)
        for name in READ:
            value = options.get(name)
            if isinstance(value, str) and value != BUILT_IN:
                there = Path(value).is_file() or any(Path(value).is_relative_to(place) for place in made)
                assert there, f"{line}: there is no {value} yet"
        made |= {str(options[name]) for name in ("output_dir", "output_file") if name in options}
    assert made


def test_the_readers_files_fit_together(reader: dict[str, list[Any]]) -> None:
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    module: dict[str, Any] = {}
    exec(Path("reward.py").read_text(encoding="utf-8"), module)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    answers = [f" is about {row['topic']}" for row in rows]
    assert module["on_topic"](completions=answers, **columns) == [1.0] * len(rows)
    assert all(score < 0 for score in module["brief"](completions=answers, **columns))
    assert all(row.completion[0] == " " for row in load_demonstrations("demonstrations.jsonl"))
    assert all(len(row.pairs) == 1 for row in load_comparisons("comparisons.jsonl"))


@each_readme
def test_python_blocks_compile_and_name_real_options(page: Path) -> None:
    from clearppo.api import ppo

    own = set(inspect.signature(ppo).parameters)
    calls = 0
    for block in blocks(text_of(page)):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "clearppo.ppo":
                assert {str(keyword.arg) for keyword in node.keywords} <= own | set(leaves())
                calls += 1
    assert calls == 1


# ------------------------------------------------------------------------------------------------ quotations


@each_readme
def test_the_loop_is_quoted_word_for_word(page: Path) -> None:
    (quoted,) = [block.text for block in blocks(text_of(page)) if "for step, prompts in" in block.text]
    source = (SRC / "train" / "ppo.py").read_text(encoding="utf-8")
    assert source.endswith(textwrap.indent(quoted, "    ")), "quote train/ppo.py from `watched` to its end"


def without_comments(block: Block) -> tuple[tuple[str, ...], str | None, str]:
    """A comment stands alone or behind two blanks (one in YAML); nothing else in the blocks has a # behind a blank."""
    return block.info, block.file, re.sub(r"(^|[ \t]+)#.*$", "", block.text, flags=re.M)


def test_both_readmes_have_the_same_blocks() -> None:
    english, chinese = (list(map(without_comments, blocks(text_of(page)))) for page in READMES)
    assert chinese == english


def test_both_readmes_have_the_same_structure() -> None:
    english, chinese = (
        [len(mark) for mark in re.findall(r"^(#+) ", prose(page), re.M)]
        + [(len(rows), len(rows[0])) for rows in tables(page)]
        for page in READMES
    )
    assert chinese == english


@each_page
def test_nothing_waits_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"@@\w+@@", text_of(page)) == []


# ------------------------------------------------------------------------------------------------ readme_commands.py

PAGE = """
```json file=data/rows.jsonl
{"x": 1}
```

```python
# file: part.py
answer = 42
```

```yaml
left: alone
```

```bash no-ci
echo never > never
```

```python
import part
open("python", "w").write(str(part.answer))
```

```bash
cat data/rows.jsonl python > bash
```
"""


def test_blocks_are_written_and_run_in_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_all(PAGE, "page.md", tmp_path) == 0
    assert (tmp_path / "bash").read_text() == '{"x": 1}\n42'
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"data", "part.py", "python", "bash"}
    assert capfd.readouterr().out.splitlines()[0] == "page.md:2  wrote data/rows.jsonl"


@pytest.mark.parametrize("failing", ["false", "false | cat", "echo $undefined_here", "false\necho fine"])
def test_the_first_failure_ends_it_and_is_shown(
    failing: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = f"```bash\necho said\n{failing}\n```\n```bash\ntouch after\n```\n"
    assert run_all(page, "page.md", tmp_path) != 0
    assert not (tmp_path / "after").exists()
    shown = capfd.readouterr().out
    assert failing in shown
    assert "said" in shown


@pytest.mark.parametrize(
    ("page", "says"),
    [("```json file=../out.json\n{}\n```\n", "lies outside"), ("```bash\necho\n", "do not pair")],
    ids=["outside", "open"],
)
def test_what_cannot_be_meant_is_refused(page: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        run_all(page, "page.md", tmp_path)


def test_commands_are_those_beside_this_python() -> None:
    assert environment()["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert "PYTHONPATH" not in environment()


def test_the_readme_has_something_to_run() -> None:
    languages = [block.language for block in blocks(text_of(READMES[0])) if block.is_run]
    assert languages.count("bash") >= 5
    assert languages.count("python") >= 2
