"""A judge on this machine for tests: an HTTP server in a thread whose answers a test chooses."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server sends: a JSON value or raw bytes, a status, more headers; or it hangs up."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False


@dataclass
class Judge:
    """A running server: its address, and the requests it has seen, decoded."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def words(completion: Any) -> float:
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return len(text.split()) + len(text) / 7


def fair(request: dict[str, Any]) -> Any:
    """One number an answer, from its text alone."""
    return {"scores": [words(completion) for completion in request["completions"]]}


@contextlib.contextmanager
def judge_server(answer: Callable[[dict[str, Any]], Any] = fair, port: int = 0) -> Iterator[Judge]:
    """`answer` gets the request's JSON and returns a Reply, or the JSON value of a good one. `port` 0: any."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.requests.append(request)
            judge.headers.append(dict(self.headers))
            reply = answer(request)
            reply = reply if isinstance(reply, Reply) else Reply(reply)
            if reply.hangs_up:
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(ConnectionError):  # the client may have lost patience
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    judge = Judge(f"http://127.0.0.1:{server.server_address[1]}/score")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
