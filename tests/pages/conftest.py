"""The pages in a real browser: made runs, the real servers as processes of their own, one Chromium for all tests.

Every page is watched: a test fails if the page wrote an error to its console, if a request failed or was answered with
an error, or if one left this machine. `page.expect_errors` names what a test brings about on purpose.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.pages import made
from tests.pages.strange import make_strange

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 15_000  # ms, for whatever a test waits for; a busy machine is slow
START = 60.0  # seconds, for a server to say where it listens


@dataclass
class Watch:
    """What went wrong on a page that nobody expected."""

    allowed: list[str] = field(default_factory=list[str])
    seen: list[str] = field(default_factory=list[str])

    def expect(self, *patterns: str) -> None:
        """Errors that match one of these regular expressions are no reason to fail."""
        self.allowed += patterns

    def check(self) -> None:
        wrong = [what for what in self.seen if not any(re.search(pattern, what) for pattern in self.allowed)]
        assert not wrong, "on the page:\n  " + "\n  ".join(wrong)

    def on(self, page: Page) -> None:
        page.on("console", lambda m: self.seen.append(f"console: {m.text} ({m.location})") if m.type == "error" else 0)
        page.on("pageerror", lambda error: self.seen.append(f"exception: {error}\n{error.stack}"))
        page.on("requestfailed", lambda r: self._failed(r.url, str(r.failure)))
        page.on("request", lambda r: self._left(r.url))
        page.on("response", lambda r: self.seen.append(f"HTTP {r.status}: {r.url}") if r.status >= 400 else 0)

    def _failed(self, url: str, why: str) -> None:
        if "ERR_ABORTED" not in why:  # the page moved on, and what it had asked for is of no use to it
            self.seen.append(f"request failed ({why}): {url}")

    def _left(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about", "file") and parts.hostname != "127.0.0.1":
            self.seen.append(f"request to another machine: {url}")


# ---------------------------------------------------------------- the browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else PROGRAMS
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        why = f"needs Chromium ({' or '.join(names)}), which is not here; .ci/browser installs it"
        if os.environ.get("CLEARPPO_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def context(
    browser: Browser, watch: Watch, start: Callable[..., "Served"], request: pytest.FixtureRequest
) -> Iterator[BrowserContext]:
    """A browser without a past, that goes before its servers. Its options: parametrize("context", [...], indirect)."""
    options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
    opened = browser.new_context(**(options | getattr(request, "param", {})))
    opened.set_default_timeout(PATIENCE)
    opened.on("page", watch.on)
    yield opened
    opened.close()
    watch.check()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


# ---------------------------------------------------------------- servers


@dataclass
class Served:
    """A `clearppo` server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(*words: str | Path, cwd: Path | None = None) -> Served:
    """Start `clearppo WORDS` and wait until it says where it listens."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "clearppo.cli", *map(str, words)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=cwd,
    )  # fmt: skip
    told: Queue[str | None] = Queue()
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            told.put(line)
        told.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (line := told.get(timeout=START)) is not None:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return Served(process, found[0], lines)
    except Empty:
        process.kill()
    raise AssertionError(f"clearppo {' '.join(map(str, words))} did not start:\n{''.join(lines)}")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made runs that no test changes."""
    directory = tmp_path_factory.mktemp("pages") / "runs"
    made.make(directory)
    return directory


@pytest.fixture(scope="session")
def view(runs: Path) -> Iterator[str]:
    """The URL of `clearppo view` on the made runs."""
    served = serve("view", runs, "--port", "0", "--no-open")
    yield served.url
    served.stop()
    assert "Traceback" not in "".join(served.lines), "".join(served.lines)


@pytest.fixture(scope="session")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spoilt runs."""
    return make_strange(tmp_path_factory.mktemp("strange"))


@pytest.fixture(scope="session")
def strange_view(strange: Path) -> Iterator[str]:
    """The URL of `clearppo view` on the spoilt runs."""
    served = serve("view", strange, "--port", "0", "--no-open")
    yield served.url
    served.stop()
    assert "Traceback" not in "".join(served.lines), "".join(served.lines)[-3000:]


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    """`start("label", FILE, ...)`: a server of this test's own."""
    started: list[Served] = []

    def begin(*words: str | Path, cwd: Path | None = None) -> Served:
        started.append(serve(*words, cwd=cwd))
        return started[-1]

    yield begin
    for served in started:
        served.stop()
