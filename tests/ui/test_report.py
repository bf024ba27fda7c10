"""The report: everything that it promises is on the page, as text, and the page needs nothing but itself."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clearppo.errors import ConfigError, RunDirError
from clearppo.lock import lock, unlock
from clearppo.ui.report import messages, number, signed, write_report
from clearppo.ui.report_run import changed_options, short
from clearppo.ui.report_tokens import LISTED, SHOWN, telling_answers
from clearppo.ui.report_words import CHART_WORDS, LABELS, WORDS, words
from clearppo.ui.runs import Run
from tests.pages import made


class Page(HTMLParser):
    """What a browser sees of it: elements, what they ask for, text by section."""

    void = ("meta", "link", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.asks: list[str] = []
        self.figures: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.tokens: list[dict[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.asks += [found[name] for name in ("src", "href", "xlink:href", "srcset", "data") if name in found]
        self.asks += re.findall(r"url\(([^)]*)\)", found.get("style", ""))
        if "data-figure" in found:
            self.figures.append(found["data-figure"])
        if "data-token" in found:
            self.tokens.append(found)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    made.make(place)
    return place


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Any:
    """A run of its own, which a test may change."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def page_of(directory: Path, **options: Any) -> Page:
    return Page(write_report(directory, **options)[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["ppo-a", "ppo-b", "rloo", "sft", "reward", "pipeline"])
def test_a_page_needs_nothing_but_itself(runs: Path, tmp_path: Path, name: str, language: str) -> None:
    [file] = write_report(runs / name, output=tmp_path / "page.html", language=language)
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["script"] == page.tags["img"] == page.tags["iframe"] == 0
    assert all(ask.startswith(("#", "data:")) for ask in page.asks)
    assert not re.findall(r"@import|https?://", text)
    assert page.figures
    assert len(page.figures) == page.tags["svg"]
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert f'<html lang="{words(language)("lang")}">' in text


def test_what_it_says_of_a_ppo_run(copy: Any) -> None:
    run = copy("ppo-a")
    page = page_of(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [row["objective/scores"] for row in rows if "objective/scores" in row]
    assert "Finished after 12 iterations." in page.words
    assert f"{scores[-1]:.3g} score from {scores[0]:.3g}" in page.words
    assert "maximise E[min(ratio*A" in page.words
    assert "learning_rate 4e-5 3e-6" in page.words  # option, value, default
    assert "Best by eval/score: 0.05812 at 8" in page.words
    assert f"clearppo view {run}" in page.words
    assert " ".join((run / "config.yaml").read_text().split()) in page.words
    expected = {
        "score",
        "frontier",
        "kl",
        "length",
        "evaluation",
        "win_rate",
        "entropy",
        "explained",
        "time",
        "measures",
    }
    assert expected <= set(page.figures)


def test_its_alarms_and_what_it_had_planned(copy: Any) -> None:
    run = copy("ppo-b")
    said = page_of(run).words
    places = [said.index(words) for words in ("KL runs away from 8 on", "A source jumps (helpful) 4 to 9")]
    assert places == sorted(places)
    assert "1.4 nats an answer away from its reference Raise --kl_coef. The run wrote a checkpoint." in said
    assert "jumped to <b>0.9</b>" in said
    assert "Planned and measured" not in said
    chinese = page_of(run, language="zh").words
    assert "KL 失控 自 8 起 objective/kl 为 1.4，界限 1.2，开始时 0.1" in chinese
    assert "训练因此写了一个检查点。" in chinese
    other = copy("ppo-a")
    said = page_of(other).words
    assert "Alarms" not in said
    assert "peak memory, GiB 3 (learning) 3.32 (learning)" in said
    assert "seconds an iteration 5 5.5" in said
    assert "每次迭代的秒数 5 5.5" in page_of(other, language="zh").words


def test_numbers_of_the_evaluation(runs: Path, tmp_path: Path) -> None:
    page = page_of(runs / "ppo-a", output=tmp_path / "p.html")
    before, after = (
        [json.loads(line) for line in (runs / f"ppo-a/evaluation/step-{n}.jsonl").read_text().splitlines()]
        for n in (0, 12)
    )
    mean = [sum(row["score"] for row in rows) / len(rows) for rows in (before, after)]
    assert f"went from {mean[0]:.3f} to {mean[1]:.3f}" in page.words
    won = sum(row["won"] for row in after) / len(after)
    assert f"win rate against the start, by score {won:.0%} ±" in page.words


def test_tokens_are_those_of_the_record(runs: Path, tmp_path: Path) -> None:
    page = page_of(runs / "ppo-a", output=tmp_path / "p.html")
    table = pq.read_table(runs / "ppo-a/record/step-000012.parquet").to_pylist()
    best = max(table, key=lambda row: row["score"])
    shown = page.tokens[: best["length"]]  # the highest score comes first
    assert [signed(a) for a in best["advantages"]] == [token["title"].split()[-1] for token in shown]
    assert all(("up" if a > 0 else "down") in t["class"] for a, t in zip(best["advantages"], shown, strict=True))
    for name in ("log_probs", "kls", "values", "returns"):
        assert number(best[name][0]) in page.words


def test_telling_answers(runs: Path) -> None:
    found = telling_answers(runs / "ppo-a")
    assert found is not None
    table = pq.read_table(runs / "ppo-a/record/step-000012.parquet").to_pylist()
    picked = {pick: answer["row"] for answer in found["answers"] for pick in answer["picks"]}
    sizes = {row["row"]: max(map(abs, row["advantages"] or [0.0])) for row in table}
    assert picked == {
        "high": max(table, key=lambda row: row["score"])["row"],
        "low": min(table, key=lambda row: row["score"])["row"],
        "kl": max(table, key=lambda row: row["kl"])["row"],
        "advantage": max(sizes, key=lambda row: sizes[row]),
    }
    strongest = max((t for a in found["answers"] for t in a["tokens"]), key=lambda t: abs(t["advantage"] or 0))
    assert strongest["strength"] == 1
    assert abs(strongest["advantage"]) == found["limit"]


def test_long_answers_are_cut_and_it_is_said(tmp_path: Path) -> None:
    spec = made.LARGE.__class__(**{**vars(made.LARGE), "batch_size": 4, "response_length": 512})
    made.make_ppo(tmp_path / "run", spec)
    found = telling_answers(tmp_path / "run")
    assert found is not None
    longest = max(found["answers"], key=lambda answer: answer["length"])
    assert longest["length"] > SHOWN
    assert len(longest["tokens"]) == SHOWN
    assert len(longest["table"]) == LISTED
    assert not longest["glossed"]
    page = page_of(tmp_path / "run")
    assert f"The first {SHOWN} of {longest['length']} tokens." in page.words


def test_a_run_without_a_critic_or_a_record(copy: Any) -> None:
    run = copy("rloo")
    page = page_of(run)
    assert "explained" not in page.figures
    assert page.tokens
    shutil.rmtree(run / "record")
    page = page_of(run)
    assert not page.tokens
    assert "This run has no record of its tokens" in page.words


def test_a_damaged_record_is_said(copy: Any) -> None:
    run = copy("ppo-b")
    last = max((run / "record").glob("step-*.parquet"))
    last.write_bytes(b"PAR1 nothing")
    assert f"{last.name} cannot be read as a record" in page_of(run).words


def test_a_pipeline_is_one_report(copy: Any) -> None:
    directory = copy("pipeline")
    (directory / "comparisons.jsonl").write_text('{"pairs": [[0, 1], [2, 1]]}\n' * 700 + '{"pai')
    page = page_of(directory)
    assert "The policy improved in truth" in page.words
    for said in (
        "Fine-tuning",
        "Reward model",
        "Finished after 24 steps.",
        "Finished after 28 steps.",
        "Good: PPO can",
    ):
        assert said in page.words
    assert "VADER (not optimised) +0.22 ± 0.08 +0.76 ± 0.08 +0.54 ± 0.08" in page.words
    assert "Its answers to prompts are compared. 1,400 pairs on 700 prompts." in page.words
    assert "86% ± 5%" in page.words
    assert "77.8% (73.5% to 81.5%, 607 pairs)" in page.words
    assert {"by_gap", "calibration", "scores", "loss", "accuracy", "frontier", "measures"} <= set(page.figures)


def test_in_chinese(copy: Any) -> None:
    page = page_of(copy("pipeline"), language="zh")
    assert "策略确实变好了，没有被优化的 VADER 和 TextBlob 都这样看。" in page.words
    assert "已完成，共 12 次迭代。" in page.words
    assert "奖励模型 （被优化）" in page.words
    left = re.findall(r"\b(?:before|after|iteration|score and reward|held out)\b", page.words)
    assert left == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward model": -1.0}, "没有变好"),
        ({"VADER": -1.0}, "变差了"),
        ({"VADER": 0.0, "TextBlob": 0.0}, "看不出"),
        ({"TextBlob": 0.0}, "没有被优化的 VADER 都这样看"),
    ],
    ids=["none", "worse", "only", "good"],
)
def test_the_verdict_in_chinese(copy: Any, change: dict[str, float], said: str) -> None:
    directory = copy("pipeline")
    file = directory / "evaluation.json"
    found = json.loads(file.read_text())
    for name, mean in change.items():
        found["measures"][name]["change"]["mean"] = mean
    file.write_text(json.dumps(found))
    assert said in page_of(directory, language="zh").words


def test_text_of_models_stays_text(copy: Any) -> None:
    directory = copy("pipeline")
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u202e"
    found = json.loads((directory / "evaluation.json").read_text())
    for sample in found["samples"]:
        sample |= {"prompt": evil, "before": evil, "after": [{"role": evil, "content": evil}][0]["content"]}
    (directory / "evaluation.json").write_text(json.dumps(found))
    (directory / "reward" / "judgement.json").write_text(json.dumps({"template": evil}))
    page = page_of(directory)
    assert page.tags["script"] == page.tags["img"] == 0
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words
    assert messages([{"role": "user", "content": evil}]) == [("user", evil)]


def test_a_run_that_is_not_finished(copy: Any) -> None:
    run = copy("ppo-a")
    (run / "finished.json").unlink()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 13, "objective/sco')  # a kill in the middle of a line
    assert "Stopped before its end, after 12 iterations" in page_of(run).words
    held = lock(run)
    try:
        assert "Still running: 12 iterations so far" in page_of(run).words
    finally:
        unlock(held)


def test_a_run_that_has_only_begun(copy: Any) -> None:
    run = copy("ppo-b")
    for entry in list(run.iterdir()):
        if entry.name != "config.yaml":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    page = page_of(run)
    assert "Nothing was learned yet." in page.words
    assert page.figures == []


def test_a_reward_report_of_another_version_is_left_out(copy: Any) -> None:
    run = copy("reward")
    (run / "reward_report.json").write_text('{"schema": "clearppo.reward_report", "version": 2}')
    page = page_of(run)
    assert page.figures == ["loss", "accuracy", "gradient"]
    (run / "reward_report.json").write_text("{")
    assert page_of(run).figures == page.figures


def test_figures_as_files(copy: Any) -> None:
    directory = copy("pipeline")
    page, *figures = write_report(directory, png=True)
    assert page == directory / "report.html"
    names = {figure.name for figure in figures}
    assert {"measures.png", "ppo-frontier.png", "reward-calibration.png", "sft-loss.png"} <= names
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    assert {entry.name for entry in (directory / "figures").iterdir()} == names
    assert not list(directory.glob(".*"))


def test_it_is_written_whole_or_not_at_all(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy("sft")
    write_report(run)
    before = (run / "report.html").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunDirError, match=r"no space left to write .*report\.html.*--output"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".*"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: place / "absent", "is not there"),
        (lambda place: made.write_json(place / "file", {}) or place / "file", "is a file"),
        (lambda place: place, "there is no run in"),
    ],
    ids=["absent", "file", "empty"],
)
def test_no_run(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(RunDirError, match=said):
        write_report(make(tmp_path))


def test_a_folder_that_holds_runs_is_told_their_names(copy: Any, tmp_path: Path) -> None:
    copy("rloo")
    (copy("pipeline") / "pipeline.json").write_text("{}")
    with pytest.raises(RunDirError, match="there is no run in") as refused:
        write_report(tmp_path)
    assert f"below it there are {tmp_path / 'pipeline'}, {tmp_path / 'rloo'}." in str(refused.value)


def test_how_it_learned_and_whether_it_changed(copy: Any) -> None:
    directory = copy("pipeline")
    file = directory / "evaluation.json"
    found = json.loads(file.read_text())
    found["measures"]["VADER"]["change"] = {"mean": -0.121, "half_interval_95": 0.236}
    file.write_text(json.dumps(found))
    config = directory / "ppo" / "config.yaml"
    text = re.sub(r"(num_ppo_epochs): .*", r"\1: 3", config.read_text())
    config.write_text(re.sub(r"(num_mini_batches): .*", r"\1: 2", text))
    page = page_of(directory)
    assert "−0.12 ± 0.24 no clear change" in page.words
    assert page.words.count("no clear change") == 1
    assert "optimiser steps: 6 (epochs × mini-batches: 3 × 2), ratio clipped at 1 − 0.2 and 1 + 0.2" in page.words
    config.write_text(re.sub(r"(cliprange): .*", r"\1: null", text))
    assert "ratio not clipped" in page_of(directory).words
    assert "--png --language zh" in page_of(directory, language="zh").words


def test_without_its_packages(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"clearppo report needs matplotlib.*pip install 'clearppo\[view\]'"):
        write_report(runs / "sft")


def test_a_report_needs_no_torch(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from clearppo.ui.report import write_report; "
        f"write_report(Path({str(runs / 'ppo-a')!r}), output=Path({str(tmp_path / 'p.html')!r})); "
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_that_are_not_at_their_defaults(copy: Any) -> None:
    path = copy("ppo-b")
    run = Run(id="b", name="b", path=path, kind="ppo")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(re.sub(r"  learning_rate: .*", "  learning_rate: 3.0e-06", text))
    changed = {name: (value, default) for name, value, default in changed_options(run)}
    assert "learning_rate" not in changed
    assert "output_dir" not in changed
    assert changed["response_length"][0] != changed["response_length"][1]
    assert short("/a/b/c/model") == "c/model"
    assert short("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


def test_every_word_in_both_languages() -> None:
    holes = re.compile(r"{(\w+)}")
    for name, (english, chinese) in WORDS.items():
        assert english, name
        assert chinese, name
        assert set(holes.findall(english)) == set(holes.findall(chinese)), name
    assert all(len(pair) == 2 and all(pair) for pair in LABELS.values())
    assert all(len(title) == len(note) == 2 for title, note in CHART_WORDS.values())


def test_every_word_is_said() -> None:
    source = Path(__file__).parents[2] / "src/clearppo/ui"
    text = "".join(
        file.read_text(encoding="utf-8")
        for pattern in ("report*.py", "templates/report*", "alarms.py")
        for file in source.glob(pattern)
        if file.name != "report_words.py"
    )
    families = ("step.", "what.", "title.", "state.", "pick.", "column.", "rm.", "verdict.", "at.", "schedule.")
    families += ("alarm.", "planned.")
    unsaid = [name for name in WORDS if not name.startswith(families) and f'"{name}"' not in text]
    assert unsaid == []


def test_a_number_in_few_digits() -> None:
    assert [number(value) for value in (None, 0.0, 1.23456, 1e-5, 123456.0)] == ["", "0", "1.23", "1.0e−05", "1.23e+05"]
    assert [signed(value) for value in (None, 0.5, -0.5)] == ["", "+0.50", "−0.50"]
