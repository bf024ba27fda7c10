"""One vLLM server, asked by HTTP: connections are kept, and an answer is waited for as long as the server lives."""

import http.client
import json
import os
import select
import socket
import weakref
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
    """The JSON routes of the server at `url`. Threads may ask at once; connections that are idle are used again.

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
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

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
        status, answer = self._exchange(method, path, body)
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
        while True:
            # A server hangs up on connections that were idle, so trouble on one of these says nothing.
            used = self._idle.pop() if self._idle else None
            try:
                connection = used or self._opened()
                try:
                    answer = self._said_on(connection, method, path, body)
                except BaseException:
                    connection.close()
                    raise
            except (OSError, http.client.HTTPException) as error:
                if used is None:
                    reason = _reason(error)
                    raise EngineLost(f"the vLLM server at {self.url} cannot be reached: {reason}.") from error
                continue
            self._idle.append(connection)
            return answer

    def _said_on(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes]:
        connection.request(method, path, body=body, headers=_headers(body))
        # A long answer is no sign of trouble, but a server that is not well is: so its health is asked meanwhile.
        while not select.select([connection.sock], [], [], BEAT)[0]:
            if not self.is_well():
                raise http.client.HTTPException("it stopped answering while it was waited for")
        response = connection.getresponse()
        return response.status, response.read()

    def _opened(self) -> http.client.HTTPConnection:
        connection = self._connection(timeout=CONNECTING)
        connection.connect()
        connection.sock.settimeout(self._timeout)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self.host, self._port, timeout=timeout)


def _close(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


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
