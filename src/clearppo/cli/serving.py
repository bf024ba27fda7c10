"""What the commands share that show pages: a port, the browser, and an end by Ctrl-C."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

HOST = "127.0.0.1"
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def page_options(*, port: int) -> Callable[[CommandT], CommandT]:
    """The options --port, with this default, and --open/--no-open (`open_browser`)."""

    def add(command: CommandT) -> CommandT:
        command = click.option(
            "--open/--no-open",
            "open_browser",
            default=None,
            help="Open the browser, or do not.  [default: if there is one]",
        )(command)
        return click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=True,
            help="0: any that is free. So is the default, if it is taken.",
        )(command)

    return add


def serve_pages(ctx: click.Context, app: Any, *, port: int, open_browser: bool | None, said: str) -> None:
    """Serve `app` until Ctrl-C, and say where: `said` and the address. A default port that is taken gives way to any.

    `open_browser` None: open it if somebody sits at a screen. Raises ConfigError.
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
    if _has_browser() if open_browser is None else open_browser:
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
