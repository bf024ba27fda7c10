"""A judge behind a URL as a scorer: answers go out as JSON, one number an answer comes back."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
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

from clearppo.batch import Rollout
from clearppo.data.files import brief, kind_and_message
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback.returned import finite_scores, given_completions, in_words
from clearppo.feedback.scorer import Scores

MAX_ANSWER = 64 * 2**20  # bytes of one answer; a judge sends some 20 a score
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may well succeed."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a judge: seconds for one answer, and after how many seconds to ask again, time by time."""

    timeout: float | int = 120.0
    connecting: float | int = 5.0
    pauses: tuple[float | int, ...] = (1.0, 2.0, 4.0)


class HTTPJudge:
    """Scores from a web service. It is sent, at most `batch_size` rows at a time,

        POST url    {"prompts": [...], "completions": [...]}

    with strings, or lists of messages for prompts of messages, as reward functions are given them, and answers
    {"scores": [...]} (or OpenRLHF's {"rewards": [...]}, if there are no scores): one number a row, or null where it
    does not apply (NaN in the scores). Redirects are refused.

    A judge that does not answer, or with a status that may pass (`PASSING`), is asked again after each of
    `patience.pauses`. Raises ConfigError for a URL that is not http or https; RewardError, with the reason, if there is
    no usable answer even then. KeyboardInterrupt passes through.
    """

    def __init__(
        self,
        url: str,
        *,
        batch_size: int = 16,
        patience: Patience | None = None,
        name: str = "judge",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.parts = judge_address(url)
        self.batch_size = batch_size
        self.patience = patience or Patience()
        self.name = name
        self.names = (name,)
        self._sleep = sleep
        self._opener = _http_only(uses_proxy=_uses_proxy(self.parts))

    def __call__(self, rollout: Rollout) -> Scores:
        prompts, completions = list(rollout.prompts.texts), given_completions(rollout)
        scores: list[Any] = []
        for start in range(0, len(rollout), self.batch_size):
            rows = slice(start, start + self.batch_size)
            scores += self._marks({"prompts": prompts[rows], "completions": completions[rows]})
        total = finite_scores(scores, rollout.prompts, self._who).to(rollout.responses.device)
        return Scores(total=total, parts={self.name: total})

    def require_listener(self) -> None:
        """Raises RewardError if nothing listens at the URL: known in seconds, before a model is loaded."""
        if _uses_proxy(self.parts):
            return  # the proxy connects, not we
        host = self.parts.hostname or ""
        port = self.parts.port or (443 if self.parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=self.patience.connecting).close()
        except OSError as error:
            raise RewardError(
                f"{self._who} cannot be reached: {_reason(error)}. Start it, or mend --judge_url."
            ) from error

    @property
    def _who(self) -> str:
        return f"the judge at {self.url}"

    def _marks(self, rows: Mapping[str, list[Any]]) -> list[Any]:
        """What the judge says of these rows, one entry each; whether they are numbers is looked at later."""
        count = len(rows["prompts"])
        answer = self._read(self._asked(json.dumps(rows).encode()))
        scores = answer.get("scores", answer.get("rewards"))
        if not isinstance(scores, list):
            raise RewardError(
                f"{self._who} answered {in_words(answer)}, which holds no list `scores`. "
                'It must answer {"scores": [...]} with one number for each completion.'
            )
        if len(scores) != count:
            raise RewardError(
                f"{self._who} returned {len(scores)} scores for {count} completions. It must return one for each."
            )
        return scores

    def _read(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            shown = brief(ValueError(body[:200].decode("utf-8", "replace")), 80) if body.strip() else "nothing"
            raise RewardError(
                f'{self._who} answered no JSON but: {shown}. It must answer {{"scores": [...]}}.'
            ) from error
        if not isinstance(answer, dict):
            raise RewardError(f'{self._who} answered {in_words(answer)}. It must answer {{"scores": [...]}}.')
        return answer

    def _asked(self, body: bytes) -> bytes:
        """The body of the judge's answer; asks again as often as `patience` has pauses."""
        for pause in self.patience.pauses:
            try:
                return self._ask(body)
            except _TryAgainError:
                self._sleep(pause)
        try:
            return self._ask(body)
        except _TryAgainError as error:
            times = len(self.patience.pauses) + 1
            tried = f"{times} times in a row" if times > 1 else "once"
            raise RewardError(f"{self._who} {error} (asked {tried}). Look at its own messages.") from error

    def _ask(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "clearppo"}
        request = Request(self.url, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.patience.timeout) as response:
                answer = response.read(MAX_ANSWER + 1)
                missing = response.length  # bytes promised and not read; None if the judge did not say
        except HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(f"gave no answer: {_reason(error, self.patience.timeout)}") from error
        if len(answer) > MAX_ANSWER:
            raise RewardError(f"{self._who} answered more than {MAX_ANSWER // 2**20} MiB. It must send scores only.")
        if missing:
            raise _TryAgainError(f"hung up {missing} bytes before the end of its answer")
        return answer

    def _refusal(self, error: HTTPError) -> Exception:
        with error:  # it holds the connection
            try:
                said = brief(ValueError(error.read(2000).decode("utf-8", "replace").strip() or error.reason))
            except (OSError, http.client.HTTPException):
                said = str(error.reason)
        status = f"answered HTTP {error.code} ({said})"
        if error.code in PASSING:
            return _TryAgainError(status)
        if 300 <= error.code < 400:
            to = error.headers.get("Location", "nowhere")
            return RewardError(
                f"{self._who} answered HTTP {error.code}, a redirect to {to}, which is not followed. "
                "Give the final address as --judge_url."
            )
        return RewardError(f"{self._who} {status}. Check --judge_url, and what the judge takes.")


class _TryAgainError(Exception):
    """No answer this time; the message ends a sentence that begins with the judge."""


def judge_address(url: str, option: str = "judge_url") -> SplitResult:
    """The parts of an http or https URL. Raises ConfigError for anything else; asks no one."""
    example = f"Use --{option} http://localhost:8000/score."
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname  # a property that raises for a port that is no number
    except ValueError as error:
        raise ConfigError(f"{option} = {url} is no URL: {brief(error)}. {example}") from error
    if any(c.isspace() or not c.isprintable() for c in url) or not url.isascii():
        raise ConfigError(
            f"{option} = {url!r} holds a space or a character that no URL has. Write it as %20. {example}"
        )
    if parts.scheme not in ("http", "https"):
        named = f"the scheme {parts.scheme}" if "://" in url else "no scheme"
        raise ConfigError(f"{option} = {url} has {named}; a judge is asked by http or https. {example}")
    if not host or port == 0:
        raise ConfigError(f"{option} = {url} names no host and port. {example}")
    if parts.username is not None:
        raise ConfigError(f"{option} holds a user name, which would stand in every message. Remove it. {example}")
    return parts


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
