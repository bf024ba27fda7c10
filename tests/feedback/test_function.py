"""A Python function as a scorer: what it is given, what it may return, and what is said when it goes wrong."""

import asyncio
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from clearppo.batch import Rollout
from clearppo.errors import RewardError
from clearppo.feedback import WeightedScorer
from clearppo.feedback.function import FunctionScorer
from tests.tiny import tiny_rollout

MESSAGES = [{"role": "user", "content": "Hello?"}]


def rollout(**options: Any) -> Rollout:
    return tiny_rollout(["The film", "A dog", "It is"], [" was good", "", " raining"], **options)


def scored(function: Callable[..., Any], **options: Any) -> list[float]:
    return FunctionScorer(function)(rollout(**options)).total.tolist()


def refused(function: Any, **options: Any) -> str:
    with pytest.raises(RewardError) as caught:
        scored(function, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --------------------------------------------------------------------------------------------- what it is given


def test_it_is_given_what_its_signature_takes() -> None:
    seen: dict[str, Any] = {}

    def everything(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [1.0, 2.0, 3.0]

    asked = rollout(columns={"label": [1, 0, 1], "topic": ["a", None, "c"]})
    assert FunctionScorer(everything)(asked).total.tolist() == [1, 2, 3]
    assert seen["prompts"] == ["The film", "A dog", "It is"]
    assert seen["completions"] == [" was good", "", " raining"]
    assert seen["label"] == [1, 0, 1]
    assert seen["topic"] == ["a", None, "c"]
    ids = seen["completion_ids"]
    assert [len(row) for row in ids] == [1, 2, 3]
    assert all(row == asked.responses[i, : i + 1].tolist() for i, row in enumerate(ids))
    assert scored(lambda completions: [len(text) for text in completions]) == [9, 0, 8]
    assert scored(lambda completions, label: label, columns={"label": [4, 5, 6], "other": [0, 0, 0]}) == [4, 5, 6]
    assert scored(lambda completion_ids: [len(row) for row in completion_ids]) == [1, 2, 3]
    assert scored(lambda completions, *, weight=2.0: [weight] * 3) == [2, 2, 2]


def test_messages_get_messages_back() -> None:
    seen: list[Any] = []

    def function(prompts: Any, completions: Any) -> list[float]:
        seen.extend((prompts, completions))
        return [0.0]

    FunctionScorer(function)(tiny_rollout([MESSAGES], ["Hi!"]))
    assert seen == [[MESSAGES], [[{"role": "assistant", "content": "Hi!"}]]]


def test_what_it_changes_is_its_own() -> None:
    def destroys(prompts: Any, completions: Any, tags: Any) -> list[float]:
        prompts[0].pop()
        prompts.clear()
        completions.clear()
        tags[0].append("new")
        return [0.0]

    asked = tiny_rollout([[dict(MESSAGES[0])]], ["Hi!"], columns={"tags": [["old"]]})
    FunctionScorer(destroys)(asked)
    assert asked.prompts.texts == (MESSAGES,)
    assert asked.prompts.columns == {"tags": (["old"],)}
    assert asked.completions == ("Hi!",)


async def count_slowly(completions: list[str], **columns: Any) -> list[int]:
    await asyncio.sleep(0)
    return [len(text) for text in completions]


def test_async_functions_also_inside_a_running_loop() -> None:
    assert scored(count_slowly) == [9, 0, 8]

    class Judge:
        async def __call__(self, completions: list[str]) -> list[int]:
            return await count_slowly(completions)

    assert scored(Judge()) == [9, 0, 8]

    async def notebook() -> list[float]:
        return scored(count_slowly)

    assert asyncio.run(notebook()) == [9, 0, 8]


def test_a_builtin_without_a_signature_gets_prompts_and_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opaque:
        __signature__ = "not a signature"

        def __call__(self, **given: Any) -> list[int]:
            assert set(given) == {"prompts", "completions"}
            return [1, 2, 3]

    assert scored(Opaque()) == [1, 2, 3]


# --------------------------------------------------------------------------------------------- names


def named(completions: list[str], scale: float = 1.0) -> list[float]:
    return [scale] * len(completions)


def test_names() -> None:
    class Judge:
        def __call__(self, completions: Any) -> Any: ...

    for function, name in (
        (named, "named"),
        (functools.partial(named, scale=2.0), "named"),
        (lambda completions: completions, "lambda"),
        (Judge(), "Judge"),
    ):
        assert FunctionScorer(function).names == (name,)
    assert FunctionScorer(named, "other").names == ("other",)
    assert scored(functools.partial(named, scale=2.0)) == [2, 2, 2]


# --------------------------------------------------------------------------------------------- what it may return


@pytest.mark.parametrize(
    "returned",
    [
        [1, 0.5, -2],
        (1.0, 0.5, -2.0),
        np.array([1, 0.5, -2]),
        np.array([1, 0.5, -2], dtype=np.float16),
        torch.tensor([1, 0.5, -2], dtype=torch.bfloat16),
        torch.tensor([1, 0.5, -2], requires_grad=True),
        [torch.tensor(1.0), np.float64(0.5), np.int64(-2)],
        [True, Fraction(1, 2), -2],
    ],
)
def test_numbers_of_every_kind(returned: Any) -> None:
    scores = FunctionScorer(lambda completions: returned)(rollout())
    assert scores.total.tolist() == [1, 0.5, -2]
    assert scores.total.dtype == torch.float32
    assert not scores.total.requires_grad
    assert torch.equal(scores.parts["lambda"], scores.total)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0, 2.0], "returned 2 scores for 3 completions"),
        ([], "returned 0 scores for 3 completions"),
        (torch.zeros(1, 3), "returned 1 scores for 3 completions"),
        (None, "returned None; it must return a list with one number for each of the 3"),
        (1.0, "returned a float, 1.0; it must return a list"),
        (torch.tensor(1.0), "returned a Tensor of shape (); it must return a list"),
        ({"rewards": [1, 2, 3]}, "returned a dict, {'rewards': [1, 2, 3]}; it must"),
        ("abc", "returned a str, 'abc'; it must"),
        ([1, "2", 3], "returned a str, '2' instead of a number for row 2 (\"A dog\") of 3"),
        ([1, 2j, "x"], 'returned a complex, 2j instead of a number for rows 2 ("A dog"), 3 ("It is") of 3'),
        (torch.zeros(3, 1), "returned a list, [0.0] instead of a number for rows 1"),
        ([[1], 2, 3], "returned a list, [1] instead of a number for row 1"),
        ([1, math.nan, 3], 'returned nan for row 2 ("A dog") of 3'),
        ([math.inf, 1, -math.inf], 'returned inf for rows 1 ("The film"), 3 ("It is") of 3'),
        (torch.tensor([1, 2, math.nan]), "returned nan for row 3"),
        ([1, 1e300, 3], "returned 1e+300 for row 2"),
        ([1, 10**400, 3], "for row 2"),
    ],
)
def test_what_is_no_score(returned: Any, said: str) -> None:
    message = refused(lambda completions: returned)
    assert message.startswith("reward function `lambda` returned")
    assert said in message


def test_none_means_not_applicable() -> None:
    def sometimes(completions: list[str]) -> list[float | None]:
        return [len(text) if text else None for text in completions]

    def always(completions: list[str]) -> list[float]:
        return [100.0] * len(completions)

    alone = FunctionScorer(sometimes)(rollout())
    assert alone.total.isnan().tolist() == [False, True, False]
    both = WeightedScorer([FunctionScorer(sometimes), FunctionScorer(always)])(rollout())
    assert both.total.tolist() == [109, 100, 108]
    assert both.parts["sometimes"].isnan().tolist() == [False, True, False]
    for sources in ([sometimes], [sometimes, sometimes]):
        with pytest.raises(RewardError, match=r'not applicable\) for row 2 \("A dog"\) of 3'):
            WeightedScorer([FunctionScorer(source) for source in sources])(rollout())


# --------------------------------------------------------------------------------------------- when it raises


def needs_text(completions: list[str]) -> list[float]:
    scores = []
    for text in completions:
        if "a" not in text:
            raise ValueError(f"nothing in {text!r}\nand more")
        scores.append(1.0)
    return scores


def test_which_rows_make_it_raise() -> None:
    message = refused(needs_text)
    line = needs_text.__code__.co_firstlineno + 4
    assert message.startswith(f"reward function `needs_text` raised ValueError: nothing in '' ({__file__}:{line})")
    assert 'for row 2 ("A dog") of 3.' in message


def test_at_most_five_rows_are_named() -> None:
    asked = tiny_rollout([f"p{i}" for i in range(9)], ["no"] * 8 + ["a"])
    with pytest.raises(RewardError) as caught:
        FunctionScorer(needs_text)(asked)
    assert 'rows 1 ("p0"), 2 ("p1"), 3 ("p2"), 4 ("p3"), 5 ("p4") and 3 more of 9' in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_batch_that_fails_as_a_whole() -> None:
    def small(completions: list[str]) -> list[float]:
        if len(completions) > 1:
            raise MemoryError
        return [1.0]

    message = refused(small)
    assert "`small` raised MemoryError (" in message
    assert "on the batch only: each row alone passes" in message


def test_the_place_is_the_functions_own_line() -> None:
    def reads(completions: list[str]) -> Any:
        import json

        return [json.loads(text) for text in completions]

    assert f"({__file__}:{reads.__code__.co_firstlineno + 3})" in refused(reads)


def test_async_functions_and_exits_are_caught_too() -> None:
    async def fails(completions: list[str]) -> list[float]:
        raise TimeoutError("no answer in 5 s")

    def leaves(completions: list[str]) -> list[float]:
        raise SystemExit("bye")

    assert "`fails` raised TimeoutError: no answer in 5 s" in refused(fails)
    assert "`leaves` raised SystemExit: bye" in refused(leaves)


@pytest.mark.parametrize("first", [True, False])
def test_ctrl_c_passes_through(first: bool) -> None:
    calls: list[int] = []

    def interrupted(completions: list[str]) -> list[float]:
        calls.append(len(completions))
        raise KeyboardInterrupt if first or len(calls) > 1 else ValueError

    with pytest.raises(KeyboardInterrupt):
        scored(interrupted)
    assert calls == ([3] if first else [3, 1])


# --------------------------------------------------------------------------------------------- signatures


def test_signatures_that_cannot_take_the_answers() -> None:
    assert "takes (prompts, label) and so cannot be given the answers" in refused(lambda prompts, label: [1, 2, 3])
    assert "takes () and so" in refused(lambda *args: [1, 2, 3])
    assert "takes `prompts` by position only" in refused(eval("lambda prompts, completions, /: [1, 2, 3]"))
    assert "is a str, 'x', and cannot be called" in refused("x")


def test_arguments_that_are_no_columns() -> None:
    message = refused(lambda completions, answer: [1, 2, 3], columns={"label": [1, 2, 3]})
    assert "needs `answer`, which is no column" in message
    assert "(there are prompts, completions, completion_ids, label)" in message


def test_columns_that_take_a_reserved_name() -> None:
    message = refused(lambda completions, **columns: [1, 2, 3], columns={"completions": ["a", "b", "c"]})
    assert "the prompts have a column `completions`" in message
    assert "Rename the column" in message
