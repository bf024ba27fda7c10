"""A reward model behind HTTP: /score in our form, /get_reward in OpenRLHF's, /health. Bad requests get one sentence."""

import asyncio
import contextlib
import hmac
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo import web
from clearppo.errors import ClearPPOError
from clearppo.feedback.batcher import Batcher, BusyError, Marker
from clearppo.feedback.returned import in_words
from clearppo.web import RefusedError

WAITING = 16
"""Requests of the largest size whose rows may wait; further ones are told to come again."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold, and how many rows pass through the model together."""

    batch_rows: int
    max_rows: int
    max_bytes: int


Reading = Callable[[Mapping[str, Any], Limits], tuple[list[Any], list[str]]]
"""From a request's JSON to prompts and answers."""


def make_app(marker: Marker, *, name: str, limits: Limits, token: str | None = None, loopback: bool = True) -> Any:
    """The FastAPI application. A thread of its own marks the answers until the application ends.

    With `token` every request but /health needs `Authorization: Bearer TOKEN`. With `loopback` it answers to this
    machine's names only, so that no web page can reach it by a name of its own. Raises ConfigError without FastAPI.
    """
    web.require_packages("clearppo serve-reward", "serve", {"fastapi": "FastAPI", "uvicorn": "uvicorn"})
    from fastapi import Request

    batcher = Batcher(marker, max_rows=limits.batch_rows, max_waiting=WAITING * limits.max_rows)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    async def answered(request: Request, key: str, read: Reading) -> dict[str, Any]:
        _authorise(request, token)
        body = await web.json_body(request, max_bytes=limits.max_bytes, mend="send fewer rows a request")
        prompts, completions = read(body, limits)
        return {key: await _scored(batcher, prompts, completions)}

    async def score(request: Request) -> dict[str, Any]:
        return await answered(request, "scores", read_rows)

    async def get_reward(request: Request) -> dict[str, Any]:
        return await answered(request, "rewards", read_queries)

    async def health() -> dict[str, str]:
        return {"status": "ok", "model": name}

    app = web.base_app(loopback=loopback, lifespan=lifespan)
    app.post("/score", response_model=None)(score)
    app.post("/get_reward", response_model=None)(get_reward)
    app.get("/health", response_model=None)(health)
    return app


def _authorise(request: Any, token: str | None) -> None:
    given = request.headers.get("Authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise RefusedError(
            401, "give the server's token as Authorization: Bearer TOKEN", **{"WWW-Authenticate": "Bearer"}
        )


async def _scored(batcher: Batcher, prompts: Sequence[Any], completions: Sequence[str]) -> list[float | None]:
    try:
        scores = await asyncio.wrap_future(batcher.submit(prompts, completions))
    except BusyError:
        again = {"Retry-After": "1"}
        raise RefusedError(503, "too many answers are waiting; ask again in a moment", **again) from None
    except ClearPPOError as error:
        raise RefusedError(422, str(error)) from error
    return [score if math.isfinite(score) else None for score in scores]  # JSON has no NaN; null is no score


def read_rows(request: Mapping[str, Any], limits: Limits) -> tuple[list[Any], list[str]]:
    """Prompts and answers of our own form, {"prompts": [...], "completions": [...]}; other columns are not read."""
    prompts = _column(request, "prompts", limits)
    completions = _column(request, "completions", limits)
    if len(prompts) != len(completions):
        raise RefusedError(422, f"there are {len(prompts)} prompts and {len(completions)} completions")
    for row, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str) and not _are_messages(prompt):
            raise RefusedError(422, f"prompts, row {row}: {in_words(prompt)} is neither text nor a list of messages")
    return prompts, [_answer(completion, row) for row, completion in enumerate(completions, start=1)]


def read_queries(request: Mapping[str, Any], limits: Limits) -> tuple[list[Any], list[str]]:
    """Prompts and answers of OpenRLHF's form, {"query": [...], "prompts": [...]}: a query is the prompt and its answer,
    one text; where it does not begin with the prompt, or there are no prompts, it is read whole."""
    queries = _column(request, "query", limits)
    prompts = _column(request, "prompts", limits) if request.get("prompts") else [""] * len(queries)
    if len(prompts) != len(queries):
        raise RefusedError(422, f"there are {len(prompts)} prompts and {len(queries)} queries")
    for name, texts in (("query", queries), ("prompts", prompts)):
        for row, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise RefusedError(422, f"{name}, row {row}: {in_words(text)} is no text")
    starts = [prompt if query.startswith(prompt) else "" for prompt, query in zip(prompts, queries, strict=True)]
    return starts, [query.removeprefix(start) for start, query in zip(starts, queries, strict=True)]


def _column(request: Mapping[str, Any], name: str, limits: Limits) -> list[Any]:
    values = request.get(name)
    if not isinstance(values, list) or not values:
        found = f"{name} is {in_words(values)}" if name in request else f"there is no {name}"
        raise RefusedError(422, f"{found}; it must be a list with an entry for each answer")
    if len(values) > limits.max_rows:
        raise RefusedError(413, f"{name} has {len(values)} rows; send at most {limits.max_rows} a request")
    return values


def _answer(completion: Any, row: int) -> str:
    """An answer as text: itself, or the one message of the assistant."""
    if isinstance(completion, str):
        return completion
    if _are_messages(completion) and len(completion) == 1:
        return completion[0]["content"]
    raise RefusedError(422, f"completions, row {row}: {in_words(completion)} is neither text nor a list of one message")


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
            for message in value
        )
    )
