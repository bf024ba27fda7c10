"""What a report says of one run: from the files that it has left, finished or not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from clearppo.config import SCHEMAS, leaves
from clearppo.config.changes import SILENT
from clearppo.config.kinds import spelled
from clearppo.errors import RecordError
from clearppo.ui.alarms import advice_of, alarms_of, sentence_of, title_of
from clearppo.ui.figures import Chart
from clearppo.ui.metrics import Metrics, events
from clearppo.ui.planned import planned
from clearppo.ui.report_charts import KL, SCORE, Charts, of_reward_report
from clearppo.ui.report_results import MINUS, Results, of_evaluation, of_samples
from clearppo.ui.report_tokens import telling_answers
from clearppo.ui.report_words import LABELS, WORDS, Say, words
from clearppo.ui.runs import Run

REWARD_REPORT = 1
"""The version of reward_report.json that is read here (train/reward_report.py)."""
_VERSIONS = re.compile(r"^Made with (.+?)\.?$", re.MULTILINE)
_WRITTEN_BY = re.compile(r"written by (ClearPPO \S+?)\.?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One run in a report. Tiles are (what, value, note); facts are (what, value); changed are (option, value,
    default); alarms are (title, when, sentence, advice), those that are on first; planned are (what, planned,
    measured)."""

    run: Run
    state: str
    objective: str
    facts: Sequence[tuple[str, str]]
    changed: Sequence[tuple[str, str, str]]
    tiles: Sequence[tuple[str, str, str]]
    charts: Sequence[Chart]
    more: Sequence[Chart]
    events: Sequence[Mapping[str, Any]]
    alarms: Sequence[tuple[str, str, str, str]]
    planned: Sequence[tuple[str, str, str]]
    best: str
    results: Results | None
    samples: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
    tokens: Mapping[str, Any] | None
    tokens_note: str
    reward_report: Mapping[str, Any] | None
    worth: Sequence[Chart]
    config: str

    @property
    def all_charts(self) -> list[Chart]:
        """Every figure of the run."""
        return [*self.worth, *self.charts, *self.more]


def read_part(run: Run, language: str, say: Say) -> Part:
    """All of it, from the files."""
    metrics = Metrics(run.file)
    rows = metrics.rows()
    columns = metrics.since(None)["columns"]
    best = run.best()
    last_best = best[-1]["step"] if best else None
    charts = Charts(columns, language, best=last_best)
    report = run.reward_report()
    if report is not None and report.get("version") != REWARD_REPORT:
        report = None  # of another version of ClearPPO
    is_ppo = run.kind == "ppo"
    tokens, tokens_note = _tokens(run, say) if is_ppo else (None, "")
    results = of_evaluation(run, _measured_last(run, last_best), say) if is_ppo else None
    return Part(
        run=run,
        state=state_of(run, say),
        objective=run.objective() or "",
        facts=facts_of(run, say),
        changed=changed_options(run),
        tiles=_tiles(run.kind, columns, report, say),
        charts=charts.of_ppo() if is_ppo else [],
        more=charts.more_of_ppo() if is_ppo else charts.of_step(),
        events=events(rows),
        alarms=_alarms(run, language, say),
        planned=_planned(run, rows, language, say),
        best=_best(best, say),
        results=results,
        samples=of_samples(run) if is_ppo and results is None else ([], []),
        tokens=tokens,
        tokens_note=tokens_note,
        reward_report=report,
        worth=of_reward_report(report, language) if report else [],
        config=run.config_text(),
    )


def state_of(run: Run, say: Say) -> str:
    """Whether the run is finished, running or stopped, in words."""
    state, step, n = run.state, run.step, run.n_steps
    if state == "waiting" or step == 0:
        return say("state.waiting")
    rounds = say("iterations" if run.kind == "ppo" else "steps")
    if state == "finished":
        return say("state.finished", n=step, rounds=rounds)
    return say(f"state.{state}", n=step, rounds=rounds, of=say("state.of", n=n) if n else "")


def versions_of(run: Run) -> str:
    """What the run was made with, from its model card, or its config.yaml while there is none."""
    card = run.file("README.md")
    text = card.read_text(encoding="utf-8", errors="replace") if card else ""
    for pattern, source in ((_VERSIONS, text), (_WRITTEN_BY, run.config_text())):
        if match := pattern.search(source):
            return match[1]
    return "ClearPPO"


def written(run: Run) -> str:
    """When the run was written last, to the minute, UTC."""
    return datetime.fromtimestamp(run.updated, UTC).strftime("%Y-%m-%d %H:%M UTC")


def short(name: object) -> str:
    """The end of a path: whole paths stand in the configuration."""
    text = str(name)
    parts = PurePath(text).parts
    return text if len(parts) <= 2 and not PurePath(text).is_absolute() else "/".join(parts[-2:])


def model_of(run: Run) -> str:
    """The model that the run began with."""
    return short(option(run, "model", "model_name_or_path") or "?")


def option(run: Run, section: str, name: str) -> Any:
    """An option of config.yaml; None where it is not set or has no effect."""
    found = run.options().get(section)
    return found.get(name) if isinstance(found, dict) else None


def facts_of(run: Run, say: Say) -> list[tuple[str, str]]:
    """From what and how the model was trained, as rows of a table."""
    facts = {"from.model": model_of(run)}
    data = option(run, "data", "dataset_name")
    passes = {"how.passes": option(run, "run", "num_train_epochs"), "how.batch": option(run, "run", "batch_size")}
    match run.kind:
        case "ppo":
            facts |= {"from.prompts": short(data), **_ppo_facts(run, say)}
        case "sft":
            facts |= {"from.demonstrations": short(data), **passes}
        case "reward":
            template = (run.json("judgement.json") or {}).get("template")
            facts |= {"from.comparisons": short(data), "how.loss": option(run, "rm", "rm_loss"), "how.reads": template}
            facts |= passes
    rate, schedule = option(run, "optim", "learning_rate"), option(run, "optim", "lr_scheduler_type")
    known = f"schedule.{schedule}" in WORDS
    facts["how.rate"] = f"{spelled(rate)}{say('comma')}{say(f'schedule.{schedule}') if known else schedule}"
    if option(run, "model", "use_peft"):
        facts["how.lora"] = f"r = {option(run, 'model', 'lora_r')}"
    facts["how.seed"] = option(run, "run", "seed")
    return [(say(name), spelled(value)) for name, value in facts.items() if value is not None]


def changed_options(run: Run) -> list[tuple[str, str, str]]:
    """The options with another value than their default: (name, value, default). Where results go is not among them."""
    known = leaves(SCHEMAS[run.kind])
    given = {
        name: value
        for section in run.options().values()
        if isinstance(section, dict)
        for name, value in section.items()
    }
    return [
        (name, spelled(given[name]), spelled(leaf.default))
        for name, leaf in known.items()
        if name in given and name not in SILENT and not leaf.required and spelled(given[name]) != spelled(leaf.default)
    ]


def _ppo_facts(run: Run, say: Say) -> dict[str, Any]:
    sources = [str(item).rpartition(":")[2] for item in option(run, "reward", "reward_funcs") or []]
    sources += [str(url) for url in option(run, "reward", "reward_urls") or []]
    if model := option(run, "reward", "reward_model_path"):
        sources.append(short(model))
    epochs, batches = (option(run, "ppo", name) for name in ("num_ppo_epochs", "num_mini_batches"))
    facts = {
        "from.score": say("comma").join(sources),
        "how.answers": say(
            "how.answers.value",
            total=spelled(option(run, "run", "total_episodes")),
            batch=spelled(option(run, "run", "batch_size")),
            length=spelled(option(run, "sampling", "response_length")),
            temperature=spelled(option(run, "sampling", "temperature")),
        ),
        "how.update": say(
            "how.update.value",
            epochs=spelled(epochs),
            batches=spelled(batches),
            updates=epochs * batches if type(epochs) is type(batches) is int else "?",
            clip=_clip(run, say),
        ),
        "how.advantages": option(run, "ppo", "advantage_estimator"),
        "how.kl": f"{spelled(option(run, 'kl', 'kl_coef'))}{say('comma')}{option(run, 'kl', 'kl_estimator')}",
    }
    if facts["how.advantages"] == "gae":
        gamma, lam = (spelled(option(run, "ppo", name)) for name in ("gamma", "lam"))
        facts["how.advantages"] = say("comma").join(("GAE", f"gamma = {gamma}", f"lambda = {lam}"))
    return facts


def _clip(run: Run, say: Say) -> str:
    low, high = (option(run, "ppo", name) for name in ("cliprange", "cliprange_high"))
    if low is None:
        return say("how.no_clip")
    return say("how.clip", low=spelled(low), high=spelled(low if high is None else high))


def _tiles(
    kind: str, columns: Mapping[str, Sequence[float | None]], report: Mapping[str, Any] | None, say: Say
) -> list[tuple[str, str, str]]:
    """The numbers at the top: the last value, and the first one it came from."""
    names = {
        "ppo": {SCORE: "score", KL: "kl_nats", "completions/mean_length": "mean_length"},
        "sft": {"loss": "tile.loss", "eval/loss": "tile.eval_loss", "eval/perplexity": "tile.perplexity"},
        "reward": {"loss": "tile.loss", "eval/accuracy": "tile.accuracy"},
    }[kind]
    tiles: list[tuple[str, str, str]] = []
    for name, label in names.items():
        values = [value for value in columns.get(name, ()) if value is not None]
        if values:
            first, last = _tile(name, values[0]), _tile(name, values[-1])
            tiles.append((say(label), last, say("tile.from", value=first) if len(values) > 1 else ""))
    return tiles


def _tile(name: str, value: float) -> str:
    return (f"{value:.0%}" if name.endswith("accuracy") else f"{value:.3g}").replace("-", MINUS)


def _alarms(run: Run, language: str, say: Say) -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for alarm in sorted(alarms_of(run), key=lambda alarm: (alarm.over is not None, alarm.step)):
        until = "at" if alarm.over == alarm.step else "until"
        when = say(f"alarm.{'since' if alarm.over is None else until}", step=alarm.step, over=alarm.over)
        done = say(f"alarm.{alarm.action}") if f"alarm.{alarm.action}" in WORDS else ""
        told = (title_of(alarm, language), when, sentence_of(alarm, language))
        found.append((*told, " ".join(filter(None, (advice_of(alarm, language), done)))))
    return found


def _planned(
    run: Run, rows: Mapping[int, Mapping[str, float | None]], language: str, say: Say
) -> list[tuple[str, str, str]]:
    phases, round_ = words(language, LABELS), say("iteration" if run.kind == "ppo" else "step")

    def cell(value: float | None, phase: str | None) -> str:
        return "–" if value is None else f"{value:.3g}{_in_phase(phase, phases, say)}"

    return [
        (
            say(f"planned.{name}", round=round_),
            cell(part["planned"], part.get("phase")),
            cell(part["measured"], part.get("measured_phase")),
        )
        for name, part in (planned(run, rows) or {}).items()
    ]


def _in_phase(phase: str | None, phases: Say, say: Say) -> str:
    """The phase in which a peak was, behind its number."""
    if phase is None:
        return ""
    return say("planned.phase", phase=phases(phase) if phase in LABELS else phase)


def _best(best: Sequence[Mapping[str, Any]], say: Say) -> str:
    if not best:
        return ""
    mark = best[-1]
    return say("best.note", metric=mark["metric"], value=f"{mark['value']:.4g}", step=mark["step"])


def _measured_last(run: Run, best: int | None) -> int:
    """The iteration whose model is the result, if it was measured; else the last that was."""
    folder = run.directory("evaluation")
    found = [path.stem.removeprefix("step-") for path in folder.glob("step-*.jsonl")] if folder else []
    steps = sorted(int(number) for number in found if number.isdecimal())
    if option(run, "eval", "load_best_model_at_end") and best in steps:
        return best
    return steps[-1] if steps else 0


def _tokens(run: Run, say: Say) -> tuple[Mapping[str, Any] | None, str]:
    """The telling answers, or why there are none."""
    try:
        found = telling_answers(run.path)
    except RecordError as error:
        return None, str(error)
    return found, "" if found else say("not_recorded")
