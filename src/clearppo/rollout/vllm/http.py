"""One vLLM server, asked by HTTP: connections are kept, and an answer is waited for as long as the server lives."""

import http.client
import json
import os
import select
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from clearppo.errors import ConfigError, TrainingError

BEAT = 20.0
"""Seconds of silence after which a server is asked whether it is well."""
CONNECTING = 5.0


class EngineLost(TrainingError):  # noqa: N818 said of an engine, and caught where another one is asked
    """An engine that no longer answers, or whose process inside has ended. Another one may be asked the same."""


class EngineRefused(TrainingError):  # noqa: N818
    """An engine that answered with an error: any other one would, too."""


class EngineHTTP:
    """The JSON routes of the server at `url`. Threads may ask at once: each has a connection of its own.

    The environment's VLLM_API_KEY goes along as a header, as vLLM's own server reads it, and into no message. Raises
    ConfigError for a URL that is none.
    """

    def __init__(self, url: str, *, timeout: float = 240.0) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.path.strip("/"):
            raise ConfigError(
                f"vllm_server_base_url = {url!r} is no address of a server. Use --vllm_server_base_url "
                "http://localhost:8000, several with commas between them."
            )
        self.url = url.rstrip("/")
        self.host = parts.hostname
        self._port = port
        self._secure = parts.scheme == "https"
        self._timeout = timeout
        self._kept = threading.local()

    def get(self, path: str) -> Any:
        """What the server answers. Raises EngineLost and EngineRefused."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """The same for a POST with a JSON body."""
        return self._ask("POST", path, json.dumps({} if body is None else body).encode())

    def is_well(self) -> bool:
        """Whether the server answers, and says that its engine is alive."""
        connection = self._connection(timeout=BEAT)
        try:
            connection.request("GET", "/health", headers=_headers())
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        fresh = getattr(self._kept, "connection", None) is None
        try:
            status, answer = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            if fresh:
                raise self._lost(error) from error
            # A server hangs up on connections that were idle, so the first try on a kept one says nothing.
            try:
                status, answer = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as again:
                self._close()
                raise self._lost(again) from again
        if status == 200:
            try:
                return json.loads(answer) if answer.strip() else None
            except ValueError as error:
                raise EngineRefused(f"the vLLM server at {self.url} answered no JSON at {path}.") from error
        said = _said(answer)
        if status >= 500 and not self.is_well():
            raise EngineLost(f"the vLLM server at {self.url} has lost its engine: HTTP {status} ({said}).")
        raise EngineRefused(f"the vLLM server at {self.url} answered HTTP {status} at {path}: {said}")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if connection is None:
            connection = self._kept.connection = self._connection(timeout=CONNECTING)
            connection.connect()
            connection.sock.settimeout(self._timeout)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.request(method, path, body=body, headers=_headers(body))
        # A long answer is no sign of trouble, but a server that is not well is: so its health is asked meanwhile.
        while not select.select([connection.sock], [], [], BEAT)[0]:
            if not self.is_well():
                raise http.client.HTTPException("it stopped answering while it was waited for")
        response = connection.getresponse()
        return response.status, response.read()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self.host, self._port, timeout=timeout)

    def _close(self) -> None:
        connection = getattr(self._kept, "connection", None)
        if connection is not None:
            connection.close()
        self._kept.connection = None

    def _lost(self, error: BaseException) -> EngineLost:
        return EngineLost(f"the vLLM server at {self.url} cannot be reached any more: {_reason(error)}.")


def _headers(body: bytes | None = None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "clearppo"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key := os.environ.get("VLLM_API_KEY", "").strip():
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _said(answer: bytes) -> str:
    """What a refusal says: vLLM answers {"error": {"message": ...}}, FastAPI {"detail": ...}."""
    text = answer.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text[:300] or "nothing"
    if isinstance(value, dict):
        error = value.get("error", value.get("detail", text))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    return text[:300]


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused, nothing listens there"
    if isinstance(error, TimeoutError):
        return "it is silent"
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "it hung up"
    return str(error) or type(error).__name__
