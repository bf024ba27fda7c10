"""`clearppo explain`: what a metric, an option, an alarm, a check, an equation or an error means."""

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", nargs=-1)
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="English or Chinese."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(name: tuple[str, ...], language: str, as_json: bool) -> None:
    """Say what NAME means: a metric (objective/kl, or what other programs call it: approxkl), an option (kl_coef, of
    any command), an alarm, a check of clearppo doctor, an equation of the article ("(7)"), an error class, an exit code
    (3), or an error sentence, pasted whole. Without NAME, everything there is.

    Units and formulas are read from the code that computes them, defaults from the options' own declarations.
    """
    from clearppo.cli.explain_print import print_found, print_list
    from clearppo.ui.explain_find import find

    query = " ".join(name)
    if query:
        print_found(find(query), query, language, as_json=as_json)
    else:
        print_list(language, as_json=as_json)
