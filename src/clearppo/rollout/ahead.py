"""A sampler that is one batch ahead: others write the next answers while the policy learns from these."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from clearppo.batch import Prompts
from clearppo.engines.base import Engine
from clearppo.rollout.sampler import Generation, Sampler


@runtime_checkable
class Asked(Sampler, Protocol):
    """A sampler whose answers are written elsewhere, with weights of their own, so that they can be waited for later.

    `generate` is these three in a row.
    """

    answered: int
    version: int

    def order(self, prompts: Prompts) -> Any:
        """What to ask for, with random numbers that nothing else gets. Every process calls it."""
        ...

    def ask(self, order: Any) -> Any:
        """The answers as plain values, as JSON has them. One process calls it, from any thread, and it talks to none of
        the others."""
        ...

    def read(self, answers: Any) -> Generation:
        """The same as a generation. Every process calls it."""
        ...


class AheadSampler:
    """Asks for the answers to the next prompts as soon as it has given those to the present ones (one step off-policy).

    It knows the next prompts because it has a look at all of them on their way (`watch`). Weights are handed over when
    the answers that are under way are there, so each batch but the first was drawn by the policy of one update before:
    its `policy_version` says so, and `importance_cap` corrects for it. Its numbers are never exact.

    The answers that are there already are part of the `state`: a run that goes on learns from them, as it would have.
    Only the first of several `processes` asks, in a thread that talks to no other process.
    """

    def __init__(self, sampler: Asked, processes: Engine) -> None:
        self.sampler = sampler
        self._processes = processes
        self._next: Prompts | None = None
        self._flight: _Flight | None = None

    def watch(self, batches: Iterator[Prompts]) -> Iterator[Prompts]:
        """The same prompts, of which the sampler then knows those that come next."""
        self._next, after = None, next(batches, None)
        while after is not None:
            now, after = after, next(batches, None)
            self._next = after
            yield now

    def generate(self, prompts: Prompts) -> Generation:
        """The answers, which may have been under way since the last call."""
        flight, following = self._flight, self._next
        if flight is None or not flight.answers_to(prompts):
            flight, following = self._begun(prompts), following if flight is None else None
        else:
            self._flight = None
        answers = self._processes.share(flight.answers)
        generation = replace(
            self.sampler.read(answers), exact=False, values=None, policy_version=flight.version
        )  # fmt: skip
        if following is not None:
            self._flight, self._next = self._begun(following), None
        return generation

    def load(self, policy: Any, version: int) -> None:
        """Hand the weights over, once nobody draws from the old ones any more."""
        if self._flight is not None:
            self._flight.wait()
        self.sampler.load(policy, version)

    def state(self) -> dict[str, Any]:
        """See Sampler: with the answers that were asked for ahead, which are waited for."""
        state, flight = self.sampler.state(), self._flight
        if flight is None:
            return {**state, "ahead": None}
        flight.wait()
        if flight.error is not None:  # to be asked for again
            return {**state, "answered": flight.first, "ahead": None}
        return {**state, "ahead": {**flight.kept(), "answered": self.sampler.answered}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Sampler. Answers that were not asked for last belong to a past that did not come about: a run that goes
        back, and on with other random numbers, leaves them."""
        if self._flight is not None:
            self._flight.wait()
        self._flight = None
        self.sampler.load_state({name: value for name, value in state.items() if name != "ahead"})
        ahead = state.get("ahead")
        if ahead is not None and ahead["answered"] == state["answered"]:
            self._flight = _Flight.landed(ahead)

    def _begun(self, prompts: Prompts) -> "_Flight":
        flight = _Flight(_tokens(prompts), self.sampler.version, self.sampler.answered)
        order = self.sampler.order(prompts)
        if self._processes.rank == 0:
            flight.begin(lambda: self.sampler.ask(order))
        return flight


def foreseen(sampler: Sampler, batches: Iterator[Prompts]) -> Iterator[Prompts]:
    """The prompts of a loop; a sampler that is ahead looks at what comes next."""
    return sampler.watch(batches) if isinstance(sampler, AheadSampler) else batches


class _Flight:
    """Answers that are under way, or there."""

    def __init__(self, tokens: list[list[int]], version: int, first: int) -> None:
        self.tokens, self.version, self.first = tokens, version, first
        self.error: BaseException | None = None
        self._found: Any = None
        self._thread: threading.Thread | None = None

    @classmethod
    def landed(cls, kept: Mapping[str, Any]) -> "_Flight":
        """Of answers that a checkpoint holds."""
        flight = cls(kept["tokens"], kept["version"], kept["first"])
        flight._found = kept["found"]
        return flight

    def kept(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"tokens": self.tokens, "version": self.version, "first": self.first, "found": self._found}

    def begin(self, ask: Any) -> None:
        """Ask, in a thread."""

        def run() -> None:
            try:
                self._found = json.loads(json.dumps(ask()))  # what a checkpoint holds, and what others are told
            except BaseException as error:  # raised where the answers are wanted
                self.error = error

        self._thread = threading.Thread(target=run, name="clearppo answers ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nobody writes any more; on the process that asks."""
        if self._thread is not None:
            self._thread.join()

    def answers(self) -> Any:
        """What was found, or the error."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._found

    def answers_to(self, prompts: Prompts) -> bool:
        return self.tokens == _tokens(prompts)


def _tokens(prompts: Prompts) -> list[list[int]]:
    return [ids[there].tolist() for ids, there in zip(prompts.ids, prompts.mask, strict=True)]
