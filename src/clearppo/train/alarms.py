"""What a run does about alarms: a note and a line for each, and, if asked to, something that changes its course.

Looking happens when an iteration is over, before its end is noted for a checkpoint; so what was seen and done is part
of the state, and a run that is killed and gone on with comes to the same lines and the same course. What changes the
loop leaves it by an exception, as numbers that are not finite do: the loop itself knows nothing of this.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clearppo.alarms import Alarms, Event, Facts
from clearppo.config import PPOConfig
from clearppo.errors import AlarmError
from clearppo.rundir import ALARMS, RunDir
from clearppo.train.faults import MOST_RETURNS
from clearppo.train.listener import Listener
from clearppo.train.tracking import Trackers

RAISED_KL, LOWERED_RATE = 1.5, 0.5
"""What the KL coefficient and the learning rates are multiplied with."""
ON = "alarms/on"
"""What trackers are told: how many alarms are on."""


class LoopChangedError(Exception):
    """The loop is to be entered again from `start`, for its KL coefficient or learning rate is another from now on."""

    def __init__(self, start: dict[str, Any]) -> None:
        super().__init__("the loop is entered again")
        self.start = start


class GoBackError(Exception):
    """The run is to go back to a checkpoint from before iteration `since`, because of an alarm. Where it cannot, the
    next iteration would be that of `start`."""

    def __init__(self, event: Event, since: int, start: dict[str, Any]) -> None:
        super().__init__(_told(event))
        self.event = event
        self.since = since
        self.start = start


class RunAlarms:
    """The alarms of a run whose iterations have the numbers in `history`. None are looked for unless `wanted`; what
    was changed because of earlier ones stays.

    `kl_factor` multiplies a fixed KL coefficient, `rate_factor` all learning rates. `gone_back` are the lines of the
    alarms that the run has gone back for, each with the iteration that it went back to.
    """

    def __init__(
        self,
        facts: Facts,
        actions: Mapping[str, str],
        *,
        wanted: bool,
        history: Sequence[Mapping[str, float]],
        run_dir: RunDir,
        listener: Listener,
        trackers: Trackers,
    ) -> None:
        self.alarms = Alarms(facts, actions)
        self.wanted = wanted
        self.history = history
        self.run_dir = run_dir
        self.listener = listener
        self.trackers = trackers
        self.kl_factor, self.rate_factor = 1.0, 1.0
        self.gone_back: list[dict[str, Any]] = []
        self._asked: list[Event] = []

    def look(self, step: int, loop: Mapping[str, Any]) -> dict[str, Any]:
        """Iteration `step` is over, and the next is to begin with `loop`. What it begins with instead.

        Raises GoBackError if there shall be no next one: nothing of where the run stands needs to be kept then.
        """
        self._asked = [event for event in self._seen(step, self.history) if event.state == "on"]
        changed = dict(loop)
        if (returning := self._asked_for("rollback")) and not self._asked_for("stop"):
            event = min(returning, key=self.alarms.since)
            raise GoBackError(event, self.alarms.since(event), {"step": step, **changed})
        for _ in self._asked_for("raise_kl"):
            if "value" in changed["kl"]:  # an adaptive coefficient, which goes on from there
                changed["kl"] = {"value": changed["kl"]["value"] * RAISED_KL}
            else:
                self.kl_factor *= RAISED_KL
        for _ in self._asked_for("lower_lr"):
            self.rate_factor *= LOWERED_RATE
        return changed

    def at_end(self, step: int) -> None:
        """The last iteration is over, and so is the evaluation after it."""
        self._seen(step, [*self.history, {}])

    @property
    def checkpoint(self) -> bool:
        """Whether a checkpoint is asked for now."""
        return bool(self._asked_for("checkpoint"))

    def follow(self, step: int, loop: Mapping[str, Any]) -> None:
        """The end of iteration `step` is noted: AlarmError if the run is to stop there, LoopChangedError if it is to go
        on in another way."""
        if stopping := self._asked_for("stop"):
            raise AlarmError(f"{_told(stopping[0])} The run has stopped, as --alarm_actions asks.")
        if self._asked_for("raise_kl", "lower_lr"):
            raise LoopChangedError({"step": step, **loop})

    @property
    def returns(self) -> int:
        """How often the run may still go back to a checkpoint."""
        return MOST_RETURNS - len(self.gone_back)

    def went_back(self, before: Sequence[dict[str, Any]], event: Event, step: int) -> None:
        """The run has gone back to `step` because of an alarm, and so have its files and this state; `before` was
        `gone_back` until then. Alarms that it went back to the same place for have lost their lines too."""
        why = f"after iteration {event.step} {event.sentence}; the run has gone back to iteration {step}"
        self.gone_back = [*before, event.row() | {"step": step, "sentence": why}]
        rows = [row for row in self.gone_back if row["step"] == step]
        self.run_dir.append(ALARMS, [row | more for row in rows for more in ({}, {"state": "off", "advice": ""})])

    def state(self) -> dict[str, Any]:
        """What later alarms, and the course of the run, depend on."""
        return {
            "places": self.alarms.state(),
            "kl_factor": self.kl_factor,
            "rate_factor": self.rate_factor,
            "gone_back": list(self.gone_back),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.alarms.load_state(state["places"])
        self.kl_factor, self.rate_factor = float(state["kl_factor"]), float(state["rate_factor"])
        self.gone_back = [dict(row) for row in state["gone_back"]]
        self._asked = []

    def _seen(self, step: int, history: Sequence[Mapping[str, float]]) -> list[Event]:
        events = self.alarms.look(step, history) if self.wanted and history else []
        if events:
            self.run_dir.append(ALARMS, [event.row() for event in events])
        for event in events:
            self.listener.note(_note(event))
        if self.wanted:
            self.trackers.metrics(step, {ON: float(len(self.alarms.on))})
        return events

    def _asked_for(self, *actions: str) -> list[Event]:
        return [event for event in self._asked if event.action in actions]


def facts_of(config: PPOConfig, *, held_out: int) -> Facts:
    """What rules know of a run with this configuration, in which `held_out` prompts are measured on."""
    return Facts(
        batch_size=config.run.batch_size,
        response_length=config.sampling.response_length,
        warmup=config.ppo.critic_warmup_steps,
        endings=config.answers_can_end,
        kl_target=config.kl.kl_target if config.kl.kl_controller == "adaptive" else None,
        held_out=held_out,
    )


def _note(event: Event) -> str:
    return _told(event) if event.state == "on" else f"alarm {event.alarm} is over: {event.sentence}."


def _told(event: Event) -> str:
    done = "" if event.action == "note" else f" ({event.action})"
    return f"alarm {event.alarm}{done} after iteration {event.step}: {event.sentence}. {event.advice}"
