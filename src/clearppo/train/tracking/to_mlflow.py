"""MLflow, through its client: nothing of its global state is touched."""

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from clearppo.train.tracking.tracker import Ended, TrackedRun

KEY, STEP = "clearppo.key", "clearppo.step"
"""Tags of a run: by the first it is found again, the second is the last step that it has."""
STATUS: Mapping[Ended, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
LONGEST = 5000  # characters of a value of a parameter or tag; MLflow's bound is 6000
AT_ONCE = 100  # parameters and tags in one call


class MLflowTracker:
    """A run in an MLflow store: metrics, options as parameters, config.yaml and tables as artifacts.

    `directory` holds a store in SQLite; None: MLFLOW_TRACKING_URI, or what MLflow takes without it. Steps that the run
    has already when it goes on after a kill are not written again.
    """

    name = "mlflow"

    def __init__(self, directory: Path | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow: Any = import_module("mlflow")
        self._entities: Any = import_module("mlflow.entities")
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._directory = directory
        self._client: Any = None
        self._run = ""
        self._held = -1  # step 0 is that of the start model

    def open(self, run: TrackedRun) -> str:
        uri, artifacts = None, None
        if self._directory is not None:
            place = self._directory.resolve()
            place.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{place / 'mlflow.db'}", (place / "mlartifacts").as_uri()
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(run.project)
        experiment = (
            found.experiment_id if found else self._client.create_experiment(run.project, artifact_location=artifacts)
        )
        before = self._client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'") if run.resumed else []
        if before:
            self._run, self._held = before[0].info.run_id, int(before[0].data.tags.get(STEP, -1))
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._begin(experiment, run)
        self._client.log_text(self._run, run.config, "config.yaml")
        return f"mlflow ui --backend-store-uri {uri or self._mlflow.get_tracking_uri()}"

    def _begin(self, experiment: str, run: TrackedRun) -> None:
        tags = {KEY: run.key, "clearppo.command": run.command, "mlflow.note.content": run.about[:LONGEST]}
        self._run = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [self._entities.Param(name, _text(value)[:LONGEST]) for name, value in run.options.items()]
        for first in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._run, params=params[first : first + AT_ONCE])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step <= self._held:
            return
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run,
            metrics=[self._entities.Metric(allowed(name), value, now, step) for name, value in values.items()],
            tags=[self._entities.RunTag(STEP, str(step))],
        )

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        data = {"columns": list(columns), "data": [[_cell(cell) for cell in row] for row in rows]}  # as log_table does
        self._client.log_text(self._run, json.dumps(data, ensure_ascii=False), f"{allowed(name)}/step-{step}.json")

    def summary(self, values: Mapping[str, float | str]) -> None:
        tags = [self._entities.RunTag(allowed(name), _text(value)[:LONGEST]) for name, value in values.items()]
        for first in range(0, len(tags), AT_ONCE):
            self._client.log_batch(self._run, tags=tags[first : first + AT_ONCE])

    def rewind(self, after: int) -> None:
        self._held = min(self._held, after)  # the steps come anew: MLflow keeps both values, and shows the later one

    def close(self, ended: Ended) -> None:
        if self._run:
            self._client.set_terminated(self._run, STATUS[ended])


def allowed(name: str) -> str:
    """A name of a metric, tag or file with what MLflow forbids made into underscores."""
    return re.sub(r"[^\w./ -]", "_", name)


def _cell(value: str | float) -> str | float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no nan


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
