"""From the options of `clearppo serve-reward` to a server."""

import socket
from dataclasses import dataclass
from typing import Any

import torch

from clearppo import web
from clearppo.engines.local import has_fast_bf16, select_device
from clearppo.feedback.http_client import token_from
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.serve import Limits, make_app

GATHERED = 64
"""Rows of several requests that pass through the model in one go, at least; it sorts them by length."""


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
        return web.make_server(self.app)


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
    is_open = host not in web.LOOPBACK
    bound = web.listen(host, port)
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
    return RewardServer(app=app, socket=bound, url=f"{web.address(host, bound)}/score", is_open=is_open)
