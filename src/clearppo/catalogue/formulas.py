"""The unit and the formula of every metric, read from the source that computes it.

They stand there in a decorator and a docstring, and only there. Importing that source would import torch, so it is
parsed; a test compares what is read with the registries themselves.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REGISTRIES: Mapping[str, Mapping[str, str]] = {
    "train/metrics.py": {"metric": "ppo"},
    "train/eval_metrics.py": {"metric": "ppo"},
    "train/step_metrics.py": {"SFT.metric": "sft", "REWARD.metric": "reward"},
}
"""File, below src/clearppo: what a registering decorator is called there -> the command whose runs have the metric."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """How runs of `command` compute a metric: `function` in `file`, with this docstring as the formula.

    `clock`: the number depends on how fast the run was, and stands in timings.jsonl.
    """

    command: str
    unit: str
    text: str
    function: str
    file: str
    line: int
    clock: bool


@cache
def formulas() -> Mapping[str, tuple[Formula, ...]]:
    """The formulas of every registered metric by its name: one for each kind of run that has it."""
    found: dict[str, tuple[Formula, ...]] = {}
    for file, decorators in REGISTRIES.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        constants = dict(_constants(tree))
        for function in tree.body:
            if isinstance(function, ast.FunctionDef):
                for call in function.decorator_list:
                    if isinstance(call, ast.Call) and (command := decorators.get(ast.unparse(call.func))):
                        name, unit = (_text(argument, constants) for argument in call.args)
                        formula = Formula(
                            command=command,
                            unit=unit,
                            text=" ".join((ast.get_docstring(function) or "").split()),
                            function=function.name,
                            file=file,
                            line=function.lineno,
                            clock=any(keyword.arg == "clock" for keyword in call.keywords),
                        )
                        found[name] = (*found.get(name, ()), formula)
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """NAME = "text" at the top of a file: a metric's name may be one."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text
            case _:
                pass


def _text(node: ast.expr, constants: Mapping[str, str]) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return constants[name]
        case _:
            raise ValueError(f"{ast.unparse(node)}: a metric's name and unit are texts, or constants of the same file")
