"""Making comparisons: whole runs on a tiny model, what is written, and what is said when it goes wrong."""

import io
import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from clearppo.batch import Prompts
from clearppo.build.prefs import build_prefs
from clearppo.config import PrefsConfig, load_config
from clearppo.console import PlainConsole
from clearppo.data import load_comparisons
from clearppo.errors import ClearPPOError, RewardError, RunDirError
from clearppo.rollout import Generation
from clearppo.train.comparing import PrefsSummary
from clearppo.train.listener import Listener, Silence
from clearppo.train.prefs import PrefsRun
from tests.judge_server import fair, judge_server, words
from tests.tiny import tiny_causal_lm, tiny_reward_model, tiny_tokenizer

TEXTS = ["The film was", "I think that", "The food and the people are", "What do you say", "It is a", "A dog"]


def count_letters(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Tenths of letters, and a little that tells texts of as many letters apart."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    little = [sum(ord(letter) * place for place, letter in enumerate(text)) % 1000 / 100_000 for text in texts]
    letters = [sum(letter.isalpha() for letter in text) / 10 for text in texts]
    return [round(tenths + extra, 5) for tenths, extra in zip(letters, little, strict=True)]


def length(completions: Sequence[str]) -> list[float]:
    return [len(text) / 10 for text in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"), dtype=torch.float64)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_reward_model(tmp_path_factory.mktemp("rewards") / "reward-model")


@pytest.fixture
def options(tmp_path: Path, model: str) -> dict[str, Any]:
    """Six prompts, three answers each, two prompts a batch: a second. In float64, where batches change no token."""
    rows = [{"prompt": text, "tag": i, "note": {"of": text}} for i, text in enumerate(TEXTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model_name_or_path": model,
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "labeller": count_letters,
        "output_file": str(tmp_path / "out" / "comparisons.jsonl"),
        "num_completions": 3,
        "generation_batch_size": 6,
        "response_length": 8,
        "temperature": 3.0,  # the tiny model is sure of itself
        "dtype": "float64",
        "device": "cpu",
    }


def build(options: dict[str, Any], listener: Listener | None = None) -> PrefsRun:
    given = {name: value for name, value in options.items() if value is not None}
    return build_prefs(load_config(PrefsConfig, flags=given), listener=listener)


def made(options: dict[str, Any], **changed: Any) -> list[dict[str, Any]]:
    """The rows that a run with these options writes."""
    summary = build({**options, **changed}).train()
    return rows_of(summary.path)


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def elsewhere(options: dict[str, Any], name: str) -> str:
    return str(Path(options["output_file"]).with_name(f"{name}.jsonl"))


class Scripted:
    """A sampler that gives every batch the same answers."""

    def __init__(self, *completions: str) -> None:
        self.completions = completions

    def generate(self, prompts: Prompts) -> Generation:
        B = len(prompts)
        return Generation(
            responses=torch.full((B, 2), 9),
            mask=torch.ones(B, 2, dtype=torch.bool),
            log_probs=torch.zeros(B, 2),
            policy_log_probs=torch.zeros(B, 2),
            values=None,
            exact=False,
            finish_reasons=("stop",) * B,
            completions=tuple(self.completions[i % len(self.completions)] for i in range(B)),
            temperature=1.0,
            policy_version=0,
        )

    def load(self, policy: Any, version: int) -> None:
        pass


def scripted(options: dict[str, Any], *completions: str) -> tuple[PrefsRun, PrefsSummary]:
    run = build({**options, "num_completions": len(completions)})
    run.sampler = Scripted(*completions)
    return run, run.train()


# --------------------------------------------------------------------------------------------- what is written


def test_rows_hold_what_reward_models_learn_from(options: dict[str, Any]) -> None:
    rows = made(options)
    assert [row["prompt"] for row in rows] == TEXTS
    for number, row in enumerate(rows):
        assert list(row) == ["prompt", "completions", "scores", "pairs", "tag", "note"]
        assert (row["tag"], row["note"]) == (number, {"of": TEXTS[number]})  # the prompts' columns travel
        assert row["scores"] == count_letters(row["completions"])
        n = len(row["completions"])
        assert 2 <= n == len(set(row["completions"])) <= 3
        assert row["pairs"] == [[i, j] for i in range(n) for j in range(n) if row["scores"][i] > row["scores"][j]]
    folder = Path(options["output_file"]).parent
    assert [entry.name for entry in folder.iterdir()] == ["comparisons.jsonl"]


def test_load_comparisons_reads_them(options: dict[str, Any]) -> None:
    rows = made(options, min_gap=0.2)
    read = load_comparisons(options["output_file"])
    assert len(read) == len(rows) > 2
    for comparison, row in zip(read, rows, strict=True):
        assert comparison.prompt == row["prompt"]
        assert list(comparison.answers) == row["completions"]
        assert [list(pair) for pair in comparison.pairs] == row["pairs"]
        assert comparison.labels == tuple(row["scores"])


def test_messages_stay_messages(options: dict[str, Any], tmp_path: Path) -> None:
    prompts = [[{"role": "user", "content": text}] for text in TEXTS]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    rows = made(options, dataset_name=str(tmp_path / "chat.jsonl"))
    assert [row["prompt"] for row in rows] == prompts
    assert all(isinstance(answer, str) for row in rows for answer in row["completions"])
    assert [list(c.prompt) for c in load_comparisons(options["output_file"])] == prompts


def test_the_seed_and_nothing_else_decides(options: dict[str, Any]) -> None:
    first = made(options)
    again = made(options, output_file=elsewhere(options, "again"), generation_batch_size=4)
    batched = made(options, output_file=elsewhere(options, "batched"), generation_batch_size=None)
    assert first == again == batched
    assert first != made(options, output_file=elsewhere(options, "other"), seed=1)


def test_the_first_of_a_seeded_order(options: dict[str, Any]) -> None:
    two = made(options, output_file=elsewhere(options, "two"), max_prompts=2)
    four = made(options, output_file=elsewhere(options, "four"), max_prompts=4)
    other = made(options, output_file=elsewhere(options, "other"), max_prompts=4, seed=1)
    assert two == four[:2]
    assert len(two) == 2
    assert sorted(row["tag"] for row in made(options, max_prompts=100)) == list(range(6))
    assert [row["tag"] for row in four] != [row["tag"] for row in other]


def test_prompts_that_are_too_long_are_left_out(options: dict[str, Any]) -> None:
    listener = Noted()
    run = build({**options, "max_prompt_length": 8}, listener)
    assert 0 < len(run.prompts) < len(TEXTS)
    assert f"{len(TEXTS) - len(run.prompts)} prompts longer than max_prompt_length = 8" in run.summary.notes[0]


# --------------------------------------------------------------------------------------------- ties


def test_identical_answers_are_one(options: dict[str, Any]) -> None:
    _, summary = scripted({**options, "labeller": length}, "good", "bad bad", "good ", "good", "")
    rows = rows_of(summary.path)
    assert all(row["completions"] == ["good", "bad bad", ""] for row in rows)
    assert all(row["pairs"] == [[0, 2], [1, 0], [1, 2]] for row in rows)
    assert (summary.prompts, summary.answers, summary.pairs) == (6, 18, 18)
    assert (summary.identical, summary.ties, summary.tied_prompts) == (12, 0, 0)
    assert summary.mean_length == 2
    assert summary.quantiles == (0, 0, 0.4, 0.7, 0.7)


def test_identical_answers_are_labelled_once(options: dict[str, Any]) -> None:
    seen: list[str] = []

    def labeller(completions: list[str], completion_ids: list[list[int]], prompts: list[str]) -> list[float]:
        seen.extend(completions)
        assert len(completions) == len(completion_ids) == len(prompts)
        return count_letters(completions)

    scripted({**options, "labeller": labeller}, "a", "bb", "a")
    assert seen == ["a", "bb"] * 6


def test_ties_make_no_pair_and_tied_prompts_no_row(options: dict[str, Any]) -> None:
    def labeller(completions: list[str], tag: list[int]) -> list[float]:
        return [len(text) / 10 if number % 2 else 0.5 for text, number in zip(completions, tag, strict=True)]

    _, summary = scripted({**options, "labeller": labeller, "min_gap": 0.2}, "a", "aaa", "aaaa")
    rows = rows_of(summary.path)
    assert [row["tag"] for row in rows] == [1, 3, 5]
    assert all(row["pairs"] == [[2, 0]] for row in rows)  # 0.3 apart; 0.1 and 0.2 are ties
    assert all(row["scores"] == [0.1, 0.3, 0.4] for row in rows)
    assert (summary.prompts, summary.tied_prompts, summary.ties, summary.pairs) == (3, 3, 15, 3)
    assert [len(c.pairs) for c in load_comparisons(str(summary.path))] == [1, 1, 1]


def test_answers_without_a_label_are_left_out(options: dict[str, Any]) -> None:
    def labeller(completions: list[str]) -> list[float | None]:
        return [None if text == "?" else float(len(text)) for text in completions]

    _, summary = scripted({**options, "labeller": labeller}, "a", "?", "aaa")
    assert all(row["completions"] == ["a", "aaa"] for row in rows_of(summary.path))
    assert summary.unlabelled == 6


@pytest.mark.parametrize(
    ("labeller", "said"),
    [
        (lambda completions: [1.0] * len(completions), "each of 6 prompts are tied or alike (scores from 1 to 1"),
        (lambda completions: [None] * len(completions), "none of 12 answers got a label"),
    ],
)
def test_nothing_to_compare(labeller: Callable[..., Any], said: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RewardError) as caught:
        scripted({**options, "labeller": labeller}, "a", "b")
    assert said in str(caught.value)
    assert "no file is written" in str(caught.value)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- who labels


def test_a_reward_model_labels(options: dict[str, Any], reward_model: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = made(options, labeller=None, reward_model_path=reward_model, micro_batch_size=4)
    judge = AutoModelForSequenceClassification.from_pretrained(reward_model)
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    for row in rows:
        for completion, score in zip(row["completions"], row["scores"], strict=True):
            ids = tokenizer(row["prompt"] + completion, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                hidden = judge.model(input_ids=ids).last_hidden_state[0, -1]
            assert score == pytest.approx(judge.score(hidden).item(), abs=1e-4)


def test_an_http_judge_labels(options: dict[str, Any]) -> None:
    with judge_server(fair) as server:
        rows = made(options, labeller=None, judge_url=server.url, micro_batch_size=4)
    assert {len(request["prompts"]) for request in server.requests} <= {1, 2, 3, 4}
    for row in rows:
        assert row["scores"] == pytest.approx([words(answer) for answer in row["completions"]], rel=1e-6)


def test_a_labeller_from_a_file(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "labels.py").write_text(
        "def length(completions, **columns):\n    return [len(c) for c in completions]\n"
    )
    rows = made(options, labeller=f"{tmp_path / 'labels.py'}:length")
    assert all(row["scores"] == [len(answer) for answer in row["completions"]] for row in rows)


# --------------------------------------------------------------------------------------------- for people


def test_answers_for_people_have_no_judgement(options: dict[str, Any]) -> None:
    """The same answers as with a labeller, those of tied prompts too; `clearppo label` reads them."""
    from clearppo.data.candidates import read_candidates, read_source

    judged = made(options, num_completions=2)
    people = elsewhere(options, "people")
    rows = made(options, labeller=None, for_human=True, num_completions=2, output_file=people)
    assert [list(row) for row in rows] == [["prompt", "completions", "tag", "note", "sources", "finish_reasons"]] * len(
        rows
    )
    model = options["model_name_or_path"]
    assert all(row["sources"] == [model] * len(row["completions"]) for row in rows)
    reasons = {reason for row in rows for reason in row["finish_reasons"]}
    assert reasons <= {"stop", "length"}
    by_prompt = {row["prompt"]: row["completions"] for row in rows}
    assert all(by_prompt[row["prompt"]] == row["completions"] for row in judged)
    items = read_candidates({people: read_source(people)}).items
    assert {item.prompt: list(item.completions) for item in items} == by_prompt
    with pytest.raises(ClearPPOError, match="or compare the answers yourself with clearppo label"):
        load_comparisons(people)


def test_a_column_of_that_name_is_in_the_way_of_people_alone(options: dict[str, Any], tmp_path: Path) -> None:
    prompts = tmp_path / "with-sources.jsonl"
    prompts.write_text(json.dumps({"prompt": "Q", "sources": ["a book"]}) + "\n", encoding="utf-8")
    made({**options, "dataset_name": str(prompts)})
    with pytest.raises(ClearPPOError, match="row 1 has a column `sources`, which --for_human writes itself"):
        build({**options, "dataset_name": str(prompts), "labeller": None, "for_human": True})


def test_alike_answers_wait_for_nobody(options: dict[str, Any]) -> None:
    people = {**options, "labeller": None, "for_human": True}
    run, summary = scripted(people, "a", "b", "a")
    assert all(row["completions"] == ["a", "b"] for row in rows_of(summary.path))
    assert (summary.prompts, summary.answers, summary.identical, summary.pairs) == (6, 12, 6, 0)
    assert "people will say which is better" in run.summary.objective
    shown = dict(summary.table().rows)
    assert shown == {
        "prompts": "6", "answers": "12", "left out: answers that repeat another one": "6",
        "mean length of an answer (tokens)": "2",
    }  # fmt: skip
    with pytest.raises(RewardError, match="the answers to each of 6 prompts are alike"):
        scripted({**people, "output_file": elsewhere(options, "alike")}, "a", "a ")


def test_one_answer_of_each_model_for_people(options: dict[str, Any]) -> None:
    rows = made(options, labeller=None, for_human=True, num_completions=1)
    assert [len(row["completions"]) for row in rows] == [1] * len(TEXTS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"for_human": True}, "labeller and for_human are given"),
        ({"labeller": None}, "and --for_human (people do, with clearppo label)"),
        ({"labeller": None, "for_human": True, "min_gap": 1}, "min_gap = 1 has no effect because for_human = true"),
        ({"num_completions": 1}, "num_completions = 1 leaves nothing to compare"),
    ],
)
def test_people_or_a_labeller(given: dict[str, Any], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(ClearPPOError) as caught:
        build({**options, **given})
    assert words in str(caught.value)


# --------------------------------------------------------------------------------------------- ending early


class Failing:
    """Labels so many batches, then raises."""

    def __init__(self, good: int, error: BaseException) -> None:
        self.left, self.error = good, error

    def __call__(self, completions: list[str]) -> list[float]:
        if not self.left:
            raise self.error
        self.left -= 1
        return count_letters(completions)


class Noted(Silence):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("error", [ValueError("no more"), KeyboardInterrupt()], ids=["labeller", "ctrl-c"])
def test_what_is_finished_is_kept(error: BaseException, options: dict[str, Any], tmp_path: Path) -> None:
    whole = made(options, output_file=str(tmp_path / "whole.jsonl"))
    listener = Noted()
    run = build({**options, "labeller": Failing(2, error)}, listener)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RewardError):
        run.train()
    kept = tmp_path / "out" / "comparisons.interrupted.jsonl"
    assert listener.notes[-1] == f"the comparisons of 4 prompts that were finished are in {kept}"
    assert rows_of(kept) == whole[:4]
    assert len(load_comparisons(str(kept))) == 4
    assert [entry.name for entry in kept.parent.iterdir()] == [kept.name]
    with pytest.raises(RunDirError, match="holds what an earlier run had finished"):
        build(options)
    assert made(options, overwrite_output_file=True) == whole
    assert not kept.exists()


def test_nothing_finished_leaves_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build({**options, "labeller": Failing(0, KeyboardInterrupt())}).train()
    assert not (tmp_path / "out").exists()


def test_an_earlier_file_stays_until_the_new_one_is_whole(options: dict[str, Any]) -> None:
    first = made(options)
    again = {**options, "overwrite_output_file": True, "seed": 1}
    with pytest.raises(RewardError):
        build({**again, "labeller": Failing(1, ValueError("no more"))}).train()
    assert rows_of(options["output_file"]) == first
    assert made(again) != first


# --------------------------------------------------------------------------------------------- bad input


def dead_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/score"


def written(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


Mistake = Callable[[dict[str, Any], Path], dict[str, Any]]
MISTAKES: dict[str, tuple[Mistake, list[str]]] = {
    "no labeller": (lambda o, p: {"labeller": None}, ["--labeller", "--reward_model_path", "--judge_url"]),
    "two labellers": (lambda o, p: {"judge_url": "http://localhost"}, ["labeller", "judge_url"]),
    "no such file": (lambda o, p: {"labeller": "no_such.py:f"}, ["labeller = no_such.py:f", "--labeller path/to"]),
    "no such module": (
        lambda o, p: {"labeller": "no_such:f"}, ["there is no module no_such", "Use --labeller path/to/file.py:name"],
    ),
    "no such function": (
        lambda o, p: {"labeller": written(p, "f.py", "def score(completions): ...\n") + ":scores"},
        ["labeller `scores` is missing", "score?"],
    ),
    "labeller's signature": (lambda o, p: {"labeller": lambda prompts: []}, ["labeller `lambda` takes (prompts)"]),
    "labeller raises": (
        lambda o, p: {"labeller": lambda completions: 1 / 0}, ["labeller `lambda` raised ZeroDivisionError", "rows 1"],
    ),
    "labeller's count": (lambda o, p: {"labeller": lambda completions: [1.0]}, ["labeller `lambda` returned 1 scores"]),
    "labeller's kind": (
        lambda o, p: {"labeller": lambda completions: ["good"] * len(completions)}, ["'good' instead of a number"],
    ),
    "labeller's NaN": (
        lambda o, p: {"labeller": lambda completions: [float("nan")] * len(completions)}, ["returned nan", "row"],
    ),
    "labeller's column": (lambda o, p: {"labeller": lambda completions, gold: []}, ["needs `gold`", "tag"]),
    "model missing": (lambda o, p: {"model_name_or_path": "no/such"}, ["no/such", "Tried"]),
    "a reward model as the model": (
        lambda o, p: {"model_name_or_path": tiny_reward_model(p / "rm")}, ["is a reward model", "--reward_model_path"],
    ),
    "a model as the reward model": (
        lambda o, p: {"labeller": None, "reward_model_path": o["model_name_or_path"]}, ["not a reward model"],
    ),
    "reward model missing": (lambda o, p: {"labeller": None, "reward_model_path": "./no"}, ["./no", "reward model"]),
    "url": (lambda o, p: {"labeller": None, "judge_url": "localhost:80"}, ["judge_url = localhost:80"]),
    "url dead": (lambda o, p: {"labeller": None, "judge_url": dead_url()}, ["cannot be reached", "--judge_url"]),
    "prompts missing": (lambda o, p: {"dataset_name": "no_such.jsonl"}, ["no_such.jsonl"]),
    "a column taken": (
        lambda o, p: {"dataset_name": written(p, "p.jsonl", '{"prompt": "a", "chosen": "b"}\n')}, ["`chosen`", "row 1"],
    ),
    "a column that is no JSON": (
        lambda o, p: {"dataset_name": written(p, "p.jsonl", '{"prompt": "a", "x": NaN}\n')}, ["column `x`", "JSON"],
    ),
    "a labeller's own column": (
        lambda o, p: {"dataset_name": written(p, "p.jsonl", '{"prompt": "a", "prompts": 1}\n')}, ["`prompts`"],
    ),
    "prompt too long": (
        lambda o, p: {"dataset_name": written(p, "p.jsonl", json.dumps({"prompt": "I think " * 200}) + "\n")},
        ["--max_prompt_length"],
    ),
    "no room": (lambda o, p: {"response_length": 4000}, ["--response_length", "room"]),
    "stop token": (lambda o, p: {"stop_token_ids": [99999]}, ["99999", "vocabulary"]),
    "no EOS": (
        lambda o, p: {"model_name_or_path": tiny_causal_lm(p / "m", tokenizer=tiny_tokenizer(eos=None, pad="<pad>"))},
        ["no end-of-sequence token"],
    ),
    "one answer": (lambda o, p: {"num_completions": 1}, ["num_completions"]),
    "ending": (lambda o, p: {"output_file": str(p / "out" / "c.json")}, ["must end in .jsonl"]),
    "output is the prompts": (
        lambda o, p: {"output_file": o["dataset_name"], "overwrite_output_file": True}, ["the prompts that are read"],
    ),
    "output exists": (
        lambda o, p: {"output_file": written(p, "c.jsonl", "mine")}, ["c.jsonl is there", "--overwrite_output_file"],
    ),
    "output not writable": (lambda o, p: {"output_file": "/proc/clearppo/c.jsonl"}, ["cannot write /proc/clearppo"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_is_one_sentence_and_leaves_nothing(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    make, needles = MISTAKES[name]
    options = {**options, **make(options, tmp_path)}
    before = {entry: entry.read_bytes() for entry in tmp_path.iterdir() if entry.is_file()}
    with pytest.raises(ClearPPOError) as caught:
        build(options).train()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    for needle in needles:
        assert needle in message
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir() if entry.is_file()} == before
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- what people see


def test_what_a_log_file_shows(options: dict[str, Any]) -> None:
    text = io.StringIO()
    listener = PlainConsole(Console(file=text, width=140, highlight=False, no_color=True))
    build({**options, "min_gap": 0.1}, listener).train()
    shown = text.getvalue()
    assert "comparisons of 3 answers to each prompt: better is what labeller count_letters scores higher" in shown
    assert "by more than 0.1" in shown
    assert "batch 3/3  " in shown
    assert "pairs of a better and a worse one" in shown
    assert f"the comparisons are in {options['output_file']}" in shown.replace("\n", "")
