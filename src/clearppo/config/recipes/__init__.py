"""The built-in recipes: YAML files beside this one, in the form of a user's own, with comments that explain them."""

from importlib.resources import files

from clearppo.config.messages import listed, nearest
from clearppo.errors import ConfigError


def list_recipes() -> list[str]:
    """The names of the built-in recipes, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML text of a recipe. Raises ConfigError, with the names there are, for an unknown one."""
    names = list_recipes()
    if name not in names:
        near = nearest(name, names)
        if name.endswith((".yaml", ".yml")):
            hint = f" A file of your own is given with --config {name}."
        else:
            hint = f" Did you mean {near}?" if near else ""
        raise ConfigError(f"Unknown recipe {name}. There are {listed(names)}.{hint}")
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """What a recipe is for: the first line of its text, which is a comment."""
    return recipe_text(name).splitlines()[0].removeprefix("#").strip()
