"""What two runs have in common and where they part: by hand values, on made runs, and on runs that are changed in one
place."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from clearppo.cli import main
from clearppo.errors import ConfigError, RunDirError
from clearppo.lock import lock, unlock
from clearppo.record import iteration_path
from clearppo.ui import compare_text
from clearppo.ui.compare import Comparison, as_dict, compare_runs
from clearppo.ui.compare_numbers import compare_numbers, end_of
from clearppo.ui.compare_text import pair, print_comparison
from clearppo.ui.compare_words import WORDS
from clearppo.ui.terminal_chart import chart
from tests.pages import made
from tests.pages.strange import SECRET, make_strange


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compared")
    made.make_ppo(path / "a", made.A, steps=4)
    made.make_ppo(path / "ppo-b", made.B, steps=4)
    made.make_sft(path / "sft")
    made.make_reward(path / "reward")
    return path


@pytest.fixture
def two(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and a copy of it to change."""
    shutil.copytree(folder / "a", tmp_path / "b")
    return folder / "a", tmp_path / "b"


def told(found: Comparison, language: str = "en", **options: Any) -> str:
    console = Console(width=100, highlight=False, **options)
    with console.capture() as captured:
        print_comparison(found, console, language)
    return captured.get()


def change_record(run: Path, step: int, column: str, row: int, change: Callable[[Any], Any]) -> None:
    """Put another value into one cell of the record."""
    path = iteration_path(run, step)
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = change(values[row])
    at = table.column_names.index(column)
    table = table.set_column(at, table.field(at), pa.array(values, table.field(at).type))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def change_metrics(run: Path, step: int, **values: float) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["step"] == step:
            row.update({name.replace("__", "/"): value for name, value in values.items()})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --------------------------------------------------------------------------------------------- numbers, by hand


def test_the_first_number_that_differs_and_by_how_much() -> None:
    a = {1: {"x": 1.0, "y": 100.0}, 2: {"x": 2.0, "y": 50.0}, 3: {"x": 4.0, "y": 25.0}}
    b = {1: {"x": 1.0, "y": 100.0001}, 2: {"x": 2.5, "y": 50.0}, 3: {"x": 4.0, "y": 99.0}}
    found = compare_numbers(a, b)
    assert found.first is not None
    assert found.first_real is not None
    assert (found.first.step, found.first.kind, found.first_real.step) == (1, "rounding", 2)
    (y,) = found.first.differences
    assert (y.metric, y.a, y.b) == ("y", 100.0, 100.0001)
    assert y.size == pytest.approx(0.0001 / 100.0001)
    (x,) = found.first_real.differences
    assert x.size == pytest.approx(0.5 / 4.0)  # of the largest x in both
    assert (found.steps, found.compared) == ([1, 2, 3], 6)


@pytest.mark.parametrize(
    ("metric", "a", "b", "kind"),
    [
        ("objective/kl", 2.0, 2.0 + 1e-5, "rounding"),
        ("objective/kl", 2.0, 2.0 + 5e-5, "real"),
        ("loss/policy_avg", 3e-9, -2e-8, "rounding"),  # 0 but for rounding
        ("lr", 4e-8, 5e-8, "real"),  # small, and rounded nowhere
        ("objective/kl", 2.0, None, "real"),
    ],
)
def test_rounding_is_told_from_more(metric: str, a: float, b: float | None, kind: str) -> None:
    found = compare_numbers({1: {metric: a}}, {1: {metric: b}}).first
    assert found is not None
    assert found.kind == kind


def test_what_only_one_run_has_is_no_difference_of_numbers() -> None:
    found = compare_numbers({0: {"eval/score": 1.0}, 1: {"x": 1.0}}, {1: {"x": 1.0, "z": 3.0}, 2: {"x": 5.0}})
    assert found.first is None
    assert (found.only_a, found.only_b, found.last_a, found.last_b) == (["eval/score"], ["z"], 1, 2)


def test_the_end_is_a_mean_with_its_deviation_up_to_the_last_common_step() -> None:
    a = {step: {"x": float(step)} for step in range(1, 13)}
    b = {step: {"x": float(step) + 0.5} for step in range(1, 20)}
    end = end_of("x", a, b)
    assert end is not None
    assert (end.n, end.a, end.b, end.spread_a, end.apart) == (3, 11.0, 11.5, 1.0, False)
    far = end_of("x", a, {step: {"x": 20.0} for step in a})
    assert far is not None
    assert far.apart is True
    single = end_of("x", {1: {"x": 1.0}}, {1: {"x": 2.0}})
    assert single is not None
    assert (single.spread_a, single.apart) == (None, None)
    assert end_of("x", {1: {"x": 1.0}}, {2: {"x": 1.0}}) is None


def test_two_numbers_are_written_so_that_they_differ() -> None:
    assert pair(1.0, 1.0) == ("1", "1")
    assert pair(0.123456, 0.123457) == ("0.123456", "0.123457")
    assert pair(None, 2.0) == ("–", "2")


# --------------------------------------------------------------------------------------------- whole runs


def test_equal_runs_are_the_same_in_every_number(two: tuple[Path, Path]) -> None:
    found = compare_runs(*two)
    assert found.identical
    assert found.records is not None
    assert found.records.answers == 4 * 32
    text = told(found)
    rows = [json.loads(line) for line in (two[0] / "metrics.jsonl").read_text().splitlines()]
    n = sum(len(row) - 1 for row in rows)
    assert f"The same in every number: {n} numbers in 4 iterations, and 128 recorded answers token by token." in text
    assert "All options that have a part in the result are the same." in text
    assert "Prompts: the same, in the same order." in text


def test_one_that_goes_further_is_the_same_so_far(folder: Path, tmp_path: Path) -> None:
    made.make_ppo(tmp_path / "longer", made.A, steps=6)
    found = compare_runs(folder / "a", tmp_path / "longer")
    assert not found.identical
    assert found.numbers.first is None
    assert "as far as both go" in told(found)
    assert "B goes on to iteration 6" in told(found)


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("prompt_id", lambda _: "0" * 12, "They part at iteration 3: other prompts."),
        ("token_ids", lambda ids: [*ids[:2], ids[2] + 1, *ids[3:]], "the same prompts, other answers"),
        ("log_probs", lambda x: [x[0] - 0.5, *x[1:]], "read with other weights or in another precision: log_probs"),
        ("score", lambda x: x + 1, "scored otherwise: score differs"),
        ("ref_log_probs", lambda x: [x[0] - 0.5, *x[1:]], "another reference: ref_log_probs"),
        ("rewards", lambda x: [x[0] - 0.5, *x[1:]], "other rewards made of them: rewards"),
        ("advantages", lambda x: [x[0] - 0.5, *x[1:]], "other credit for them: advantages"),
        ("ratios", lambda x: [x[0], [9.0, *x[1][1:]]], "learning goes another way: ratios"),
    ],
)
def test_where_an_iteration_parts(column: str, change: Any, said: str, two: tuple[Path, Path]) -> None:
    change_record(two[1], 3, column, 5, change)
    found = compare_runs(*two)
    assert not found.identical
    assert found.records is not None
    assert found.records.first_real is not None
    (difference,) = found.records.first_real.columns
    assert (found.records.first_real.step, difference.column, difference.n_rows) == (3, column, 1)
    assert difference.first.row == 5
    assert said in told(found)


def test_the_first_token_that_differs_and_what_was_before_it(two: tuple[Path, Path]) -> None:
    change_record(two[1], 2, "token_ids", 7, lambda ids: [*ids[:3], ids[3] + 1, *ids[4:]])
    text = told(compare_runs(*two))
    assert "answer 7 of iteration 2, from token 3 on; 1 of its 32 answers to the same prompts differ" in text
    assert "the same weights, other random numbers" in text
    change_record(two[1], 2, "sampler_log_probs", 7, lambda x: [x[0] - 0.25, *x[1:]])
    text = told(compare_runs(*two))
    assert "other log-probs, by 0.25 at most" in text


def test_the_size_of_a_difference_and_rounding(two: tuple[Path, Path]) -> None:
    change_record(two[1], 2, "values", 1, lambda x: [x[0] + 1e-7, *x[1:]])
    found = compare_runs(*two)
    assert found.records is not None
    assert found.records.first is not None
    assert found.records.first_real is None
    assert found.records.first.columns[0].size == pytest.approx(1e-7, rel=0.5)
    assert "They differ by rounding alone, from iteration 2 on." in told(found)
    change_record(two[1], 4, "values", 1, lambda x: [x[0] + 0.5, *x[1:]])
    text = told(compare_runs(*two))
    assert "They part at iteration 4: the same answers" in text
    assert "Rounding sets them apart from iteration 2 on." in text


def test_prompts_in_another_order(two: tuple[Path, Path]) -> None:
    ids = pq.read_table(iteration_path(two[1], 2))["prompt_id"].to_pylist()
    change_record(two[1], 2, "prompt_id", 0, lambda _: ids[-1])
    change_record(two[1], 2, "prompt_id", len(ids) - 1, lambda _: ids[0])
    found = compare_runs(*two)
    assert found.records is not None
    order = found.records.order
    assert (order.first, order.row, order.same_prompts, order.shared) == (2, 0, True, 1.0)
    assert found.records.answers == 4 * 32 - 2
    assert found.records.answer is None  # answers to other prompts are not compared
    assert "the same prompts in another order" in told(found)
    change_record(two[1], 3, "token_ids", 9, lambda ids_: [ids_[0] + 1, *ids_[1:]])
    assert "is answer 9 of iteration 3, from token 0 on; 1 of its 32 answers" in told(compare_runs(*two))


def test_other_prompts_throughout(two: tuple[Path, Path]) -> None:
    for step in range(1, 5):
        for row in range(32):
            change_record(two[1], step, "prompt_id", row, lambda _: "0" * 12)
    found = compare_runs(*two)
    assert found.records is not None
    assert (found.records.answers, found.records.order.shared, found.records.order.same_prompts) == (0, 0.0, False)
    text = told(found)
    assert "others from the first recorded iteration on; of all prompts 0% came up in both" in text
    assert "there are no two to the same prompt" in text


def test_a_metric_that_parts_first(two: tuple[Path, Path]) -> None:
    change_metrics(two[1], 2, objective__kl=9.0)
    text = told(compare_runs(*two))
    assert "They part at iteration 2: objective/kl is 0." in text
    assert "1 of 32 metrics differ at iteration 2" in text


def test_options_by_what_they_do(folder: Path) -> None:
    found = compare_runs(folder / "a", folder / "ppo-b")
    effects = {change.option: change.effect for change in found.options}
    assert effects["kl_coef"] == "result"
    assert effects["output_dir"] == "none"
    kl = next(change for change in found.options if change.option == "kl_coef")
    assert (kl.was, kl.now) == ("0.05", "0.1")
    clip = next(change for change in found.options if change.option == "reward_model_path")
    assert (clip.was, clip.now) == ("models/reward", "none")


def test_an_option_without_effect_is_no_value(folder: Path, tmp_path: Path) -> None:
    made.make_ppo(tmp_path / "rloo", made.RLOO, steps=1)
    made.make_ppo(tmp_path / "lam", made.B, steps=1)
    changes = {change.option: change for change in compare_runs(tmp_path / "lam", tmp_path / "rloo").options}
    assert (changes["lam"].was, changes["lam"].now) == ("0.9", "–")


def test_machines_and_what_was_read(two: tuple[Path, Path], tmp_path: Path) -> None:
    one = tmp_path / "one"
    shutil.copytree(two[0], one)
    machine = {"torch": "2.12", "threads": 2}
    for run, threads, prompts in ((one, 2, "aa"), (two[1], 4, "bb")):
        about = {"machine": machine | {"threads": threads}, "marks": {"prompts": prompts, "start model": "cc"}}
        made.write_json(run / "checkpoint-4" / "training_state" / "state.json", {"about": about})
    found = compare_runs(one, two[1])
    assert ("threads", "2", "4") in [(fact.name, fact.a, fact.b) for fact in found.facts]
    assert found.same_input == ["start model"]
    text = told(found)
    assert "prompts: read by both, and not the same (by its SHA-256)" in text
    assert "The same to the last bit: start model." in text


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_the_other_kinds(name: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / name, tmp_path / "b")
    assert compare_runs(folder / name, tmp_path / "b").identical
    change_metrics(tmp_path / "b", 5, loss=1.25)
    text = told(compare_runs(folder / name, tmp_path / "b"))
    assert "They part at step 5: loss is " in text
    assert "eval/" in text
    assert "Prompts and answers" not in text


def test_alarms_of_both(folder: Path) -> None:
    (folder / "ppo-b" / "alarms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made.ALARMS["ppo-b"]))
    text = told(compare_runs(folder / "a", folder / "ppo-b"))
    assert "A: no alarm" in text
    assert "B: iteration 4 to 9, A source jumps (helpful): the mean of helpful jumped" in text
    assert "B: from iteration 8 on, KL runs away" in text


# --------------------------------------------------------------------------------------------- how it is shown


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("other", ["ppo-b", "b"])
def test_both_languages_say_all_of_it(language: str, other: str, folder: Path, two: tuple[Path, Path]) -> None:
    text = told(compare_runs(folder / "a", folder / other if other == "ppo-b" else two[1]), language)
    assert "{" not in text
    assert WORDS["curves"][language == "zh"] in text
    assert "clearppo view" in text


def test_every_word_has_the_same_blanks_in_both_languages() -> None:
    for name, (english, chinese) in WORDS.items():
        blanks = [sorted({part.partition("}")[0] for part in text.split("{")[1:]}) for text in (english, chinese)]
        assert set(blanks[1]) <= set(blanks[0]), name


def test_every_word_is_said() -> None:
    source = Path(compare_text.__file__).read_text(encoding="utf-8")
    families = ("kind.", "state.", "seconds.", "at.", "many.", "one.", "how.", "read.", "column", "numbers.", "before.")
    families += ("options.",)
    said = {name for quote in "\"'" for name in re.findall(f"{quote}([a-z_.]+){quote}", source)}
    unsaid = [name for name in WORDS if not name.startswith(families) and name not in said]
    assert unsaid == []


def test_a_terminal_gets_dots_and_a_pipe_letters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = compare_runs(folder / "a", folder / "ppo-b")
    dots = told(found, force_terminal=True, color_system="truecolor")
    assert any("\u2801" <= character <= "\u28ff" for character in dots)
    letters = told(found)
    assert "\x1b" not in letters
    assert "# = A = B" in letters
    widest = max(len(line) for line in told(found, force_terminal=True, color_system=None).splitlines())
    assert widest <= 100


def test_a_chart_by_hand() -> None:
    rising, flat = [(0, 0.0), (2, 2.0)], [(0, 0.0), (2, 0.0)]
    assert [str(line) for line in chart((rising, flat), width=14, braille=False, height=3)] == [
        "2 |       AAA",
        "  |   AAAA   ",
        "0 |###BBBBBBB",
        "  +----------",
        "   0        2",
    ]


def test_a_chart_of_one_point_and_of_huge_numbers() -> None:
    lines = [str(line) for line in chart(([(3, 1.0)], [(3, 1.0)]), width=14, braille=False, height=3)]
    assert lines[1].count("#") == 1
    lines = [str(line) for line in chart(([(0, -1e308), (9, 1e308)], [(0, 0.0)]), width=20, braille=True)]
    assert lines[0].strip().startswith("1e+308")


def test_control_characters_of_a_run_do_not_reach_the_terminal(two: tuple[Path, Path]) -> None:
    change_metrics(two[1], 2, **{"rewards__\x1b[31mred__mean": 1.0})
    assert "\x1b" not in told(compare_runs(*two))


def test_json_has_all_of_it(two: tuple[Path, Path]) -> None:
    change_metrics(two[1], 3, objective__kl=9.0)
    result = CliRunner().invoke(main, ["compare", *map(str, two), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(json.dumps(as_dict(compare_runs(*two))))
    assert found["identical"] is False
    assert found["metrics"]["first_real"]["step"] == 3
    assert found["overlay"]["page"] == "#/overview?run=a&run=b"
    assert found["ends"][0]["metric"] == "objective/scores"


def test_metrics_that_are_asked_for(folder: Path) -> None:
    runs = [str(folder / "a"), str(folder / "ppo-b")]
    result = CliRunner().invoke(main, ["compare", *runs, "--metric", "lr", "--metric", "time/learning"])
    assert result.exit_code == 0, result.output
    assert "lr " in result.stdout
    assert "time/learning" in result.stdout
    curves = result.stdout.partition("Curves")[2]
    assert "objective/scores" not in curves
    assert "time/learning" in curves
    with pytest.raises(
        ConfigError, match=r"--metric objective/k: neither run has .* Did you mean --metric objective/kl\?"
    ):
        compare_runs(folder / "a", folder / "ppo-b", ["objective/k"])
    with pytest.raises(ConfigError, match=r"--metric rewards/brief/mean: only one of the runs has"):
        compare_runs(folder / "a", folder / "ppo-b", ["rewards/brief/mean"])


# --------------------------------------------------------------------------------------------- what cannot be compared


def test_what_is_no_run_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    def refused(a: Path, b: Path) -> str:
        result = CliRunner().invoke(main, ["compare", str(a), str(b)])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        return result.stderr

    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bent").mkdir()
    (tmp_path / "bent" / "config.yaml").write_bytes(b"\xff\x00run: 1")
    assert "or it is damaged" in refused(tmp_path / "bent", folder / "a")
    assert "is not there" in refused(folder / "a", tmp_path / "absent")
    assert "is a file" in refused(tmp_path / "file", folder / "a")
    assert "there is no run in" in refused(tmp_path / "empty", folder / "a")
    assert "below it there are" in refused(folder, folder / "a")
    assert "are the same directory" in refused(folder / "a", folder / "." / "a")
    said = refused(folder / "a", folder / "sft")
    assert "is a run of clearppo ppo and" in said
    assert "no numbers in common" in said
    made.make_ppo(tmp_path / "new", made.A, steps=0)
    assert "has no row in metrics.jsonl yet" in refused(folder / "a", tmp_path / "new")


def test_damaged_files_are_said_and_the_rest_is_compared(two: tuple[Path, Path]) -> None:
    iteration_path(two[1], 2).write_bytes(b"PAR1 no")
    (two[1] / "config.yaml").write_text((two[1] / "config.yaml").read_text().partition("\n\n")[0] + "\n\nrun: [1\n")
    with (two[1] / "metrics.jsonl").open("a") as stream:
        stream.write('rubbish\n{"step": 5, "objective/kl": NaN}\n')
    text = told(compare_runs(*two))
    assert "cannot be read as a record" in text
    assert "Both have a record of 3 iterations, with 96 answers" in text
    assert not compare_runs(*two).identical
    assert "so the options were not compared" in text
    assert "All 32 metrics are the same" in text


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_strange(tmp_path_factory.mktemp("strange"))


@pytest.mark.parametrize("name", ["links", "rows", "records", "kinds", "values", "holes", "settings", "<b>"])
def test_spoilt_runs_are_compared_or_refused_in_a_sentence(name: str, strange: Path) -> None:
    run = next(path for path in sorted(strange.iterdir()) if path.name.startswith(name))
    for pair_of in ((run, strange.parent / "whole"), (strange.parent / "whole", run)):
        for arguments in ([], ["--json"], ["--language", "zh"]):
            result = CliRunner().invoke(main, ["compare", *map(str, pair_of), *arguments])
            assert result.exit_code in (0, 2), result.output
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
            assert SECRET not in result.output
            assert (result.exit_code == 2) == bool(result.stderr)


def test_runs_that_are_going_on_are_compared(two: tuple[Path, Path]) -> None:
    held = lock(two[1])
    try:
        assert "running, 4 / 12" in told(compare_runs(*two))
    finally:
        unlock(held)


def test_no_step_in_common(two: tuple[Path, Path]) -> None:
    rows = (two[1] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (two[1] / "metrics.jsonl").write_text(rows[-1])
    one = two[1].parent / "one"
    shutil.copytree(two[0], one)
    (one / "metrics.jsonl").write_text(rows[0])
    text = told(compare_runs(one, two[1]))
    assert "They have no iteration in common" in text
    with pytest.raises(RunDirError):
        compare_runs(one, one)
