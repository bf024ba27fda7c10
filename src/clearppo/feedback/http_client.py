"""JSON by HTTP with patience: one POST, asked again for as long as the trouble may pass."""

import email.utils
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
    proxy_bypass,
)

from clearppo.data.files import brief, kind_and_message
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback.returned import in_words

MAX_ANSWER = 64 * 2**20  # bytes of one answer; a server sends some 20 a score
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""HTTP statuses after which the same request may well succeed."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server, in seconds.

    `timeout` is for one answer. A request that failed is asked again after a random part of a pause that doubles from
    `first_pause` to `longest_pause` (full jitter: many clients do not come back at once), until it has failed for
    `total`.
    """

    timeout: float | int = 60.0
    total: float | int = 300.0
    connecting: float | int = 5.0
    first_pause: float | int = 0.5
    longest_pause: float | int = 15.0

    def pause(self, failures: int) -> float:
        """The longest pause after so many failures of a request, from 1."""
        return min(self.longest_pause, self.first_pause * 2.0 ** min(failures - 1, 60))


def _wait(seconds: float, stopped: threading.Event) -> None:
    stopped.wait(seconds)


class HTTPClient:
    """Asks one URL. Messages begin with `noun` and the URL; `option` is where the user wrote it.

    `token` goes along as `Authorization: Bearer ...` and into no message. Redirects are refused. Raises ConfigError for
    a URL that is not http or https, or a token that no header can carry.
    """

    def __init__(
        self,
        url: str,
        *,
        noun: str = "the judge at",
        option: str = "judge_url",
        patience: Patience | None = None,
        token: str | None = None,
        sleep: Callable[[float, threading.Event], None] = _wait,
        now: Callable[[], float] = time.monotonic,
        opener: Any = None,
    ) -> None:
        self.url = url
        self.parts = http_address(url, option)
        self.who = f"{noun} {url}"
        self.option = option
        self.patience = patience or Patience()
        self._token = token
        self._sleep, self._now = sleep, now
        self._opener = opener or _http_only(uses_proxy=_uses_proxy(self.parts))
        self._chance = random.Random()  # of its own: the run's random numbers are not touched

    def require_listener(self) -> None:
        """Raises RewardError if nothing listens at the URL: known in seconds, before a model is loaded."""
        if _uses_proxy(self.parts):
            return  # the proxy connects, not we
        host = self.parts.hostname or ""
        port = self.parts.port or (443 if self.parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=self.patience.connecting).close()
        except (OSError, UnicodeError) as error:  # a host name may be none that can be looked up
            raise RewardError(
                f"{self.who} cannot be reached: {_reason(error)}. Start it, or mend --{self.option}."
            ) from error

    def ask(
        self, body: bytes, stopped: threading.Event | None = None, trouble: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """The JSON object that the server answers. It is asked again while the trouble may pass and patience lasts.

        `trouble` is told of every such failure in half a sentence; once `stopped` is set nothing is asked any more.
        Raises RewardError with the reason.
        """
        stopped = stopped or threading.Event()
        began, failures = 0.0, 0
        while True:
            try:
                return self._read(self._ask(body))
            except _TryAgainError as error:
                failures += 1
                began = began if failures > 1 else self._now()
                left = self.patience.total - (self._now() - began)
                if left <= 0 or (error.after or 0) > left or stopped.is_set():
                    raise self._given_up(error, failures) from error
                pause = max(self._chance.uniform(0, self.patience.pause(failures)), error.after or 0)
                if trouble is not None:
                    trouble(self._hidden(f"{self.who} {error}"))
                self._sleep(min(pause, left), stopped)

    def _given_up(self, error: "_TryAgainError", failures: int) -> RewardError:
        tried = "asked once" if failures == 1 else f"asked {failures} times"
        later = f", and wants to be asked again after {error.after:g} seconds" if error.after else ""
        return self.error(
            f"{error}{later} ({tried}, patience {self.patience.total:g} seconds). Look at its own messages."
        )

    def error(self, predicate: str) -> RewardError:
        """A RewardError about this server, the token blotted out should the server have repeated it."""
        return RewardError(self._hidden(f"{self.who} {predicate}"))

    def _hidden(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text

    def _read(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            shown = brief(ValueError(body[:200].decode("utf-8", "replace")), 80) if body.strip() else "nothing"
            raise self.error(f'answered no JSON but: {shown}. It must answer {{"scores": [...]}}.') from error
        if not isinstance(answer, dict):
            raise self.error(f'answered {in_words(answer)}. It must answer {{"scores": [...]}}.')
        return answer

    def _ask(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "clearppo"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = Request(self.url, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.patience.timeout) as response:
                answer = response.read(MAX_ANSWER + 1)
                missing = response.length  # bytes promised and not read; None if the server did not say
        except HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a status line of nonsense
            raise _TryAgainError(f"gave no answer: {_reason(error, self.patience.timeout)}") from error
        if len(answer) > MAX_ANSWER:
            raise self.error(f"answered more than {MAX_ANSWER // 2**20} MiB. It must send scores only.")
        if missing:
            raise _TryAgainError(f"hung up {missing} bytes before the end of its answer")
        return answer

    def _refusal(self, error: HTTPError) -> Exception:
        with error:  # it holds the connection
            try:
                said = brief(ValueError(_sentence(error.read(2000)) or error.reason))
            except (OSError, http.client.HTTPException, ValueError):
                said = str(error.reason)
        status = f"answered HTTP {error.code} ({said})"
        if error.code in PASSING:
            return _TryAgainError(status, after=_retry_after(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            to = error.headers.get("Location", "nowhere")
            return self.error(
                f"answered HTTP {error.code}, a redirect to {to}, which is not followed. "
                f"Give the final address as --{self.option}."
            )
        return self.error(f"{status}. Check --{self.option}, and what the server takes.")


class _TryAgainError(Exception):
    """No answer this time; the message ends a sentence that begins with the server. `after`: seconds it asks for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def token_from(variable: str | None, option: str) -> str | None:
    """The value of an environment variable, for an Authorization header; None without a name.

    Raises ConfigError, which never shows the value, if it is not set, or nothing that a header can carry.
    """
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(
            f"{option} = {variable}, and the environment has no such variable, or an empty one. "
            f"Set it (export {variable}=...), or leave out --{option}."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{option} = {variable}: the variable holds a character that a header cannot carry. "
            "Use a token of ASCII letters, digits and signs."
        )
    return token


def http_address(url: str, option: str = "judge_url") -> SplitResult:
    """The parts of an http or https URL. Raises ConfigError for anything else; asks no one."""
    example = f"Use --{option} http://localhost:8000/score."
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname  # a property that raises for a port that is no number
    except ValueError as error:
        raise ConfigError(f"{option} = {url!r} is no URL: {brief(error)}. {example}") from error
    if any(c.isspace() or not c.isprintable() for c in url) or not url.isascii():
        raise ConfigError(
            f"{option} = {url!r} holds a space or a character that no URL has. Write it as %20. {example}"
        )
    if parts.scheme not in ("http", "https"):
        named = f"the scheme {parts.scheme}" if "://" in url else "no scheme"
        raise ConfigError(f"{option} = {url} has {named}; it is asked by http or https. {example}")
    if not host or port == 0:
        raise ConfigError(f"{option} = {url} names no host and port. {example}")
    if parts.username is not None:
        raise ConfigError(f"{option} holds a user name, which would stand in every message. Remove it. {example}")
    return parts


def _sentence(body: bytes) -> str:
    """What a refusal says: the text of {"error": text} (or "detail", FastAPI's), else the body itself."""
    text = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    said = value.get("error", value.get("detail")) if isinstance(value, dict) else None
    return said.strip() if isinstance(said, str) else text


def _retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, a number or a date; None for none that can be read."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _http_only(*, uses_proxy: bool) -> OpenerDirector:
    """An opener that speaks http and https, by the environment's proxies if it is to, and nothing else.

    It follows no redirect: a POST that is sent elsewhere loses its body, or takes the answers to another host.
    """
    opener = OpenerDirector()
    opener.add_handler(ProxyHandler(None if uses_proxy else {}))
    for handler in (HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


def _uses_proxy(parts: SplitResult) -> bool:
    """Whether the environment names a proxy for this address. This machine itself is never behind one."""
    host = parts.hostname or ""
    own = host == "localhost" or host == "::1" or host.startswith("127.")
    return not own and parts.scheme in getproxies() and not proxy_bypass(host)


def _reason(error: BaseException, timeout: float | int | None = None) -> str:
    """Why there was no answer, in half a sentence."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "it is silent" if timeout is None else f"nothing came within {timeout:g} seconds"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused, nothing listens there"
    if isinstance(cause, socket.gaierror):
        return "its host name is not known"
    return kind_and_message(cause) if isinstance(cause, BaseException) else str(cause)
