"""The section `tracking` of the commands that train: which programs for watching experiments are told of a run."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field

from clearppo.config.kinds import Allowed, OnlyIf, spelled
from clearppo.config.messages import OptionError
from clearppo.config.section import Section

TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
ReportTo = Annotated[
    list[TrackerName] | None,
    Allowed("a list of tensorboard, wandb, trackio and mlflow", "tensorboard"),
    Field(
        min_length=1,
        description="Programs for watching experiments that are told of metrics, options and sample answers as they "
        "come: tensorboard, wandb, trackio, mlflow, or several. Each is installed with pip install "
        "'clearppo[NAME]', and none can slow or stop the run. none: files in output_dir only, and no network.",
    ),
]
_TOLD = OnlyIf("report_to", "is set", "no tracker is told of the run", "--report_to tensorboard")
_WITH_PROJECTS = OnlyIf(
    "report_to",
    "names one of",
    "only wandb, trackio and mlflow know projects",
    "--report_to wandb",
    value=("wandb", "trackio", "mlflow"),
)
TrackingProject = Annotated[
    str,
    _WITH_PROJECTS,
    Field(
        min_length=1,
        description="What the run belongs to: the project of wandb and trackio, the experiment of mlflow.",
    ),
]
TrackingDir = Annotated[
    str | None,
    _TOLD,
    Field(
        min_length=1,
        description="Directory in which trackers keep their files, of many runs side by side. none: tensorboard/ in "
        "output_dir, and for the others their own places (WANDB_DIR, TRACKIO_DIR, MLFLOW_TRACKING_URI, or what they "
        "take without).",
    ),
]


class TrackingConfig(Section):
    """Who is told of the run while it trains, beside metrics.jsonl and the screen."""

    report_to: ReportTo = None
    run_name: Annotated[str | None, _TOLD] = Field(
        default=None,
        min_length=1,
        description="Name of the run where trackers list runs. none: the last two parts of output_dir.",
    )
    tracking_project: TrackingProject = "clearppo"
    tracking_dir: TrackingDir = None


@runtime_checkable
class Reporting(Protocol):
    """A section that says which trackers there are: a command's own, or a pipeline's."""

    @property
    def report_to(self) -> Sequence[str] | None: ...


def check_tracking(tracking: Reporting) -> None:
    """No tracker twice. Raises OptionError."""
    names = list(tracking.report_to or ())
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError("report_to", f"report_to = {spelled(names)} names {twice[0]} twice. Name each tracker once.")
