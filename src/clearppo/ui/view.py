"""The application of `clearppo view`: its pages, and the API that they read. It answers GET and writes nothing."""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from clearppo import web
from clearppo.record.read import FILTERS, RANGES
from clearppo.ui.explain import pages
from clearppo.ui.library import Library
from clearppo.ui.runs import Index
from clearppo.web import RefusedError

STATIC = Path(__file__).parent / "static"
PACKAGES = {"fastapi": "FastAPI", "uvicorn": "uvicorn", "plotly": "Plotly"}
LONGEST_PAGE = 500
"""Most answers a page."""

Endpoint = Callable[[Library, Any], Any]
"""From the library and a request to what is sent as JSON."""


def make_app(index: Index) -> Any:
    """The FastAPI application. Raises ConfigError, with what to install, where a package is missing."""
    web.require_packages("clearppo view", "view", PACKAGES)
    from fastapi import Request, Response
    from fastapi.responses import FileResponse

    app, library = web.base_app(), Library(index)

    def served(answer: Endpoint) -> Callable[..., Response]:
        def endpoint(request: Request) -> Response:
            try:
                content = as_json(answer(library, request))
            except OSError as error:  # a run may be deleted, overwritten or gone on with while somebody looks at it
                raise web.RefusedError(
                    404, f"a file of the run cannot be read now ({error.strerror or error})"
                ) from error
            return Response(content, media_type="application/json")

        return endpoint

    def plotly() -> FileResponse:
        return FileResponse(plotly_file(), headers={"Cache-Control": "max-age=86400"})

    for path, answer in ROUTES.items():
        app.get(path, response_model=None)(served(answer))
    app.get("/static/plotly.min.js", response_model=None)(plotly)
    web.add_pages(app, STATIC, index="index.html")
    return app


def plotly_file() -> Path:
    """Plotly's script as its Python package brings it."""
    found = importlib.util.find_spec("plotly")
    assert found is not None
    assert found.origin is not None  # make_app has looked
    return Path(found.origin).parent / "package_data" / "plotly.min.js"


def as_json(value: Any) -> bytes:
    """JSON, in which what is no number is null, and what is no text (half a surrogate pair) a question mark."""
    as_it_is = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), default=str, skipkeys=True)
    try:
        text = as_it_is(value, allow_nan=False)
    except ValueError:
        text = as_it_is(_finite(value))
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


# --------------------------------------------------------------------------------------------- reading requests


def _run(request: Any) -> str:
    return request.path_params["run"]


def _number(request: Any, name: str) -> int:
    """A number in the path."""
    text = request.path_params[name]
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise RefusedError(404, f"{name} = {text[:60]!r}; it must be a whole number, 0 or more")
    return int(text)


def _count(request: Any, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) > most:
        raise RefusedError(422, f"{name} = {text[:60]!r}; it must be a whole number from 0 to {most}")
    return int(text)


def _choice(request: Any, name: str, choices: Mapping[str, Any]) -> Any:
    text = request.query_params.get(name) or next(iter(choices))
    if text not in choices:
        raise RefusedError(422, f"{name} = {text[:60]!r}; it must be {' or '.join(filter(None, choices))}")
    return choices[text]


def _filters(request: Any) -> dict[str, Any]:
    """The filters of a page of answers, as the record takes them."""
    found: dict[str, Any] = {}
    for name in FILTERS:
        text = request.query_params.get(name)
        if not text:
            continue
        if name == "learned":
            found[name] = _choice(request, name, {"true": True, "false": False})
        elif name.partition("_")[2] in RANGES:
            found[name] = _bound(name, text)
        else:
            found[name] = text
    return found


def _bound(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise RefusedError(422, f"{name} = {text[:60]!r}; it must be a number")
    return value


# --------------------------------------------------------------------------------------------- what is asked for


def _runs(library: Library, _request: Any) -> Any:
    return library.runs()


def _one_run(library: Library, request: Any) -> Any:
    return library.run(_run(request))


def _metrics(library: Library, request: Any) -> Any:
    return library.metrics(_run(request), request.query_params.get("cursor"))


def _iteration(library: Library, request: Any) -> Any:
    return library.iteration(
        _run(request),
        _number(request, "step"),
        sort=request.query_params.get("sort") or None,
        descending=_choice(request, "order", {"asc": False, "desc": True}),
        query=request.query_params.get("q", ""),
        filters=_filters(request),
        offset=_count(request, "offset", 0, 10**9),
        limit=_count(request, "limit", 50, LONGEST_PAGE),
    )


def _answer(library: Library, request: Any) -> Any:
    return library.answer(_run(request), _number(request, "step"), _number(request, "row"))


def _token(library: Library, request: Any) -> Any:
    return library.token(_run(request), _number(request, "step"), _number(request, "row"), _number(request, "token"))


def _prompts(library: Library, request: Any) -> Any:
    return library.prompts(
        _run(request),
        query=request.query_params.get("q", ""),
        offset=_count(request, "offset", 0, 10**9),
        limit=_count(request, "limit", 50, LONGEST_PAGE),
    )


def _prompt(library: Library, request: Any) -> Any:
    return library.prompt(_run(request), request.path_params["prompt"])


def _reward_report(library: Library, request: Any) -> Any:
    return library.reward_report(_run(request))


def _evaluation(library: Library, request: Any) -> Any:
    return library.evaluation(_run(request), _number(request, "step"))


def _explain(_library: Library, _request: Any) -> Any:
    return pages()


def _health(_library: Library, _request: Any) -> Any:
    return {"status": "ok"}


ROUTES: Mapping[str, Endpoint] = {
    "/healthz": _health,
    "/api/explain": _explain,
    "/api/runs": _runs,
    "/api/runs/{run}": _one_run,
    "/api/runs/{run}/metrics": _metrics,
    "/api/runs/{run}/iterations/{step}": _iteration,
    "/api/runs/{run}/iterations/{step}/answers/{row}": _answer,
    "/api/runs/{run}/iterations/{step}/answers/{row}/tokens/{token}": _token,
    "/api/runs/{run}/prompts": _prompts,
    "/api/runs/{run}/prompts/{prompt}": _prompt,
    "/api/runs/{run}/reward_report": _reward_report,
    "/api/runs/{run}/evaluation/{step}": _evaluation,
}
