"""The verdict on a policy follows from the changes: whole intervals above or below 0, not mere means."""

import math

import pytest

from clearppo.train.verdict import Change, change_of, verdict


def change(mean: float, half: float) -> Change:
    return Change(before=(0.0, 0.1), after=(mean, 0.1), change=(mean, half))


def test_answers_to_one_prompt_are_averaged_before_the_interval() -> None:
    # two prompts, two answers each: first answers of both, then second ones
    found = change_of([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 6.0], 2)
    assert found.before[0] == 1.5  # prompts' means: 1 and 2
    assert found.after[0] == 3.0  # 2 and 4
    assert found.change[0] == 1.5  # 1 and 2
    assert found.change[1] == pytest.approx(1.96 * math.sqrt(0.5 / 2))


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="do not fit 2 prompts"):
        change_of([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 2)


@pytest.mark.parametrize(
    ("own", "others", "words"),
    [
        ((1.0, 0.1), {"A": (0.5, 0.1), "B": (0.2, 0.1)}, "improved in truth, as far as A and B can tell"),
        ((1.0, 0.1), {"A": (0.5, 0.1), "B": (0.1, 0.2)}, "improved in truth, as far as A can tell"),
        ((1.0, 0.1), {"A": (0.1, 0.2)}, "improved only in the eyes of it: by A, which was not optimised, no"),
        ((1.0, 0.1), {"A": (-0.5, 0.2), "B": (0.5, 0.1)}, "improved only in the eyes of it: by A"),
        ((0.1, 0.2), {"A": (0.5, 0.1)}, "did not improve even in the eyes of it"),
        ((-1.0, 0.2), {"A": (0.5, 0.1)}, "did not improve even in the eyes of it"),
    ],
)
def test_the_words(own: tuple[float, float], others: dict[str, tuple[float, float]], words: str) -> None:
    assert words in verdict(("it", change(*own)), {name: change(*pair) for name, pair in others.items()})
