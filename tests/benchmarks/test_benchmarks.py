"""The pure parts of benchmarks/: what is held out, how dialogues are cut, intervals, tables, the gold classifier."""

import argparse
import gzip
import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gold, hh, hh_reward, measures, output, sentiment
from clearppo.config import RewardModelConfig, load_config
from clearppo.data import JudgementTemplate, load_comparisons
from tests.tiny import tiny_causal_lm, tiny_tokenizer

H, A = hh.HUMAN, hh.ASSISTANT


def words(text: str) -> int:
    """A stand-in for a tokenizer: words, `Human:` and `Assistant:` among them."""
    return len(text.split())


# ------------------------------------------------------------------------------------------------ intervals


def test_an_equal_score_is_half_right() -> None:
    assert measures.correct([2.0, -1.0, 0.0]) == [1.0, 0.0, 0.5]


def test_wilson_against_its_table() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20."""
    for share, n, low, high in (
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0.0, 20, 0.0, 0.1611),
    ):
        assert measures.wilson(share, n) == pytest.approx((low, high), abs=5e-5)


def test_paired_interval_by_hand() -> None:
    """Of 100 pairs 10 are won by ours, 4 by theirs: mean 0.06, variance (14 - 100 x 0.06^2) / 99."""
    ours = [1.0] * 10 + [-1.0] * 4 + [1.0] * 60 + [-1.0] * 26
    theirs = [-1.0] * 10 + [1.0] * 4 + [1.0] * 60 + [-1.0] * 26
    cell = measures.paired(ours, theirs)
    half = 1.959964 * math.sqrt((14 - 100 * 0.06**2) / 99 / 100)
    assert cell["difference"] == pytest.approx(0.06)
    assert (cell["low"], cell["high"]) == (pytest.approx(0.06 - half), pytest.approx(0.06 + half))


def test_pairing_gains_what_both_share() -> None:
    chance = random.Random(0)
    ours = [chance.gauss(0.3, 1) for _ in range(300)]
    nearly = [value + chance.gauss(0, 0.05) for value in ours]
    another = [chance.gauss(0.3, 1) for _ in range(300)]

    def width(other: list[float]) -> float:
        cell = measures.paired(ours, other)
        return cell["high"] - cell["low"]

    assert width(nearly) < width(another) / 2


@pytest.mark.parametrize("call", [lambda: measures.paired([1.0], [1.0, 2.0]), lambda: measures.paired([1.0], [1.0])])
def test_pairs_that_do_not_fit_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        call()


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_the_mean_interval_is_the_textbook_s(values: list[float]) -> None:
    cell = measures.mean(values)
    half = 1.959964 * statistics.stdev(values) / math.sqrt(len(values))
    assert cell["mean"] == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert cell["high"] - cell["low"] == pytest.approx(2 * half, abs=1e-9)


# ------------------------------------------------------------------------------------------------ comparisons


def test_a_dialogue_divides_at_the_last_answer_that_both_have() -> None:
    start = f"{H} Hello{A} Hi{H} How are you?{A}"
    assert hh.divided(start + " Fine.", start + " Fair.") == hh.Pair(start, " Fine.", " Fair.")
    # the later turns differ too, so they belong to the answers
    pair = hh.divided(f"{H} Hello{A} Hi{H} One{A} 1", f"{H} Hello{A} Hi{H} Two{A} 2")
    assert pair == hh.Pair(f"{H} Hello{A}", f" Hi{H} One{A} 1", f" Hi{H} Two{A} 2")
    # one dialogue is the beginning of the other
    assert hh.divided(f"{H} Hello{A}", f"{H} Hello{A} Hi") == hh.Pair(f"{H} Hello{A}", "", " Hi")
    with pytest.raises(ValueError, match="share no"):
        hh.divided(f"{H} a{A} b", "c")


def test_what_fits_is_left_alone() -> None:
    pair = hh.Pair(f"{H} Hello there{A}", " Hi", " No")
    assert hh.shortened(pair, words(pair.prompt) + 1, words) is pair


def test_the_oldest_turns_go_first() -> None:
    turns = [f"{H} {name} one two three{A} {name} yes" for name in "abc"]
    pair = hh.Pair("".join(turns) + f"{H} last{A}", " x y", " z")
    last_two = turns[2] + f"{H} last{A}"
    assert hh.shortened(pair, words(last_two) + 2, words) == hh.Pair(last_two, " x y", " z")
    assert hh.shortened(pair, words(last_two) + 1, words).prompt == f"{H} last{A}"


def test_then_the_first_words_of_the_question() -> None:
    pair = hh.Pair(f"{H} a b c d e f g h{A}", " x y", " z")
    assert hh.shortened(pair, 8, words) == hh.Pair(f"{H} e f g h{A}", " x y", " z")


def test_an_answer_that_is_too_long_leaves_a_quarter_to_the_question() -> None:
    long = " " + " ".join(f"w{i}" for i in range(40))
    short = hh.shortened(hh.Pair(f"{H} a b c d e f g h{A}", long, " z"), 20, words)
    assert short.prompt == f"{H} f g h{A}"  # 5 of 20
    assert short.rejected == " z"
    assert long.startswith(short.chosen)
    assert words(short.prompt + short.chosen) == 20


@given(st.data())
def test_a_cut_dialogue_is_the_end_of_the_whole_one(data: st.DataObject) -> None:
    text = st.lists(st.sampled_from(["one", "two", "three."]), min_size=1, max_size=12).map(" ".join)
    turns = data.draw(st.lists(st.tuples(text, text), max_size=3))
    prompt = "".join(f"{H} {q}{A} {a}" for q, a in turns) + f"{H} {data.draw(text)}{A}"
    pair = hh.Pair(prompt, f" {data.draw(text)}", f" {data.draw(text)}")
    limit = data.draw(st.integers(18, 60))
    short = hh.shortened(pair, limit, words)
    assert max(words(short.prompt + short.chosen), words(short.prompt + short.rejected)) <= limit
    assert short.prompt.startswith(H)
    assert prompt.endswith(short.prompt.removeprefix(H))
    assert (short.chosen, short.rejected) == (pair.chosen, pair.rejected)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40), st.integers(0, 5), st.integers(0, 3))
def test_nothing_is_on_both_sides(groups: list[str], n: int, seed: int) -> None:
    try:
        held, rest = hh.hold_out(groups, n, seed)
    except ValueError:
        return
    assert len(held) == n
    assert sorted(held + rest) == list(range(len(groups)))
    assert not {groups[i] for i in held} & {groups[i] for i in rest}


def test_a_split_depends_on_its_seed_and_on_nothing_else() -> None:
    groups = [f"g{i // 2}" for i in range(200)]
    assert hh.hold_out(groups, 40, 1) == hh.hold_out(groups, 40, 1)
    assert hh.hold_out(groups, 40, 1) != hh.hold_out(groups, 40, 2)
    with pytest.raises(ValueError, match="3 rows cannot be held out"):
        hh.hold_out(groups, 3, 0)


def fake_comparisons(path: Path, n: int) -> Path:
    rows = [
        {"chosen": f"{H} Question {i}?{A} Yes, {i}.", "rejected": f"{H} Question {i}?{A} No, {i}."} for i in range(n)
    ]
    rows.append({"chosen": f"{H} Empty?{A} ", "rejected": f"{H} Empty?{A} No."})
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_preparing_is_repeatable_and_leaves_out_the_empty(tmp_path: Path) -> None:
    source = fake_comparisons(tmp_path / "rows.jsonl.gz", hh.N_TRAIN + 20)
    one, two = (hh.prepare(source, tmp_path / name, words, limit=50, seed=0, n_train=100) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.digest != hh.prepare(source, tmp_path / "three", words, limit=50, seed=1, n_train=100).digest
    assert (one.n_train, one.n_held_out, one.n_left_out, one.n_shortened) == (100, 20, 1, 0)
    assert len(one.train.read_text(encoding="utf-8").splitlines()) == 100


def test_clearppo_reads_the_prepared_dialogues_whole(tmp_path: Path) -> None:
    """What `clearppo reward` makes of a row is what the peer is given, plus the template's ending."""
    source = fake_comparisons(tmp_path / "rows.jsonl.gz", hh.N_TRAIN + 5)
    prepared = hh.prepare(source, tmp_path, words, limit=50, seed=0, n_train=10)
    rows = [json.loads(line) for line in prepared.held_out.read_text(encoding="utf-8").splitlines()]
    tokenizer: Any = tiny_tokenizer()
    for row, comparison in zip(rows, load_comparisons(str(prepared.held_out)), strict=True):
        ((better, worse),) = comparison.pairs
        for name, answer in (("chosen", better), ("rejected", worse)):
            ids = JudgementTemplate("{conversation}").ids(tokenizer, comparison.prompt, comparison.answers[answer])
            assert tokenizer.decode(ids) == row[name]


@pytest.mark.data
def test_the_real_comparisons_split_as_promised(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / hh.FILE
    prepared = hh.prepare(source, tmp_path, words, limit=200, seed=0, n_train=hh.N_TRAIN)
    assert (prepared.n_train, prepared.n_held_out, prepared.n_left_out) == (2000, 308, 4)
    learned, held = (
        [hh.divided(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (prepared.train, prepared.held_out)
    )
    assert not {pair.prompt for pair in learned} & {pair.prompt for pair in held}
    assert max(words(pair.prompt + pair.chosen) for pair in learned + held) <= 200


# ------------------------------------------------------------------------------------------------ comparing


def options(*words: str) -> argparse.Namespace:
    return hh.parser("", "out.json").parse_args(list(words))


def test_the_command_line_is_one_that_clearppo_reward_takes(tmp_path: Path) -> None:
    source = fake_comparisons(tmp_path / "rows.jsonl.gz", hh.N_TRAIN + 5)
    prepared = hh.prepare(source, tmp_path, words, limit=50, seed=0, n_train=10)
    line = hh_reward.flags(options("--max_steps", "7"), "tiny", prepared, tmp_path / "out")
    names, values = line[::2], line[1::2]
    given = {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}
    config = load_config(RewardModelConfig, recipe=None, config_path=None, flags=given)
    assert config.rm.rm_loss == "pairwise"
    assert config.rm.score_normalisation is None
    assert config.run.max_steps == 7
    assert config.data.judgement_template is None  # ClearPPO's default


def side(differences: list[float], data: str = "abc") -> dict[str, Any]:
    return {
        "who": "somebody",
        "data": data,
        "differences": differences,
        "held_out": measures.accuracy(differences),
        "versions": {},
        "settings": hh.settings(options()),
        "seconds": 1.0,
        "peak_memory_mb": 1,
        "threads": 1,
        "bf16": True,
        "n_train": 3,
    }


def test_the_verdict_follows_the_paired_interval() -> None:
    good, bad = side([1.0] * 90 + [-1.0] * 10), side([1.0] * 50 + [-1.0] * 50)
    assert hh_reward.compared(good, bad)["verdict"].startswith("better")
    assert hh_reward.compared(bad, good)["verdict"].startswith("worse")
    assert hh_reward.compared(good, good)["verdict"].startswith("no difference")
    shown = hh_reward.shown(good | {"against_trl": hh_reward.compared(good, bad)}, bad)
    assert "+0.400 [+0.303, +0.497]" in shown
    assert "Ours is above chance" in shown


def test_results_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="other rows"):
        hh_reward.compared(side([1.0, 1.0]), side([1.0, 1.0], data="xyz"))
    with pytest.raises(ValueError, match=r"learning_rate: theirs 5e-05, ours 0\.1"):
        hh_reward.require_equal(side([1.0])["settings"], hh.settings(options("--learning_rate", "0.1")))


# ------------------------------------------------------------------------------------------------ sentiment


def test_the_gold_classifier_learns_what_words_mean() -> None:
    good = [f"a wonderful {thing} with charm" for thing in ("film", "plot", "cast", "song", "scene", "score")]
    bad = [f"a tedious {thing} without charm" for thing in ("film", "plot", "cast", "song", "scene", "score")]
    rows = [(text, 1) for text in good] + [(text, 0) for text in bad]
    trained = gold.train_gold(rows)
    assert trained.accuracy(rows) == 1.0
    joy, gloom, unknown = trained.log_odds(["wonderful", "tedious", "xyz"])
    assert joy > 0 > gloom
    assert unknown == pytest.approx(float(trained.bias))
    assert trained.log_odds([""]) == [pytest.approx(float(trained.bias))]


def test_saying_it_twice_gains_nothing() -> None:
    trained = gold.train_gold([("very good fun", 1), ("very good fun", 1), ("so bad", 0), ("so bad", 0)])
    once, twice = trained.log_odds(["good", "good good good"])
    assert twice == pytest.approx(once)


def test_halves_share_nothing_and_are_balanced() -> None:
    rows = [(f"sentence {i}", i % 2) for i in range(40)]
    one, two = gold.halves(rows, 0)
    assert sorted(one + two) == sorted(rows)
    assert sum(label for _, label in one) == sum(label for _, label in two) == 10


def test_the_data_s_spelling_becomes_ordinary() -> None:
    assert (
        gold.ordinary("the film 's end , it seems , is n't ( much ) fun .")
        == "The film's end, it seems, isn't (much) fun."
    )


def test_openings_are_beginnings() -> None:
    sentences = [f"Film{i} two three four five six seven eight nine ten eleven twelve" for i in range(30)] + [
        "Too short."
    ]
    sentences.append("... two three four five six seven eight nine ten eleven twelve")
    found = sentiment.openings(sentences, 0)
    assert len(found) == 30
    assert all(any(sentence.startswith(opening + " ") for sentence in sentences) for opening in found)
    assert {len(opening.split()) for opening in found} <= set(sentiment.CANDIDATE_WORDS)
    assert sentiment.openings(sentences, 0) == found


# ------------------------------------------------------------------------------------------------ output


def test_a_table_is_aligned() -> None:
    lines = output.table("Title", [["", "one"], ["name", "1"]]).splitlines()
    assert lines[0] == "Title"
    assert lines[2] == "      one"
    assert lines[4] == "name    1"


def test_without_data_there_is_a_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "DATA", tmp_path)
    with pytest.raises(SystemExit) as stop:
        output.require(hh.FILE)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("Skipped: this benchmark needs hh-harmless-test.jsonl.gz")


def test_a_result_is_written_whole(tmp_path: Path) -> None:
    output.write(tmp_path / "deep" / "result.json", {"a": 1})
    assert json.loads((tmp_path / "deep" / "result.json").read_text(encoding="utf-8")) == {"a": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.e2e
@pytest.mark.data
def test_the_sentiment_benchmark_runs_whole(tmp_path: Path, shared_data: Path) -> None:
    model = tiny_causal_lm(tmp_path / "model")
    words = ["--model", model, "--steps", "2", "--batch_size", "8", "--n_held_out", "12", "--device", "cpu"]
    result = sentiment.run(sentiment.arguments().parse_args(words), shared_data / gold.FILE)
    assert result["gold"]["held_out"]["low"] > 0.7  # of sentences that it never saw
    assert len(result["samples"]) == result["kl_nats"]["n"] == 12
    assert result["measures"]["VADER"]["before"]["n"] == 12
    assert "12 held-out prompts" in sentiment.shown(result)
    json.dumps(result)


@pytest.mark.e2e
@pytest.mark.data
def test_the_reward_benchmark_runs_whole(tmp_path: Path, shared_data: Path) -> None:
    model = tiny_causal_lm(tmp_path / "model", context=256)
    few = options("--model", model, "--max_tokens", "120", "--n_train", "32", "--max_steps", "2", "--fp32")
    few.keep = tmp_path / "reward"
    result = hh_reward.run(few, shared_data / hh.FILE)
    assert result["held_out"]["n"] == len(result["differences"]) == 308
    assert len({round(difference, 6) for difference in result["differences"]}) > 300  # it did read them
    peer = side(result["differences"], data=result["data"])
    assert hh_reward.compared(result, peer)["difference"] == 0.0
    json.dumps(result)
