"""A web service as a scorer: answers go out as JSON, one number an answer comes back."""

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from clearppo.batch import Rollout
from clearppo.errors import RewardError
from clearppo.feedback.http_client import HTTPClient, Patience
from clearppo.feedback.returned import finite_scores, given_completions, in_words, require_json
from clearppo.feedback.scorer import Scores, rows_in_words

WireFormat = Literal["clearppo", "openrlhf"]
Null = Literal["skip", "stop", "drop"]

OWN = ("prompts", "completions")
"""What our own request holds beside the columns of the data."""


class HTTPScorer:
    """Scores from a web service. It is sent, at most `batch_size` rows at a time and `concurrency` requests at once,

        clearppo   {"prompts": [...], "completions": [...], and each other column of the data by its name}
        openrlhf   {"query": [prompt and answer], "prompts": [...], "labels": [the column label or labels, or null]}

    and answers {"scores": [...]} or {"rewards": [...]} (openrlhf: {"rewards": [...]}), one number a row. Prompts and
    completions are as reward functions are given them; in OpenRLHF's form all is text, and `render` writes messages.

    `null` for a row is, by `null`: "skip", not applicable (NaN in the scores); "stop", an error; "drop", a row that the
    caller is to leave out (`Scores.missing`). A list of another length, or anything but a finite number, is an error.

    Which request is answered first changes nothing. `note` is told, once a batch, when the server fails and is asked
    again, and when it answers again. Raises ConfigError for a URL that is not http or https; RewardError, with the
    reason, if there is no usable answer when `client.patience` has ended. KeyboardInterrupt passes through.
    """

    def __init__(
        self,
        client: HTTPClient,
        *,
        batch_size: int = 16,
        concurrency: int = 1,
        wire: WireFormat = "clearppo",
        null: Null = "skip",
        name: str = "judge",
    ) -> None:
        self.client = client
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.wire = wire
        self.null = null
        self.name = name
        self.names = (name,)
        self.render: Callable[[Any], str] = _plainly
        self.note: Callable[[str], None] = _silently

    def __call__(self, rollout: Rollout) -> Scores:
        bodies = [self._body(rows) for rows in self._portions(rollout)]
        answers = self._answers(bodies)
        scores: list[Any] = []
        for place, answer in enumerate(answers):
            count = min(self.batch_size, len(rollout) - place * self.batch_size)
            scores += self._marks(answer, count)
        absent = frozenset(row for row, score in enumerate(scores) if score is None)
        if absent and self.null == "stop":
            raise self.client.error(
                f"gave no score (null) for {rows_in_words(sorted(absent), rollout.prompts)}. Have it answer a number "
                "for each, or leave such rows out of the update with --reward_missing drop."
            )
        total = finite_scores(scores, rollout.prompts, self.client.who).to(rollout.responses.device)
        return Scores(
            total=total, parts={self.name: total}, missing=absent if self.null == "drop" else frozenset[int]()
        )

    def _portions(self, rollout: Rollout) -> list[dict[str, list[Any]]]:
        whole = self._request(rollout)
        return [
            {name: values[start : start + self.batch_size] for name, values in whole.items()}
            for start in range(0, len(rollout), self.batch_size)
        ]

    def _request(self, rollout: Rollout) -> dict[str, list[Any]]:
        columns = rollout.prompts.columns
        if self.wire == "openrlhf":
            prompts = [self.render(prompt) for prompt in rollout.prompts.texts]
            query = [prompt + answer for prompt, answer in zip(prompts, rollout.completions, strict=True)]
            labels = columns.get("label", columns.get("labels", [None] * len(rollout)))
            return {"query": query, "prompts": prompts, "labels": list(labels)}
        if taken := [name for name in OWN if name in columns]:
            raise RewardError(
                f"the prompts have a column `{taken[0]}`, and {self.client.who} is sent its own {' and '.join(OWN)}. "
                "Rename the column."
            )
        others = {name: list(values) for name, values in columns.items()}
        return {"prompts": list(rollout.prompts.texts), "completions": given_completions(rollout), **others}

    def _body(self, rows: Mapping[str, list[Any]]) -> bytes:
        require_json(rows, self.client.who, "remove the column")
        return json.dumps(_without_nan(rows)).encode()

    def _answers(self, bodies: Sequence[bytes]) -> list[dict[str, Any]]:
        """What the server says to each body, in order. The first failure for good ends them all.

        Daemon threads, not a pool: Ctrl-C and an error must not wait for a server that is silent.
        """
        todo, done = queue.SimpleQueue[tuple[int, bytes]](), queue.SimpleQueue[tuple[int, Any]]()
        for job in enumerate(bodies):
            todo.put(job)
        stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    place, body = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((place, self.client.ask(body, stopped, lambda said: done.put((-1, said)))))
                except BaseException as error:
                    done.put((place, error))

        for _ in range(min(self.concurrency, len(bodies))):
            threading.Thread(target=work, daemon=True, name="reward-request").start()
        try:
            return self._gathered(done, len(bodies))
        finally:
            stopped.set()

    def _gathered(self, done: "queue.SimpleQueue[tuple[int, Any]]", count: int) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        failed_at: float | None = None
        while len(answers) < count:
            place, got = done.get()
            if isinstance(got, BaseException):
                raise got
            if isinstance(got, dict):
                answers[place] = got
            elif failed_at is None:
                failed_at = time.monotonic()
                self.note(f"{got}; asking again for up to {self.client.patience.total:g} seconds")
        if failed_at is not None:
            self.note(f"{self.client.who} answers again, after {time.monotonic() - failed_at:.0f} seconds")
        return [answers[place] for place in range(count)]

    def _marks(self, answer: Mapping[str, Any], count: int) -> list[Any]:
        """What the server says of `count` rows, one entry each; whether they are numbers is looked at later."""
        wanted = "rewards" if self.wire == "openrlhf" else "scores"
        scores = answer.get("scores", answer.get("rewards")) if wanted == "scores" else answer.get("rewards")
        if not isinstance(scores, list):
            raise self.client.error(
                f"answered {in_words(answer)}, which holds no list `{wanted}`. "
                f'It must answer {{"{wanted}": [...]}} with one number for each completion.'
            )
        if len(scores) != count:
            raise self.client.error(
                f"returned {len(scores)} scores for {count} completions. It must return one for each."
            )
        return scores


def http_scorer(
    url: str,
    *,
    noun: str = "the judge at",
    option: str = "judge_url",
    patience: Patience | None = None,
    token: str | None = None,
    **more: Any,
) -> HTTPScorer:
    """An HTTPScorer with a client of its own, checked as far as it can be: somebody must listen at `url`.

    Raises ConfigError for what is no URL, RewardError if nobody listens.
    """
    client = HTTPClient(url, noun=noun, option=option, patience=patience, token=token)
    client.require_listener()
    return HTTPScorer(client, **more)


def _plainly(prompt: Any) -> str:
    """A prompt as text where no chat template is at hand: messages one after the other."""
    return prompt if isinstance(prompt, str) else "\n\n".join(str(message["content"]) for message in prompt)


def _silently(_said: str) -> None:
    pass


def _without_nan(value: Any) -> Any:
    """The same JSON with null for each number that is not finite, which JSON does not have and data do."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value
