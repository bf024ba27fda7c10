"""From the options of `clearppo serve-reward` to a server."""

import socket
from dataclasses import dataclass
from typing import Any

import torch

from clearppo.engines.local import has_fast_bf16, select_device
from clearppo.errors import ConfigError
from clearppo.feedback.http_client import token_from
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.serve import LOOPBACK, Limits, make_app

GATHERED = 64
"""Rows of several requests that pass through the model in one go, at least; it sorts them by length."""
BACKLOG = 512
"""Connections that may wait to be taken."""


@dataclass(frozen=True, kw_only=True)
class RewardServer:
    """A reward model, ready to answer on a socket that is bound already. `url` is where scores are asked for."""

    app: Any
    socket: socket.socket
    url: str
    is_open: bool
    """Whether other machines may reach it."""

    def run(self) -> None:
        """Answer until Ctrl-C or SIGTERM; requests under way are finished."""
        self.server().run(sockets=[self.socket])

    def server(self) -> Any:
        """A uvicorn server; its `should_exit` ends it."""
        import uvicorn

        # One line an error, none a request: a run asks thousands of times.
        config = uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
        return uvicorn.Server(config)


def build_server(
    model: str,
    *,
    host: str,
    port: int,
    batch_size: int = 16,
    gather: bool = True,
    max_rows: int = 1024,
    max_body_mib: int = 16,
    device: str = "auto",
    bf16: bool | None = None,
    auth_env: str | None = None,
    trust_remote_code: bool = False,
) -> RewardServer:
    """Bind first, which is cheap, then load. `batch_size` answers are in the model at once; requests that wait share a
    pass if `gather`. One may hold `max_rows` answers and `max_body_mib` MiB. `bf16` None: where the hardware gains.

    Raises ClearPPOError (ConfigError, DeviceError, ModelError).
    """
    place = select_device(device)
    token = token_from(auth_env, "auth_env")
    is_open = host not in LOOPBACK
    bound = _bound(host, port)
    try:
        scorer = RewardModelScorer.load(
            model,
            device=place,
            dtype=torch.float32,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
            autocast=has_fast_bf16(place) if bf16 is None else bf16,
        )
        gathered = max(GATHERED, batch_size) if gather else 1  # a request is never cut
        limits = Limits(batch_rows=gathered, max_rows=max_rows, max_bytes=max_body_mib * 2**20)
        app = make_app(scorer, name=scorer.name, limits=limits, token=token, loopback=not is_open)
    except BaseException:
        bound.close()
        raise
    shown = f"[{host}]" if ":" in host else host
    return RewardServer(app=app, socket=bound, url=f"http://{shown}:{bound.getsockname()[1]}/score", is_open=is_open)


def _bound(host: str, port: int) -> socket.socket:
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
