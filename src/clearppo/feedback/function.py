"""A Python function as a scorer, called the way TRL calls reward functions: f(prompts, completions, **columns)."""

import asyncio
import copy
import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import Any

from clearppo.batch import Prompts, Rollout
from clearppo.data.files import kind_and_message
from clearppo.errors import RewardError
from clearppo.feedback.import_function import load_reward_function
from clearppo.feedback.returned import finite_scores, given_completions, in_words
from clearppo.feedback.scorer import Scores, rows_in_words

__all__ = ["FunctionScorer", "load_reward_function"]

RewardFunction = Callable[..., Any]

OWN = ("prompts", "completions", "completion_ids")
"""What every reward function is offered; all other keywords are columns of the data."""


class FunctionScorer:
    """Scores from a Python function, sync or async, called once a batch with keyword arguments only:

        prompts          what the user wrote: strings, or lists of messages
        completions      strings; for a prompt of messages [{"role": "assistant", "content": text}]
        completion_ids   the response's tokens, a list of ints a row; all of them, also where a truncation cuts the text
        **columns        the prompts' other columns, a list each

    It gets those that its signature takes (all of them if it takes **kwargs), as copies that it may change, and returns
    a list, tuple, array or tensor with one number a row, or None where it does not apply (NaN in the scores).

    Raises RewardError, with the function's name and the rows, if the signature cannot take the answers, or the function
    raises, or returns the wrong count or something that is no finite number. KeyboardInterrupt passes through.
    """

    def __init__(self, function: Any, name: str | None = None, *, noun: str = "reward function") -> None:
        """`noun` is what messages call it."""
        self.name = name or function_name(function)
        self.names = (self.name,)
        self.who = f"{noun} `{self.name}`"
        if not callable(function):
            raise RewardError(f"{self.who} is {in_words(function)}, and cannot be called. Give a function.")
        self.function = function
        self._parameters = _keywords(function, self.who)

    def __call__(self, rollout: Rollout) -> Scores:
        arguments = self._arguments(rollout)
        try:
            returned = self._call(arguments)
        except (Exception, SystemExit) as error:
            raise RewardError(self._raised(error, arguments, rollout.prompts)) from error
        total = finite_scores(returned, rollout.prompts, self.who).to(rollout.responses.device)
        return Scores(total=total, parts={self.name: total})

    def _arguments(self, rollout: Rollout) -> dict[str, list[Any]]:
        columns = rollout.prompts.columns
        if taken := [name for name in OWN if name in columns]:
            raise RewardError(
                f"the prompts have a column `{taken[0]}`, and {self.who} is given its own "
                f"{', '.join(OWN)}. Rename the column."
            )
        offered: dict[str, Sequence[Any]] = {
            "prompts": rollout.prompts.texts,
            "completions": given_completions(rollout),
            "completion_ids": [row[mask].tolist() for row, mask in zip(rollout.responses, rollout.mask, strict=True)],
            **columns,
        }
        needed = [name for name, default in self._parameters.items() if default is inspect.Parameter.empty]
        if absent := [name for name in needed if name not in offered]:
            known = ", ".join([*OWN, *columns])
            raise RewardError(
                f"{self.who} needs `{absent[0]}`, which is no column of the prompts "
                f"(there are {known}). Rename the argument or the column, or give the argument a default."
            )
        everything = _KEYWORDS in self._parameters
        return {name: list(value) for name, value in offered.items() if everything or name in self._parameters}

    def _call(self, arguments: Mapping[str, list[Any]]) -> Any:
        # Copies: a function that edits its messages (as TRL's own trainer does) must not edit the data set.
        returned = self.function(**copy.deepcopy(dict(arguments)))
        return _wait_for(returned) if inspect.isawaitable(returned) else returned

    def _raised(self, error: BaseException, arguments: Mapping[str, list[Any]], prompts: Prompts) -> str:
        """Which rows make the function raise: each is tried alone, once."""
        failing: list[int] = []
        for row in range(len(prompts)):
            try:
                self._call({name: [values[row]] for name, values in arguments.items()})
            except (Exception, SystemExit):
                failing.append(row)
        where = f"for {rows_in_words(failing, prompts)}" if failing else "on the batch only: each row alone passes"
        return (
            f"{self.who} raised {kind_and_message(error)} ({_place(error, self.function)}) {where}. "
            "Mend the function, or return None where it does not apply."
        )


def function_name(function: Any) -> str:
    """What a function is called in messages and metrics: its own name, a partial's function's, or its class's."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


_KEYWORDS = "**"


def _keywords(function: RewardFunction, who: str) -> dict[str, Any]:
    """The keyword arguments that a function takes, with their defaults; `**` among them if it takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # a function written in C may have no signature: then the two that always come
        return dict.fromkeys(OWN[:2], inspect.Parameter.empty)
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if by_position:
        raise RewardError(
            f"{who} takes `{by_position[0]}` by position only; it is called by keyword. "
            "Remove the / from its signature."
        )
    taken: dict[str, Any] = {
        p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        taken[_KEYWORDS] = None
    if not {"completions", "completion_ids", _KEYWORDS} & set(taken):
        raise RewardError(
            f"{who} takes ({', '.join(taken)}) and so cannot be given the answers. "
            "Write it as f(prompts, completions, **columns)."
        )
    return taken


def _wait_for(awaitable: Awaitable[Any]) -> Any:
    async def run() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    # Inside a running loop (a notebook) a second one may not start in this thread, so it gets a thread of its own.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, run()).result()


def _place(error: BaseException, function: Any) -> str:
    """file:line of the innermost frame in the function's own file, else of the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    code = _code_of(function)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _code_of(function: Any) -> CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")  # an object with a method of that name
    return getattr(function, "__code__", None)
