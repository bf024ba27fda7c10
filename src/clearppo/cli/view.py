"""`clearppo view`: look at runs in the browser, while they run and afterwards."""

from pathlib import Path

import click

from clearppo.cli.serving import serve_pages


@click.command()
@click.argument("run_dirs", nargs=-1, metavar="[RUN_DIR]...", type=click.Path(path_type=Path))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8400,
    show_default=True,
    help="0: any that is free. So is the default, if it is taken.",
)
@click.option(
    "--open/--no-open", "wanted", default=None, help="Open the browser, or do not.  [default: if there is one]"
)
@click.pass_context
def view(ctx: click.Context, run_dirs: tuple[Path, ...], port: int, wanted: bool | None) -> None:
    """Look at runs in the browser until Ctrl-C: curves, every recorded answer, every token with its equations.

    RUN_DIR is the output_dir of a run, of a pipeline, or any folder that holds runs; without one, the runs below this
    folder are shown. Runs may still be going on: the pages follow them. Nothing is ever written, and only this machine
    is answered; from elsewhere, forward the port: ssh -L 8400:localhost:8400 MACHINE.
    """
    from clearppo.ui.runs import open_index
    from clearppo.ui.view import make_app

    index = open_index(run_dirs or [Path()])
    app = make_app(index)
    n = len(index.runs())
    serve_pages(ctx, app, port=port, wanted=wanted, said=f"{n} run{'s' * (n > 1)} to look at")
