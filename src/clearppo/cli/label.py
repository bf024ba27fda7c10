"""`clearppo label`: people compare answers, in the browser or in the terminal."""

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clearppo.cli.serving import page_options, serve_pages
from clearppo.errors import ClearPPOError, ConfigError

if TYPE_CHECKING:
    from clearppo.data.candidates import Candidates
    from clearppo.ui.label_desk import Desk

PORT = 8401
PAGE = ("port", "open_browser")
SAMPLING = ("num_completions", "max_prompts", "response_length", "temperature", "seed", "device")
"""Options of `clearppo prefs` that --model_name_or_path goes with."""
LABELLING = ("output", "labeller", "terminal", "overlap", "model_name_or_path", *PAGE, *SAMPLING)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--output", default="labels.jsonl", show_default=True, help="The file of decisions; it only ever grows.")
@click.option("--labeller", metavar="NAME", default=None, help="Your name in the terminal; the page asks for it.")
@click.option("--terminal", is_flag=True, help="Label here, and not in the browser.")
@page_options(port=PORT)
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the items that every labeller is shown, first of all; the rest is divided.",
)
@click.option(
    "--model_name_or_path", multiple=True, metavar="MODEL", help="Answers the prompts of FILE first; one or several."
)
@click.option("--num_completions", metavar="N", help="Answers of each model.  [default: 2; of several models 1]")
@click.option("--max_prompts", metavar="N", help="Answer at most so many prompts, the first of a seeded order.")
@click.option("--response_length", metavar="N", help="Longest answer in tokens, as in clearppo prefs.")
@click.option("--temperature", metavar="X", help="As in clearppo prefs.")
@click.option("--seed", metavar="N", help="As in clearppo prefs.")
@click.option("--device", metavar="NAME", help="Where the model computes, as in clearppo prefs.")
@click.option(
    "--agreement",
    is_flag=True,
    help="Print how far the labellers in FILE..., files of decisions, agree, and which model's answers they prefer.",
)
@click.pass_context
def label(ctx: click.Context, files: tuple[str, ...], **options: Any) -> None:
    """Compare answers yourself: each prompt is shown with two to four answers, blind and in random order.

    \b
    FILE holds one of these:
      comparisons in any format of clearppo reward; who won is not looked at
      rows of {"prompt": ..., "completions": [...]}, as clearppo prefs --for_human writes them; several
        files are put together by their prompts, to compare models
      prompts alone, with --model_name_or_path to answer them
      with --agreement: what clearppo label wrote

    Any number of people may label in the same page, each under a name. clearppo reward --dataset_name labels.jsonl
    reads what comes out. Only this machine is answered; from elsewhere: ssh -L 8401:localhost:8401 MACHINE.
    """
    given = {name for name in options if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    _check(given, options)
    if options["agreement"]:
        _print_agreement(files)
        return
    from clearppo.ui.label_desk import Desk, labeller_name
    from clearppo.ui.label_store import LabelStore

    name = labeller_name(options["labeller"]) if options["labeller"] is not None else None
    if not options["terminal"]:
        from clearppo.ui.label_app import require_server

        require_server()
    candidates = _candidates(files, options, {name: options[name] for name in SAMPLING if name in given})
    store = LabelStore.open(options["output"])
    try:
        desk = Desk(candidates.items, store, overlap=options["overlap"])
        for note in [*_said(candidates, desk), *store.notes]:
            click.echo(f"note: {note}", err=True)
        model = next(iter([*options["model_name_or_path"], *candidates.models]), None)
        following = _following(options["output"], model)
        if options["terminal"]:
            _label_here(desk, name, options["output"], following)
        else:
            _serve(ctx, desk, files, options, following)
    finally:
        store.close()


def _check(given: set[str], options: dict[str, Any]) -> None:
    """Raises ConfigError for an option that would have no effect."""
    if options["agreement"]:
        _refuse(given & set(LABELLING), "--agreement prints a table and labels nothing")
    if options["terminal"]:
        _refuse(given & set(PAGE), "with --terminal there is no page")
    else:
        _refuse(given & {"labeller"}, "the page asks each labeller for a name; --terminal takes it from here")
    if not options["model_name_or_path"]:
        _refuse(given & set(SAMPLING), "nothing is sampled without --model_name_or_path")
    if not math.isfinite(options["overlap"]):  # which click takes for a number between 0 and 1
        raise ConfigError(f"overlap = {options['overlap']} is no share. Use --overlap 0.1, or another from 0 to 1.")


def _refuse(names: set[str], because: str) -> None:
    for name in sorted(names):
        flag = "--open" if name == "open_browser" else f"--{name}"
        raise ConfigError(f"{flag} has no effect: {because}. Leave it out.")


def _candidates(files: Sequence[str], options: dict[str, Any], sampling: dict[str, Any]) -> "Candidates":
    from clearppo.data.candidates import has_answers, read_candidates, read_source

    if len({Path(os.path.expanduser(name)).resolve() for name in files}) < len(files):
        raise ConfigError(f"a file is given twice: {' '.join(files)}. Give each of them once.")
    sources = {name: read_source(name) for name in files}
    output = Path(os.path.expanduser(options["output"]))
    for name in sources:
        if output.exists() and output.samefile(os.path.expanduser(name)):
            raise ConfigError(f"output = {output} is read, too. Use another --output.")
    models = options["model_name_or_path"]
    unanswered = [name for name, rows in sources.items() if not has_answers(rows)]
    if not models:
        if unanswered and isinstance(sources[unanswered[0]][0][1], dict) and "prompt" in sources[unanswered[0]][0][1]:
            raise ConfigError(
                f"{unanswered[0]} holds prompts and no answers. Add --model_name_or_path MODEL to have them answered."
            )
        return read_candidates(sources)
    if len(files) > 1 or not unanswered:
        seen = f"{len(files)} are given. Give one" if len(files) > 1 else f"{files[0]} holds answers. Leave it out"
        raise ConfigError(f"--model_name_or_path answers the prompts of one file, and {seen}.")
    from clearppo.cli.label_answers import answer_prompts

    made = answer_prompts(files[0], models, output, sampling)
    return read_candidates({str(path): read_source(str(path)) for path in made})


def _said(candidates: "Candidates", desk: "Desk") -> list[str]:
    """What was left out, for people."""
    said = (
        (candidates.n_alike, "{n} prompt{s} without two different answers {are} left out"),
        (candidates.n_repeated, "{n} row{s} that repeat{verb} another one {are} left out"),
        (candidates.n_cut, "of {n} prompt{s} with more than four answers the first four are shown"),
        (desk.n_foreign, "{n} decision{s} in the output {are} on items that are not in these files"),
    )
    one, more = {"s": "", "verb": "s", "are": "is"}, {"s": "s", "verb": "", "are": "are"}
    return [text.format(n=count, **(one if count == 1 else more)) for count, text in said if count]


def _following(output: str, model: str | None) -> str:
    """The command that learns from the decisions."""
    begin = shlex.quote(model) if model is not None else "MODEL"
    return f"clearppo reward --dataset_name {shlex.quote(output)} --model_name_or_path {begin} --output_dir runs/reward"


def _serve(ctx: click.Context, desk: "Desk", files: Sequence[str], options: dict[str, Any], following: str) -> None:
    from rich.console import Console

    from clearppo.data.checks import counted
    from clearppo.ui.label_app import make_label_app
    from clearppo.ui.label_terminal import result_tables

    names = ", ".join(Path(name).name for name in files)
    app = make_label_app(desk, source=names, output=options["output"], following=following)
    said = f"{counted(desk.n_items, 'item')} to compare, decisions go to {options['output']}"
    serve_pages(ctx, app, port=options["port"], open_browser=options["open_browser"], said=said)
    if found := desk.results():
        Console(highlight=False).print(*result_tables(found), sep="\n")


def _label_here(desk: "Desk", name: str | None, output: str, following: str) -> None:
    from rich.console import Console

    from clearppo.ui.label_terminal import Keyboard, ask_name, label_here

    console = Console(highlight=False)
    with Keyboard() as keyboard:
        name = name or ask_name(console, keyboard)
        label_here(desk, name, console, keyboard, output=output, following=following)


def _print_agreement(files: Sequence[str]) -> None:
    from rich.console import Console

    from clearppo.data.candidates import read_source
    from clearppo.data.labels import read_decision, standing
    from clearppo.ui.label_agreement import measure
    from clearppo.ui.label_results import duels
    from clearppo.ui.label_terminal import agreement_tables, result_tables

    decisions = [read_decision(row, f"{name} {where}") for name in files for where, row in read_source(name)]
    stand = list(standing(decisions).values())
    found = measure(stand)
    if not found.people:
        raise ClearPPOError(f"{' and '.join(files)}: no decision stands. Label something first.")
    Console(highlight=False).print(*agreement_tables(found), *result_tables(duels(stand)), sep="\n")
