"""Did a policy improve in truth, or only in the eyes of what it was optimised against? Numbers first, then words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clearppo.train.evaluation import mean_interval


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measure before and after, over prompts: means, and the mean of the differences, each with half of its 95 %
    interval. Answers to one prompt are averaged first: they are no independent observations."""

    before: tuple[float, float]
    after: tuple[float, float]
    change: tuple[float, float]

    @property
    def rose(self) -> bool:
        """Whether the whole interval of the change lies above 0."""
        return self.change[0] - self.change[1] > 0

    @property
    def fell(self) -> bool:
        """Whether the whole interval of the change lies below 0."""
        return self.change[0] + self.change[1] < 0


def change_of(before: Sequence[float], after: Sequence[float], n_prompts: int) -> Change:
    """The change of a measure. Both sequences hold the prompts' first answers in order, then their second, and so on.

    Raises ValueError if the lengths are not the same multiple of `n_prompts`.
    """
    if len(before) != len(after) or not before or len(before) % n_prompts:
        raise ValueError(f"{len(before)} scores before and {len(after)} after do not fit {n_prompts} prompts")
    first, second = by_prompt(before, n_prompts), by_prompt(after, n_prompts)
    return Change(
        before=mean_interval(first),
        after=mean_interval(second),
        change=mean_interval([b - a for a, b in zip(first, second, strict=True)]),
    )


def by_prompt(values: Sequence[float], n_prompts: int) -> list[float]:
    """The mean over each prompt's answers."""
    each = len(values) // n_prompts
    return [sum(values[i::n_prompts]) / each for i in range(n_prompts)]


def verdict(optimised: tuple[str, Change], held_out: Mapping[str, Change]) -> str:
    """One or two sentences: the optimised measure's change against those of measures that were not optimised."""
    name, own = optimised
    up = [other for other, change in held_out.items() if change.rose]
    down = [other for other, change in held_out.items() if change.fell]
    unmoved = [other for other in held_out if other not in up and other not in down]
    if not own.rose:
        return f"The policy did not improve even in the eyes of {name}, which it was optimised against."
    if down:
        return (
            f"The policy improved only in the eyes of {name}: by {_list(down)}, which {_was(down)} not optimised, it "
            f"became worse{f' (though better by {_list(up)})' if up else ''}. It learned to please, not to be good."
        )
    if not up:
        return (
            f"The policy improved only in the eyes of {name}: by {_list(unmoved)}, which {_was(unmoved)} not "
            "optimised, no change can be told from chance."
        )
    rest = f" ({_list(unmoved)} cannot tell)" if unmoved else ""
    return f"The policy improved in truth, as far as {_list(up)} can tell, which {_was(up)} not optimised{rest}."


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
