"""Going on with a run whose options have changed: which changes leave the result what it would have been.

Two resolved configurations are compared option by option. What differs either never mattered to the result (where files
go, what is shown), or may move its last bits (how the work is cut), or makes the run longer or shorter, or makes the
result something else; the last is refused, unless --allow_changed_options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from clearppo.config.command import CommandConfig
from clearppo.config.dump import dump_config
from clearppo.config.leaves import leaves
from clearppo.config.messages import shown
from clearppo.config.run_sections import RESUMING
from clearppo.config.schema import PPOConfig
from clearppo.config.step_schemas import RewardModelConfig, SFTConfig
from clearppo.errors import CheckpointError

Effect = Literal["none", "bits", "length", "result"]

SILENT = frozenset({
    *RESUMING, "output_dir", "overwrite_output_dir", "logging_steps", "sample_steps", "profile", "save_steps",
    "save_total_limit", "trust_remote_code", "report_to", "run_name", "tracking_project", "tracking_dir",
    "max_bad_steps", "on_bad_steps", "watchdog_minutes", "reward_timeout", "reward_concurrency",
    "reward_request_timeout", "reward_patience", "reward_auth_env", "reward_missing", "record_steps", "record_answers",
    "record_limit_mib", "alarms", "alarm_actions", "vllm_server_timeout", "vllm_python", "launch", "num_processes",
    "cpus_per_process", "ray_address", "max_restarts",
})  # fmt: skip
"""Where results go, how often they are kept, how much of them is shown, what is done about the world's faults, and who
starts the processes: how many there are, and their threads, a checkpoint says itself."""
MEASURED = frozenset({
    "eval_steps", "eval_num_prompts", "eval_temperature", "eval_reward_funcs", "eval_reward_model_path",
    "metric_for_best_model", "greater_is_better", "load_best_model_at_end",
})  # fmt: skip
"""What is measured on the way, and which of the models is the result; not what is learned."""
FREE = SILENT | MEASURED
NUMERIC = frozenset({
    "micro_batch_size", "max_tokens_per_microbatch", "generation_batch_size", "device", "attn_implementation",
    "gradient_checkpointing", "deterministic", "sharding", "offload", "offload_frozen", "share_trunk",
    "reward_batch_size", "reward_worker", "vllm_mode", "vllm_engines", "vllm_server_base_url",
    "vllm_gpu_memory_utilization", "vllm_max_model_length",
    "vllm_tensor_parallel_size", "vllm_enable_sleep_mode",
})  # fmt: skip
"""How the work is cut and what computes it: the same sums in another order, so the last bits may differ."""
LENGTH = frozenset({"total_episodes", "num_train_epochs", "max_steps"})
"""How long a run is."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """An option that differs: as it was and as it is now, as the user would type it, and what that does."""

    option: str
    was: str
    now: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.option} was {self.was}, is {self.now}"


def changes(before: str, now: CommandConfig) -> list[Change]:
    """The options that differ between the resolved configuration `before`, the text of a config.yaml, and `now`.

    An option that the text does not have (that of another version of ClearPPO, or without effect) counts as its
    default. Two names of one file are no difference. Raises CheckpointError for a text that is no configuration.
    """
    return between(before, dump_config(now), type(now))


def between(before: str, after: str, schema: type[CommandConfig]) -> list[Change]:
    """The same of two texts, the config.yaml of two runs of one command."""
    known = leaves(schema)
    was, current = _flat(before), _flat(after)
    rates_stay = _rates_are_the_same({name: current.get(name, leaf.default) for name, leaf in known.items()})
    found: list[Change] = []
    for name in [*known, *(name for name in dict.fromkeys([*was, *current]) if name not in known)]:
        default = known[name].default if name in known else None
        old, new = was.get(name, default), current.get(name, default)
        if old != new and not _one_file(old, new):
            is_now = _said(new) if name in known or name in current else "not known any more"
            effect = _effect(name, rates_stay=rates_stay)
            found.append(Change(option=name, was=_said(old), now=is_now, effect=effect))
    return found


def check_unchanged(before: str, now: CommandConfig, *, note: Callable[[str], None]) -> None:
    """Whether the run of `before`, the text of its config.yaml, may go on as `now`; `note` is told what differs.

    Raises CheckpointError, which names every option that would make the result something else, unless
    `allow_changed_options`. Options that have no part in the result are not mentioned.
    """
    found = changes(before, now)
    other = [str(change) for change in found if change.effect == "result"]
    allowed = cast(SFTConfig | RewardModelConfig | PPOConfig, now).run.allow_changed_options
    if other and not allowed:
        fixed = any(change.option in LENGTH and change.effect == "result" for change in found)
        only = "may change only where the learning rate does not depend on it, as with --lr_scheduler_type constant"
        why = f"; how long a run is {only}" if fixed else ""
        raise CheckpointError(
            f"the run that is to go on had other options: {'; '.join(other)}. Its result would be something else{why}. "
            f"Give {'it' if len(other) == 1 else 'them'} as before, start afresh in another --output_dir, or go on all "
            "the same with --allow_changed_options true."
        )
    if other:
        note(f"goes on with other options, as allowed: {'; '.join(other)}")
    if bits := [str(change) for change in found if change.effect == "bits"]:
        note(f"the last bits may differ from those of a run that never stopped: {'; '.join(bits)}")
    if length := [str(change) for change in found if change.effect == "length"]:
        note(f"another length, and else the same: {'; '.join(length)}")


def _said(value: object) -> str:
    return "empty" if value == [] else shown(value)


def _effect(name: str, *, rates_stay: bool) -> Effect:
    if name in FREE:
        return "none"
    if name in NUMERIC:
        return "bits"
    return "length" if name in LENGTH and rates_stay else "result"


def _rates_are_the_same(options: Mapping[str, object]) -> bool:
    """Whether the learning rate of a step is the same however long the run is."""
    return options.get("lr_scheduler_type") in ("constant", "inverse_sqrt") and not options.get("warmup_ratio")


def _flat(text: str) -> dict[str, object]:
    """Every option that stands in a resolved configuration, by its name."""
    try:
        tree: Any = yaml.safe_load(text)
        return {name: value for options in tree.values() for name, value in options.items()}
    except (yaml.YAMLError, AttributeError):
        raise CheckpointError("the config.yaml of the run that is to go on cannot be read.") from None


def _one_file(old: object, new: object) -> bool:
    """Whether both name the same file that is there: ./model and /home/me/model."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    try:
        return Path(old).expanduser().samefile(Path(new).expanduser())
    except (OSError, ValueError, RuntimeError):
        return False
