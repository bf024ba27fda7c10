"""What all of our servers do: whom they answer, what errors look like, what every answer says about itself."""

import socket
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from clearppo import web
from clearppo.errors import ConfigError, DataError


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    from fastapi import Request

    app = web.base_app()

    async def taken(request: Request) -> dict[str, Any]:
        web.require_same_origin(request)
        return await web.json_body(request, max_bytes=100, mend="send less")

    def broken() -> None:
        raise DataError("the file\nis damaged. Mend it.")

    def number(n: int) -> int:
        return n

    def bug() -> None:
        raise ZeroDivisionError

    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text("<!doctype html>")
    (tmp_path / "static" / "out").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("secret")
    app.post("/take", response_model=None)(taken)
    app.get("/broken", response_model=None)(broken)
    app.get("/number", response_model=None)(number)
    app.get("/bug", response_model=None)(bug)
    web.add_pages(app, tmp_path / "static", index="index.html")
    return TestClient(app, base_url="http://127.0.0.1:8400", raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8400", "LOCALHOST:1", "[::1]:8400", "127.0.0.1:0"])
def test_names_of_this_machine(host: str, client: TestClient) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "", "0.0.0.0", "[::2]"],
)
def test_any_other_name_is_refused(host: str, client: TestClient) -> None:
    """A web page reaches this server by a name of its own that leads here (DNS rebinding)."""
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "localhost" in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/nothing", "/broken", "/static/index.html", "/static/absent.js"])
def test_every_answer_has_its_headers(path: str, client: TestClient) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy  # so that it is 'self', without 'unsafe-inline'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_errors_are_json(client: TestClient) -> None:
    broken = client.get("/broken")
    assert broken.status_code == 422
    assert broken.json() == {"error": r"the file\nis damaged. Mend it."}
    assert client.get("/nothing").json() == {"error": "there is nothing at /nothing"}
    assert client.put("/broken").status_code == 405
    assert client.put("/broken").json() == {"error": "PUT is not answered here"}
    assert client.get("/number?n=3").json() == 3
    for asked, said in {
        "/number": "is missing",
        "/number?n=x": "cannot be read (Input should be a valid integer",
    }.items():
        wrong = client.get(asked)
        assert wrong.status_code == 422
        assert wrong.json().keys() == {"error"}
        assert wrong.json()["error"].startswith(f"`n` {said}")
    bug = client.get("/bug")
    assert bug.status_code == 500
    assert "ZeroDivision" not in bug.text
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 200),
        (b"{}", {"Content-Type": "application/json", "Origin": "http://127.0.0.1:8400"}, 200),
        (b"{}", {"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        (b"{}", {"Content-Type": "application/json", "Origin": "http://127.0.0.1:9"}, 403),
        (b"{}", {"Content-Type": "application/json", "Origin": "null"}, 403),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"[" * 60, {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b" " * 101, {"Content-Type": "application/json"}, 413),
    ],
)
def test_bodies(body: bytes, headers: dict[str, str], status: int, client: TestClient) -> None:
    answer = client.post("/take", content=body, headers=headers)
    assert answer.status_code == status
    assert (list(answer.json()) == ["error"]) == (status != 200)


@pytest.mark.parametrize(
    "path",
    ["/static/../secret", "/static/%2e%2e/secret", "/static/..%2fsecret", "/static/out/secret", "/static//etc/passwd",
     "/static/%2fetc%2fpasswd", "/static/..%5csecret", "/%2e%2e/secret"],
)  # fmt: skip
def test_nothing_outside_of_the_pages(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"  # and no file


def test_listening() -> None:
    bound = web.listen("127.0.0.1", 0)
    try:
        port = bound.getsockname()[1]
        assert web.address("127.0.0.1", bound) == f"http://127.0.0.1:{port}"
        assert web.address("::1", bound) == f"http://[::1]:{port}"
        with pytest.raises(ConfigError, match=rf"cannot listen on host = 127\.0\.0\.1, port = {port}"):
            web.listen("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        bound.close()


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"json": "JSON", "plotly": "Plotly", "fastapi": "FastAPI"}
    web.require_packages("clearppo view", "view", {"json": "JSON"})
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    said = r"^clearppo view needs Plotly, which is not installed. Install with pip install 'clearppo\[view\]'.$"
    with pytest.raises(ConfigError, match=said):
        web.require_packages("clearppo view", "view", packages)
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    with pytest.raises(ConfigError, match="needs Plotly and FastAPI, which are not installed"):
        web.require_packages("clearppo view", "view", packages)
