"""From the section `tracking` to the trackers of a run."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from clearppo.config import TrackingConfig
from clearppo.errors import ConfigError
from clearppo.rundir import EVENTS
from clearppo.train.chance import undisturbed_chance
from clearppo.train.tracking import TrackedRun, Tracker, Trackers
from clearppo.train.tracking.to_mlflow import MLflowTracker
from clearppo.train.tracking.to_tensorboard import TensorBoardTracker
from clearppo.train.tracking.to_trackio import TrackioTracker
from clearppo.train.tracking.to_wandb import WandbTracker


def make_trackers(tracking: TrackingConfig, output_dir: str) -> Trackers:
    """The trackers that `tracking` names; their packages are imported, and nothing is written yet.

    Raises ConfigError for a package that is not installed, or cannot be imported.
    """
    names = tracking.report_to or ()
    check_trackers(tracking)
    return Trackers(
        [_made(name, tracking, Path(output_dir).expanduser()) for name in names],
        name=tracking.run_name or "/".join(Path(output_dir).parts[-2:]).strip("/"),
        project=tracking.tracking_project,
    )


def check_trackers(tracking: TrackingConfig) -> None:
    """Raises ConfigError for a tracker whose package is not installed; none is imported."""
    for name in tracking.report_to or ():
        if find_spec(name) is None:
            raise ConfigError(
                f"report_to = {name}, and the package {name} is not installed. Install it with "
                f"pip install 'clearppo[{name}]', or leave {name} out of --report_to."
            )


def _made(name: str, tracking: TrackingConfig, output_dir: Path) -> Tracker:
    shared = None if tracking.tracking_dir is None else Path(tracking.tracking_dir).expanduser()

    def events(run: TrackedRun) -> Path:
        if shared is None:
            return output_dir / EVENTS
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in run.unique_name)
        return shared / EVENTS / plain.strip(".")

    makers: Mapping[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoardTracker(events),
        "wandb": lambda: WandbTracker(shared),
        "trackio": lambda: TrackioTracker(None if shared is None else shared / "trackio"),
        "mlflow": lambda: MLflowTracker(shared),
    }
    try:
        with undisturbed_chance():  # importing may draw from the generators that are training's
            return makers[name]()
    except ImportError as error:
        raise ConfigError(
            f"report_to = {name}, and the package {name} cannot be imported ({error}). Install it anew with "
            f"pip install --upgrade 'clearppo[{name}]', or leave {name} out of --report_to."
        ) from error
