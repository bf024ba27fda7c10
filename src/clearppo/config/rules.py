"""Rules between options that several commands share. Each raises OptionError."""

from clearppo.config.kinds import spelled
from clearppo.config.learning_sections import OptimConfig
from clearppo.config.messages import InertOptionError, OptionError
from clearppo.config.model_sections import ReadModelConfig
from clearppo.config.run_sections import RunConfig, TrainRunConfig


def check_device(model: ReadModelConfig) -> None:
    """Number types that a device does not have."""
    if model.device == "mps" and model.dtype == "float64":
        raise OptionError(
            "dtype", "dtype = float64 does not exist on device = mps. Set --device cpu, or --dtype float32."
        )


def check_warmup(optim: OptimConfig) -> None:
    """One length of the warm-up, and a start only where there is one."""
    if optim.warmup_steps is not None and optim.warmup_ratio:
        raise OptionError(
            "warmup_steps",
            f"warmup_steps = {optim.warmup_steps} and warmup_ratio = {spelled(optim.warmup_ratio)} both say how long "
            "the warm-up is. Give only one of them.",
        )
    if optim.warmup_start and not (optim.warmup_steps or optim.warmup_ratio):
        raise InertOptionError(
            "warmup_start",
            f"warmup_start = {spelled(optim.warmup_start)} has no effect because there is no warm-up. "
            "Add --warmup_steps 10, or leave out --warmup_start.",
        )
    if optim.lr_scheduler_type == "inverse_sqrt" and not (optim.warmup_steps or optim.warmup_ratio):
        raise OptionError(
            "lr_scheduler_type",
            "lr_scheduler_type = inverse_sqrt falls from the end of the warm-up on, and there is no warm-up. "
            "Add --warmup_steps 100.",
        )


def check_function_name(option: str, function: object, *, model: str) -> None:
    """A text that names a function is written file.py:name or package.module:name; `model` is the option that takes a
    trained reward model."""
    place, colon, name = function.rpartition(":") if isinstance(function, str) else ("x", ":", "x")
    if not (place and colon and all(part.isidentifier() for part in name.split("."))):
        raise OptionError(
            option,
            f"{option} = {spelled(function)} does not name a function. Write --{option} file.py:name "
            f"or package.module:name; for a trained reward model use --{model}.",
        )


def check_resume(run: RunConfig | TrainRunConfig) -> None:
    """A run that goes on keeps what overwriting would delete."""
    if run.resume_from_checkpoint is not None and run.overwrite_output_dir:
        raise OptionError(
            "resume_from_checkpoint",
            f"resume_from_checkpoint = {spelled(run.resume_from_checkpoint)} goes on with the run that "
            "overwrite_output_dir = true deletes. Give only one of them.",
        )
