"""Reading a Python script by its syntax tree: the literal arguments with which it makes TRL's configurations."""

import ast
from collections.abc import Iterator

from clearppo.config.messages import listed
from clearppo.errors import ConfigError
from clearppo.foreign.found import Source, Unread

STEP_OF = {"PPOConfig": "ppo", "PPOv2Config": "ppo", "SFTConfig": "sft", "RewardConfig": "reward"}
BESIDE = {
    "ModelConfig": {},
    "ScriptArguments": {},
    "LoraConfig": {"r": "lora_r", "target_modules": "lora_target_modules"},
}
OTHERS = ("GRPOConfig", "RLOOConfig", "DPOConfig", "KTOConfig", "ORPOConfig", "OnlineDPOConfig", "GKDConfig")


def read_python(text: str, name: str, step: str | None) -> Source:
    """The one call of PPOConfig, SFTConfig or RewardConfig, and those of ModelConfig, ScriptArguments and LoraConfig.

    Raises ConfigError for what is no Python, has no such call, or several.
    """
    try:
        tree = ast.parse(text)
        calls = list(_calls(tree))
    except SyntaxError as error:
        raise ConfigError(f"{name}, line {error.lineno or 1}: this is no Python: {error.msg}.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{name}: this is no Python that can be read: {str(error) or 'nested too deep'}.") from None
    made = [(what, call) for what, call in calls if what in STEP_OF and step in (None, STEP_OF[what])]
    if len(made) != 1:
        raise _not_one(made, calls, name, step)
    ((what, call),) = made
    source = Source(step=STEP_OF[what])
    for other, beside in calls:
        if other in BESIDE:
            _arguments(source, other, beside, {"lora_dropout": "lora_dropout"} | BESIDE[other])
    if any(other == "LoraConfig" for other, _ in calls):
        source.add("use_peft", True, "LoraConfig")
    if what == "PPOv2Config":
        source.old = False
    _arguments(source, what, call, {})
    return source


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a name, with the name as it was before `import ... as ...`."""
    renamed = {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            yield renamed.get(called, called), node


def _arguments(source: Source, what: str, call: ast.Call, renamed: dict[str, str]) -> None:
    """The keywords of a call whose values are literal; the others are noted."""
    own = what in STEP_OF
    for number, node in enumerate(call.args, start=1):
        source.unread.append(
            Unread(name=f"argument {number} of {what}", place=f"line {node.lineno}", why="it has no name: give it one")
        )
    for keyword in call.keywords:
        place = f"line {keyword.value.lineno}"
        if keyword.arg is None:
            shown = f"**{ast.unparse(keyword.value)}"[:60]
            source.unread.append(
                Unread(name=shown, place=place, why="what is in it only running the script would tell")
            )
            continue
        if what == "LoraConfig" and keyword.arg in ("task_type", "bias", "inference_mode"):
            continue
        name = renamed.get(keyword.arg, keyword.arg)
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            why = f"{ast.unparse(keyword.value)[:60]} is no literal value, and the script is not run: write the value"
            source.unread.append(Unread(name=name, place=place, why=why))
            continue
        if own or name not in source.settings:
            source.add(name, value, place)


def _not_one(
    made: list[tuple[str, ast.Call]], calls: list[tuple[str, ast.Call]], name: str, step: str | None
) -> ConfigError:
    if made:
        said = [f"{what} (line {call.lineno})" for what, call in made]
        mend = "Say which step is meant: --step ppo" if step is None else "Leave one of them"
        return ConfigError(f"{name} makes {listed(said)}, and one configuration is read. {mend}.")
    other = next((what for what, _ in calls if what in OTHERS), None)
    if other:
        return ConfigError(f"{name} makes a {other}; import-config reads PPOConfig, SFTConfig and RewardConfig.")
    wanted = next((f"{what}(...)" for what, own in STEP_OF.items() if own == step), "PPOConfig(...)")
    return ConfigError(
        f"{name} makes no {wanted}. If it takes its settings from the command line, give the shell script (.sh) or the "
        "YAML that it is started with."
    )
