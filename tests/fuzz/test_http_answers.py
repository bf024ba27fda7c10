"""What a reward server may answer: any status, any header, any bytes. Scores, or one sentence; never a silent 0."""

import io
import json
import math
import random
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from clearppo.errors import RewardError
from clearppo.feedback.http import HTTPScorer
from clearppo.feedback.http_client import HTTPClient, Patience
from tests.fuzz.mutation import STRINGS, ends_well, mutated, mutated_bytes, odd_value, seeds
from tests.tiny import tiny_rollout

pytest.importorskip("urllib")
SCORES = [0.5, -1, 2e3]
ROLLOUT = tiny_rollout(["The film", "It", "\ud800 \0"], ["was", "", "👩‍👩‍👧 שלום"], columns={"tag": [1, None, "x"]})


class Response(io.BytesIO):
    """What an opener gives back; `length` are the bytes that were promised and did not come."""

    length: int | None = None

    def __enter__(self) -> "Response":
        return self


class Server:
    """An opener that answers by chance, and remembers the last JSON that it gave with status 200."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.said: Any = None

    def open(self, request: Any, timeout: float) -> Response:
        json.loads(request.data)
        match self.chance.randrange(10):
            case 0:
                raise URLError(self.chance.choice((ConnectionRefusedError(), TimeoutError(), OSError("x\ny"), "words")))
            case 1:
                raise self.chance.choice((ConnectionResetError(), TimeoutError(), ValueError("\x1b[2J")))
            case 2:
                return self._refused(request.full_url)
            case _:
                return self._answered()

    def _refused(self, url: str) -> Response:
        headers = Message()
        for name in ("Retry-After", "Location"):
            if self.chance.random() < 0.5:
                later = ("0", "-1", "1e9", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "\u0661")
                headers[name] = self.chance.choice(later)
        code = self.chance.choice((300, 302, 400, 401, 404, 413, 429, 500, 503, 599))
        body = json.dumps({"error": odd_value(self.chance)}).encode()
        raise HTTPError(url, code, "no\nreason", headers, io.BytesIO(mutated_bytes(self.chance, body)))

    def _answered(self) -> Response:
        whole: Any = {self.chance.choice(("scores", "rewards")): SCORES}
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            whole = mutated(self.chance, whole)
        raw = json.dumps(whole).encode()
        if self.chance.random() < 0.3:
            raw = mutated_bytes(self.chance, raw)
        try:
            self.said = json.loads(raw)
        except (ValueError, RecursionError):
            self.said = None
        response = Response(raw)
        if self.chance.random() < 0.05:
            response.length = 7
        return response


@pytest.mark.parametrize("null", ["skip", "stop", "drop"])
@pytest.mark.parametrize("wire", ["clearppo", "openrlhf"])
def test_scores_or_one_sentence(null: Any, wire: Any) -> None:
    scored = 0
    for chance in seeds(250):
        server = Server(chance)
        client = HTTPClient(
            "http://localhost:1/score",
            patience=Patience(timeout=1, total=chance.choice((0.0, 3.0))),
            token="secret",
            sleep=lambda seconds, stopped: None,
            now=Clock(),
            opener=server,
        )
        scorer = HTTPScorer(client, batch_size=chance.choice((1, 3, 16)), wire=wire, null=null)
        given: list[Any] = []
        error = ends_well(lambda scorer=scorer, given=given: given.append(scorer(ROLLOUT)), server.said)
        if error is not None:
            assert isinstance(error, RewardError)
            assert "secret" not in str(error)
            continue
        scored += 1
        if scorer.batch_size >= len(ROLLOUT):
            expected = server.said.get("scores", server.said.get("rewards"))
            assert all(
                math.isnan(score) if said is None else score == pytest.approx(float(said))
                for score, said in zip(given[0].total.tolist(), expected, strict=True)
            ), (server.said, given)
    assert scored > 10


class Clock:
    """A second passes at every look."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def test_urls() -> None:
    whole = "http://user@localhost:8000/score?a=b#c"
    for chance in seeds(500):
        url = whole
        for _ in range(chance.choice((1, 2, 4))):
            start = chance.randrange(len(url) + 1)
            url = url[:start] + chance.choice((*STRINGS, "@", "[", "]:", "::1", "%", "://")) + url[start + 1 :]
        ends_well(lambda url=url: HTTPClient(url), url)
