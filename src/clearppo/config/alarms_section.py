"""The section `alarm` of PPO: what a run looks for while it learns, and what it does about it."""

from typing import Annotated

from pydantic import Field

from clearppo.alarms.names import ACTIONS, NAMES
from clearppo.config.kinds import Allowed, OnlyIf, spelled
from clearppo.config.messages import InertOptionError, OptionError, listed, nearest
from clearppo.config.section import Section

ALL = "all"
_LOOKED_FOR = OnlyIf("alarms", "equals", "nothing is looked for", "--alarms true", value=True)


class AlarmsConfig(Section):
    """What is looked for in the numbers of a run (docs/alarms.md), and what is done about it."""

    alarms: bool = Field(
        default=True,
        description="Look after every iteration for what goes wrong in such runs: KL that runs away, entropy that "
        "collapses, a constant reward, answers that never end, and more. When one begins and when it is over there is "
        "a note, and a line in alarms.jsonl. Changes nothing of training.",
    )
    alarm_actions: Annotated[
        list[str],
        Allowed("a list of alarm=action, such as kl_runaway=rollback", "kl_runaway=rollback,never_ending=stop"),
        _LOOKED_FOR,
    ] = Field(
        default=[],
        description="What is done when an alarm begins, once: alarm=action, or all=action. note: nothing else; off: "
        "not looked for; checkpoint; raise_kl: kl_coef x 1.5; lower_lr: learning rates x 0.5; rollback: to a "
        "checkpoint from before, and on with other answers; stop: end the run (exit code 3).",
    )

    @property
    def actions(self) -> dict[str, str]:
        """The action of each alarm that is named, or of all; raises OptionError for what is neither."""
        given: dict[str, str] = {}
        for item in self.alarm_actions:
            name, action = self._read(item)
            if name in given:
                raise OptionError(
                    "alarm_actions",
                    f"alarm_actions = {spelled(self.alarm_actions)} names {name} twice. Give each alarm one action.",
                )
            given[name] = action
        every = given.pop(ALL, None)
        return (dict.fromkeys(NAMES, every) if every is not None else {}) | given

    @property
    def named(self) -> tuple[str, ...]:
        """The alarms that are named one by one."""
        return tuple(name for name, _ in map(self._read, self.alarm_actions) if name != ALL)

    def _read(self, item: str) -> tuple[str, str]:
        name, equals, action = (part.strip() for part in item.partition("="))
        said = f"alarm_actions = {spelled(self.alarm_actions)}"
        if not (name and equals and action):
            raise OptionError(
                "alarm_actions",
                f"{said}: {item} is not written alarm=action. Write e.g. --alarm_actions kl_runaway=rollback.",
            )
        for word, known, what in ((name, (*NAMES, ALL), "alarm"), (action, ACTIONS, "action")):
            if word not in known:
                near = nearest(word, known)
                mend = f"Did you mean {near}?" if near else f"There are {listed(known)}."
                raise OptionError("alarm_actions", f"{said}: there is no {what} {word}. {mend}")
        return name, action


def check_alarms(
    alarms: AlarmsConfig, *, save_steps: int, kl_coef: float, has_critic: bool, evaluated: bool, clipped: bool,
    endings: bool, batch_size: int,
) -> None:  # fmt: skip
    """An action that cannot be done, or an alarm that cannot ring, is an error. Raises OptionError."""
    actions, said = alarms.actions, f"alarm_actions = {spelled(alarms.alarm_actions)}"
    for action in ("checkpoint", "rollback"):
        if action in actions.values() and not save_steps:
            raise OptionError(
                "alarm_actions",
                f"{said}: with save_steps = 0 there is no checkpoint{' to go back to' * (action == 'rollback')}. "
                f"Set --save_steps 50, or another action than {action}.",
            )
    if "raise_kl" in actions.values() and not kl_coef:
        raise OptionError(
            "alarm_actions",
            f"{said}: raise_kl multiplies kl_coef, and kl_coef = 0 stays 0. Set --kl_coef 0.05, or another action.",
        )
    silent = {
        "held_out_apart": (
            evaluated,
            "nothing is measured on held-out prompts",
            "--eval_steps 10 --eval_fraction 0.05",
        ),
        "critic_useless": (has_critic, "there is no critic", "--advantage_estimator gae"),
        "clipping_saturated": (clipped, "nothing is clipped", "--cliprange 0.2"),
        "never_ending": (endings, "with fixed_length = true no answer is meant to end", "--fixed_length false"),
        "reward_constant": (batch_size >= 8, "fewer than 8 answers may be equal by chance", "--batch_size 8"),
    }
    for name in alarms.named:
        possible, because, mend = silent.get(name, (True, "", ""))
        if not possible:
            raise InertOptionError(
                "alarm_actions", f"{said}: {name} cannot ring, because {because}. Add {mend}, or leave out {name}."
            )
