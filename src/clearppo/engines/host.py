"""A process of the run on some machine of the cluster, as the actor there holds it. Ray is told of this class alone."""

import contextlib
import hashlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

VERSIONS = ("clearppo", "torch", "transformers", "ray")
GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""By which of them Ray says what GPUs an actor has, as far as it says so."""
ENDS = 10.0
"""Seconds that the last lines of a process that has ended are waited for: others may hold its output open."""


class Host:
    """Holds at most one process at a time, and hands on what it says. Its methods are called from several threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._news = threading.Condition()
        self._said: list[tuple[str, str]] = []
        self._code: int | None = None

    def about(self) -> dict[str, Any]:
        """Where this is, and what is installed there."""
        import ray

        return {
            "node": ray.get_runtime_context().get_node_id(),
            "address": ray.util.get_node_ip_address(),
            "versions": versions(),
            "gpus": {name: os.environ[name] for name in GPUS if name in os.environ},
        }

    def free_port(self) -> int:
        """A port that nobody listens on now."""
        with socket.socket() as place:
            place.bind(("", 0))
            return int(place.getsockname()[1])

    def mark(self, file: str) -> str:
        """Something that changes when a file does, or comes into being; "" without one."""
        try:
            path = Path(file).expanduser()
            return f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError:
            return ""

    def start(self, words: Sequence[str], environment: Mapping[str, str], directory: str) -> str:
        """Start a command in a directory, `python` being the one of this machine; why that cannot be, or ""."""
        if not Path(directory).is_dir():
            return f"there is no directory {directory}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        started = threading.Event()
        failed: list[str] = []

        def hold() -> None:  # the tether is the thread that starts the process: it must live as long
            own = [sys.executable if words[0] == "python" else words[0], *words[1:]]
            command = [sys.executable, "-m", "clearppo.engines.tether", str(os.getpid()), *own]
            try:
                process = subprocess.Popen(
                    command, env={**inherited, **environment}, cwd=directory, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                failed.append(f"{sys.executable} cannot be started ({error.strerror})")
                started.set()
                return
            self._begin(process)
            started.set()
            code = process.wait()
            for reader in self._readers:
                reader.join(timeout=ENDS)
            with self._news:
                self._code = code
                self._news.notify_all()

        threading.Thread(target=hold, name="clearppo process", daemon=True).start()
        started.wait()
        return failed[0] if failed else ""

    def news(self, patience: float = 1.0) -> dict[str, Any]:
        """What the process has said since this was last asked, as (stream, text), and its exit code once it has ended;
        waits for something to tell."""
        with self._news:
            self._news.wait_for(lambda: self._said or self._code is not None, timeout=patience)
            said, self._said = self._said, []
            return {"said": said, "code": self._code}

    def signal(self, number: int) -> None:
        """Send the process a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def end(self) -> None:
        """End the process at once, and all that it has started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=ENDS)

    def answers(self, url: str) -> bool:
        """Whether a server of this machine says that it is well."""
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def _begin(self, process: "subprocess.Popen[bytes]") -> None:
        self._process, self._code = process, None
        self._readers = []
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            assert stream is not None
            reader = threading.Thread(target=self._read, args=(name, stream), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, name: str, stream: BinaryIO) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                with self._news:
                    self._said.append((name, line.decode(errors="replace")))
                    self._news.notify_all()


def versions() -> dict[str, str]:
    """What must be the same on all machines of a run."""
    found = {"Python": platform.python_version()}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
