"""What ClearPPO's web servers share: a bound socket, an application that answers to this machine alone, errors as JSON.

Nothing here knows what is served. FastAPI and uvicorn are extras, so they are imported where they are needed.
"""

import asyncio
import importlib
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clearppo.errors import ClearPPOError, ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BACKLOG = 512
"""Connections that may wait to be taken."""
BODY_SECONDS = 60.0
"""A body that is not there by then is given up: connections are not held open for ever."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""What every answer says, unless it says otherwise itself."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RefusedError(Exception):
    """A request that cannot be answered: HTTP status, sentence, headers. `base_app` sends it as {"error": sentence}."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


def require_packages(command: str, extra: str, packages: Mapping[str, str]) -> None:
    """Raises ConfigError, with the extra to install, unless all these packages are there; names by module."""
    absent: list[str] = []
    cause: ImportError | None = None
    for module, name in packages.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            absent.append(name)
            cause = error
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise ConfigError(
            f"{command} needs {' and '.join(absent)}, which {are} not installed. "
            f"Install with pip install 'clearppo[{extra}]'."
        ) from cause


def base_app(*, loopback: bool = True, lifespan: Any = None) -> Any:
    """A FastAPI application without routes, whose errors are JSON, {"error": sentence}.

    RefusedError becomes its status, ClearPPOError and a parameter that is missing or wrong 422; what is none of these
    keeps its traceback on the terminal. With `loopback` it answers to this machine's names only, so that no web page
    can reach it by a name of its own.
    """
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan)

    async def refused(_request: Request, error: Any) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status, headers=error.headers)

    async def understood(_request: Request, error: Any) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    async def mistaken(_request: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])[:60]
        said = "is missing" if first["type"] == "missing" else f"cannot be read ({first['msg']})"
        return JSONResponse({"error": f"`{name}` {said}"}, 422)

    async def plain(request: Request, error: Any) -> JSONResponse:
        known = {404: f"there is nothing at {request.url.path[:200]}", 405: f"{request.method} is not answered here"}
        sentence = known.get(error.status_code, str(error.detail))
        return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)

    async def unexpected(_request: Request, _error: Any) -> JSONResponse:
        return JSONResponse({"error": "something unexpected went wrong; the server's terminal says what"}, 500)

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(ClearPPOError, understood)
    app.add_exception_handler(RequestValidationError, mistaken)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Exception, unexpected)
    app.add_middleware(_Door, names=LOOPBACK if loopback else None)
    return app


class _Door:
    """Lets in who asks for a name of this machine, and gives every answer its headers."""

    def __init__(self, app: Any, names: tuple[str, ...] | None) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                said = {name.lower() for name, _ in headers}
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = headers + [pair for pair in more if pair[0] not in said]
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if self.names is not None and (len(hosts) != 1 or host_name(hosts[0]) not in self.names):
            await _refuse_host(with_headers, hosts)
        else:
            await self.app(scope, receive, with_headers)


async def _refuse_host(send: Send, hosts: list[str]) -> None:
    asked = ", ".join(hosts)[:100] or "nobody"
    body = json.dumps({"error": f"this server answers to localhost and 127.0.0.1 only, and not to {asked}"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def host_name(host: str) -> str:
    """The name in a Host header, in small letters, without port and brackets."""
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.strip("[]").lower()


async def json_body(request: Any, *, max_bytes: int, mend: str) -> dict[str, Any]:
    """The request's JSON object. JSON must be announced: a web page cannot do so to another site unasked.

    Raises RefusedError; `mend` is what to do about a body above `max_bytes`.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, f"Content-Type is {kind[:60] or 'missing'}; it must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise RefusedError(413, f"the body is larger than {max_bytes / 2**20:g} MiB; {mend}")
    except TimeoutError:
        raise RefusedError(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        seen = repr(value)[:60]
        raise RefusedError(400, f"the body is a {type(value).__name__}, {seen}; it must be a JSON object")
    return value


def require_same_origin(request: Any) -> None:
    """Raises RefusedError for a request that a page of another site sends. For whatever changes something."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        raise RefusedError(403, f"this comes from a page of {origin[:100]}; only the server's own pages may ask for it")


def add_pages(app: Any, static: Path, *, index: str) -> None:
    """Serve the files of a directory below /static/, and one of them at /."""
    from fastapi.responses import FileResponse
    from fastapi.staticfiles import StaticFiles

    async def home() -> FileResponse:
        return FileResponse(static / index)

    app.get("/", response_model=None)(home)
    app.mount("/static", StaticFiles(directory=static))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any that is free. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host = {host} is no address of this machine ({error}). Use --host 127.0.0.1.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on host = {host}, port = {port} ({error.strerror or error}). Use another --port, or 0 for "
            "any that is free."
        ) from error
    bound.listen(BACKLOG)
    bound.set_inheritable(True)
    return bound


def address(host: str, bound: socket.socket) -> str:
    """The URL of a server on this socket, without a path."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound.getsockname()[1]}"


def make_server(app: Any, *, grace: int = 30) -> Any:
    """A uvicorn server, to be run with `sockets`; its `should_exit` ends it. Requests under way get `grace` seconds."""
    import uvicorn

    # One line an error, none a request: a run, or an open page, asks thousands of times.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=grace, server_header=False
    )
    return uvicorn.Server(config)
