"""`clearppo recipes`: the built-in recipes."""

import click

from clearppo.config import list_recipes, recipe_summary, recipe_text


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List the built-in recipes: sets of options to start from, used with `clearppo rlhf --recipe NAME`, or for one
    step with `clearppo sft`, `reward` or `ppo`.

    `clearppo recipes show NAME` prints one, with comments; it can be saved, changed and used with --config.
    """
    if ctx.invoked_subcommand is None:
        names = list_recipes()
        width = max(len(name) for name in names)
        for name in names:
            click.echo(f"{name:<{width}}  {recipe_summary(name)}")


@recipes.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the recipe NAME as YAML."""
    click.echo(recipe_text(name), nl=False)
