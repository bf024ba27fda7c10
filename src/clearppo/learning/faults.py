"""When numbers go wrong: a batch whose loss or gradient is not finite is not learned from, and it is told why.

The look at every mini-batch costs nothing, for its sums are on the host anyway; the search for the place begins when
there is something to find.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from clearppo.batch import Experience, Rollout, Sequences, Stats
from clearppo.data.comparisons import ComparisonBatch
from clearppo.engines.base import Engine
from clearppo.errors import ClearPPOError, NumbersError
from clearppo.models.whole import whole

SKIPPED = "faults/skipped_steps"
"""Under which name a step that was not taken is counted in `Stats`."""
MEND = "Use a smaller --learning_rate, or --dtype float32 --bf16 false."
Batch = Experience | Rollout | Sequences | ComparisonBatch


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something not finite stands, as far as is known: `phase` made `tensor`; row and token from 0; `layer` is
    the module or the parameter. `words` says it to people, counting from 1."""

    phase: str
    tensor: str
    words: str
    row: int | None = None
    token: int | None = None
    layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A batch that was not learned from: what of it is not finite, when that was, and where it begins.

    `settings` are the numbers of the loss, for whoever looks at the batch again. `cause` is the error that told of it,
    where one did.
    """

    what: str
    place: Place
    batch: Batch
    when: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cause: ClearPPOError | None = None

    @property
    def sentence(self) -> str:
        """What is wrong, without a full stop: that of the cause if there is one."""
        return (
            str(self.cause).rstrip(".") if self.cause else f"{self.what} is not finite{self.when}: {self.place.words}"
        )


@runtime_checkable
class Guard(Protocol):
    """Decides what becomes of a run in which numbers go wrong."""

    def good(self) -> None:
        """A step was taken."""
        ...

    def bad(self, fault: Fault) -> None:
        """A step was not taken, and the weights are those before it. Raises if the run is not to go on."""
        ...


class Strict:
    """The first fault ends the run: NumbersError."""

    def good(self) -> None: ...

    def bad(self, fault: Fault) -> None:
        raise fault.cause or NumbersError(f"{fault.sentence}. The weights are those before it. {MEND}")


STRICT = Strict()


def guarded_step(
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    max_norm: float | None,
    *,
    seen: Stats,
    guard: Guard,
    examine: Callable[[str, Place | None], Fault],
    norm: str = "grad_norm",
) -> Stats:
    """`engine.step` if what was measured (`seen`) and the gradient are finite: `seen` and the gradient's norm before
    clipping, under the name `norm`. Otherwise no step: `guard` is told what `examine(what, of the gradient)` found, and
    the stats are one of SKIPPED and nothing else."""
    wrong = next((name for name, value in seen.sums.items() if _tells(name) and not math.isfinite(value)), None)
    length = math.nan if wrong else engine.step(optimiser, [parameter for _, parameter in named], max_norm)
    if math.isfinite(length):
        guard.good()
        return seen + Stats(sums={norm: length}, counts={norm: 1.0})
    of_gradient = _of_gradient(named)
    optimiser.zero_grad(set_to_none=True)  # before the search, which needs memory too
    what = "the gradient" if wrong is None else "the loss" if "loss" in wrong else "the log-prob"
    guard.bad(examine(what, of_gradient))
    return Stats(sums={SKIPPED: 1.0}, counts={SKIPPED: 1.0})


def _tells(name: str) -> bool:
    """Whether a sum is of something that is learned from: a loss, or new against old log-probs."""
    return "loss" in name or name == "policy/approxkl_avg"


def _of_gradient(named: Sequence[tuple[str, nn.Parameter]]) -> Place | None:
    """The parameter whose gradient went wrong first: a backward pass begins at the loss, with the last of them."""
    wrong = [name for name, parameter in named if parameter.grad is not None and not _finite(parameter.grad)]
    if not wrong:
        return None
    words = f"on the way back from the loss first in {wrong[-1]} ({len(wrong)} of {len(named)} parameters)"
    return Place(phase="learning", tensor="gradient", words=words, layer=wrong[-1])


def first_cell(
    phase: str, name: str, tensor: Tensor, rows: Sequence[int] | None = None, mask: Tensor | None = None
) -> Place | None:
    """The first cell of [B, T] or [B] that is not finite, read row by row; `rows` are the numbers of the rows in the
    batch. Cells outside of `mask` are not looked at."""
    wrong = ~tensor.isfinite() if mask is None else ~tensor.isfinite() & mask
    cells = wrong.nonzero()
    if not len(cells):
        return None
    row, *token = cells[0].tolist()
    number, value = row if rows is None else rows[row], float(tensor[tuple(cells[0])])
    of_token = f", token {token[0] + 1}," if token else ""
    words = f"{name} of row {number + 1}{of_token} is {value} ({phase})"
    return Place(phase=phase, tensor=name, words=words, row=number, token=token[0] if token else None)


def first_weight(model: nn.Module) -> Place | None:
    """The first weight of the model that is itself not finite."""
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return Place(phase="learning", tensor="weight", words=f"the weight {name} itself is not", layer=name)
    return None


@contextlib.contextmanager
def first_layer(model: nn.Module) -> Iterator[list[str]]:
    """While this is open, the list gets the names of the model's modules whose outputs are not finite, in the order in
    which they are done: the first is where it began."""
    found = list[str]()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: None if _finite(output) else found.append(name)

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    """Whether all floating-point tensors in a module's output are finite."""
    match value:
        case Tensor():
            return not value.is_floating_point() or bool(whole(value).isfinite().all())
        case Mapping():
            return all(_finite(item) for item in value.values())
        case tuple() | list():
            return all(_finite(item) for item in value)
        case _:
            return True
