"""What the pages are told of runs: the index, and the files of each run, read when they are asked for."""

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from clearppo.config.dump import clearppo_version
from clearppo.record import Iteration, iteration_path, steps
from clearppo.ui import equations
from clearppo.ui.alarms import alarms_of, as_events, as_told, in_short
from clearppo.ui.metrics import Metrics, events
from clearppo.ui.planned import planned
from clearppo.ui.prompts import Archive, evaluated, evaluation_rows
from clearppo.ui.runs import Index, Run
from clearppo.ui.spread import overview
from clearppo.web import RefusedError

LONGEST = 2000
"""Characters of a text in a table; more is there when one answer is opened."""


class Library:
    """Answers to the pages' questions. Every one raises RefusedError for a run, a step or a row that is not there, and
    RecordError for a damaged record."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._metrics: dict[str, Metrics] = {}
        self._archives: dict[str, Archive] = {}
        self._lock = threading.Lock()

    def runs(self) -> dict[str, Any]:
        """All runs."""
        found: list[dict[str, Any]] = []
        for run in self.index.runs():
            with contextlib.suppress(OSError):  # gone since the search, or unreadable: the rest is shown
                about = {"recorded": len(recorded(run)), "alarms": in_short(alarms_of(run))}
                found.append({**run.summary(), **about})
        return {"version": clearppo_version(), "root": ", ".join(map(str, self.index.roots)), "runs": found}

    def run(self, run_id: str) -> dict[str, Any]:
        """All that is known of a run as a whole."""
        run = self._run(run_id)
        metrics, marks, alarms = self._numbers(run), run.best(), alarms_of(run)
        recorded_steps, rows = recorded(run), metrics.rows()
        return {
            **run.summary(),
            "recorded": len(recorded_steps),
            "config": run.config_text(),
            "options": run.options(),
            "objective": run.objective(),
            "recorded_steps": recorded_steps,
            "evaluated_steps": evaluated(run),
            "best": marks[-1] if marks else None,
            "events": sorted([*events(rows, marks), *as_events(alarms)], key=lambda event: event["step"]),
            "alarms": as_told(alarms),
            "plan": planned(run, rows),
            "damaged_lines": metrics.damaged(),
            "models": run.models(),
        }

    def metrics(self, run_id: str, cursor: str | None) -> dict[str, Any]:
        """The numbers of a run since `cursor`."""
        return self._numbers(self._run(run_id)).since(cursor)

    def iteration(
        self,
        run_id: str,
        step: int,
        *,
        sort: str | None,
        descending: bool,
        query: str,
        filters: Mapping[str, Any],
        offset: int,
        limit: int,
    ) -> dict[str, Any]:
        """A page of an iteration's answers."""
        found = self._iteration(run_id, step)
        page = found.page(sort, descending=descending, query=query, filters=filters, offset=offset, limit=limit)
        rows = [
            {**row, "prompt": shortened(row["prompt"]), "completion": shortened(row["completion"])} for row in page.rows
        ]
        about = {"step": step, "meta": found.meta, "total": page.total, "matching": page.matching}
        return {**about, **overview(found), "rows": rows}

    def answer(self, run_id: str, step: int, row: int) -> dict[str, Any]:
        """An answer with all that was recorded of its tokens."""
        found = self._iteration(run_id, step)
        answer = self._row(found, row)
        before, after = found.neighbours(row)
        lists = {name: answer.pop(name) for name in equations.TOKEN_LISTS}
        ratios = answer.pop("ratios")
        return {
            **answer,
            "step": step,
            "meta": found.meta,
            "tokens": lists,
            "ratios": ratios,
            "clipped": equations.clipped(found.meta, lists["advantages"], ratios),
            "previous": before,
            "next": after,
        }

    def token(self, run_id: str, step: int, row: int, token: int) -> dict[str, Any]:
        """A token's equations, with the numbers that it was learned from with."""
        found = self._iteration(run_id, step)
        answer = self._row(found, row)
        if token >= answer["length"]:
            raise RefusedError(404, f"answer {row} has {answer['length']} tokens, counted from 0; there is no {token}")
        return equations.explain(found.meta, answer, token, self._group(found, row))

    def prompts(self, run_id: str, *, query: str, offset: int, limit: int) -> dict[str, Any]:
        """A page of the prompts that a run has answered."""
        return self._archive(self._run(run_id)).prompts(query, offset, limit)

    def prompt(self, run_id: str, prompt_id: str) -> dict[str, Any]:
        """A prompt, and its answers through time."""
        found = self._archive(self._run(run_id)).prompt(prompt_id)
        if found is None:
            raise RefusedError(404, f"this run has recorded no prompt {prompt_id[:60]!r}")
        return found

    def reward_report(self, run_id: str) -> dict[str, Any]:
        """The report on a reward model."""
        report = self._run(run_id).reward_report()
        if report is None:
            raise RefusedError(404, "this run has no reward_report.json: only clearppo reward writes one")
        return report

    def evaluation(self, run_id: str, step: int) -> dict[str, Any]:
        """Every answer of a measurement."""
        rows = evaluation_rows(self._run(run_id), step)
        if rows is None:
            raise RefusedError(404, f"nothing was measured at step {step} of this run")
        return {"step": step, "rows": rows}

    def _run(self, run_id: str) -> Run:
        run = self.index.get(run_id)
        if run is None:
            raise RefusedError(404, f"there is no run {run_id[:100]!r}; /api/runs lists those that there are")
        if not run.path.is_dir():
            raise RefusedError(404, f"the run {run.name} is not there any more")
        return run

    def _numbers(self, run: Run) -> Metrics:
        with self._lock:
            return self._metrics.setdefault(run.id, Metrics(run.file))

    def _archive(self, run: Run) -> Archive:
        with self._lock:
            return self._archives.setdefault(run.id, Archive(run))

    def _iteration(self, run_id: str, step: int) -> Iteration:
        run = self._run(run_id)
        path = iteration_path(run.path, step)
        if run.file(path.parent.name, path.name) is None:
            raise RefusedError(404, f"iteration {step} of this run is not recorded")
        return Iteration(path)

    def _row(self, found: Iteration, row: int) -> dict[str, Any]:
        if row >= found.n_rows:
            raise RefusedError(404, f"this iteration has {found.n_rows} recorded answers, counted from 0: no {row}")
        return found.answer(row)

    def _group(self, found: Iteration, row: int) -> list[dict[str, Any]]:
        """The answers that an estimator without a critic compares with this one, itself among them."""
        size = found.meta["group_size"] if found.meta["estimator"] in equations.GROUPED else 1
        first = row - row % size
        columns = found.scalars.select(["row", "reward", "learned"])
        return columns.slice(first, size).to_pylist()


def recorded(run: Run) -> list[int]:
    """The iterations that a run has recorded."""
    return steps(run.path) if run.directory("record") else []


def shortened(text: Any) -> Any:
    """A text, or the messages of a conversation, for a table."""
    if isinstance(text, list):
        return [{**message, "content": shortened(message.get("content"))} for message in text]
    return text if not isinstance(text, str) or len(text) <= LONGEST else text[:LONGEST] + "…"
