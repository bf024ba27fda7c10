"""`clearppo view`: look at runs in the browser, while they run and afterwards."""

from pathlib import Path

import click

from clearppo.cli.serving import page_options, serve_pages


@click.command()
@click.argument("run_dirs", nargs=-1, metavar="[RUN_DIR]...", type=click.Path(path_type=Path))
@page_options(port=8400)
@click.pass_context
def view(ctx: click.Context, run_dirs: tuple[Path, ...], port: int, open_browser: bool | None) -> None:
    """Look at runs in the browser until Ctrl-C: curves, every recorded answer, every token with its equations.

    RUN_DIR is the output_dir of a run, of a pipeline, or any folder that holds runs; without one, the runs below this
    folder are shown. Runs may still be going on: the pages follow them. Nothing is ever written, and only this machine
    is answered; from elsewhere, forward the port: ssh -L 8400:localhost:8400 MACHINE.
    """
    from clearppo.data.checks import counted
    from clearppo.ui.runs import open_index
    from clearppo.ui.view import make_app

    index = open_index(run_dirs or [Path()])
    app = make_app(index)
    said = f"{counted(len(index.runs()), 'run')} to look at"
    serve_pages(ctx, app, port=port, open_browser=open_browser, said=said)
