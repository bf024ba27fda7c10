"""What the commands share that show pages: a port, the browser, and an end by Ctrl-C."""

import contextlib
import os
import sys
import threading
from typing import Any

import click
from click.core import ParameterSource

HOST = "127.0.0.1"


def serve_pages(ctx: click.Context, app: Any, *, port: int, wanted: bool | None, said: str) -> None:
    """Serve `app` until Ctrl-C, and say where: `said` and the address. A default port that is taken gives way to any.

    `wanted` says whether to open the browser (None: if somebody sits at a screen). Raises ConfigError.
    """
    from clearppo import web
    from clearppo.errors import ConfigError

    try:
        bound = web.listen(HOST, port)
    except ConfigError:
        if ctx.get_parameter_source("port") is not ParameterSource.DEFAULT:
            raise
        bound = web.listen(HOST, 0)
    url = web.address(HOST, bound) + "/"
    click.echo(f"{said}: {url}  (Ctrl-C ends)")
    if _has_browser() if wanted is None else wanted:
        threading.Thread(target=_open, args=(url,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        web.make_server(app, grace=1).run(sockets=[bound])


def _has_browser() -> bool:
    """Whether somebody sits at a screen: a terminal, and a display."""
    display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stdout.isatty() and bool(display)


def _open(url: str) -> None:
    import webbrowser

    webbrowser.open(url)
