"""What options do, in Chinese. In English it stands where they are declared; tests hold one to the other.

CHINESE: by the option's name; by command.name where that command says something else (`of` knows the order).
"""

from clearppo.catalogue.options.launch import LAUNCH
from clearppo.catalogue.options.ppo import PPO
from clearppo.catalogue.options.steps import STEPS

CHINESE = {**PPO, **STEPS, **LAUNCH}


def of(command: str, name: str) -> str | None:
    """What an option of a command does; None if nobody has said it in Chinese."""
    shared = "sft" if command == "reward" else command
    for key in (f"{command}.{name}", f"{shared}.{name}", name):
        if key in CHINESE:
            return CHINESE[key]
    return None
