"""`clearppo label` on the command line: in the terminal, with keys and in a pipe; the table; what has no effect."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clearppo.cli import main
from clearppo.data import load_comparisons
from tests.label.conftest import decision, rows_of, write_rows

ROWS = [{"prompt": f"Q{n}", "completions": [f"yes {n}", f"no {n}", f"\x1b[31mred {n}"]} for n in range(4)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with answers.jsonl."""
    write_rows(tmp_path / "answers.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["label", *arguments], input=typed)


def test_a_pipe_of_letters(folder: Path) -> None:
    done = label("answers.jsonl", "--terminal", "--labeller", "Ann", typed="1\nt\nn\nwhy not\nb\nu\nx\n3\ns\n\n2\n")
    assert done.exit_code == 0, done.output
    rows = rows_of(folder / "labels.jsonl")
    assert [row["verdict"] for row in rows] == ["better", "tie", "all bad", "undone", "better", "better"]
    assert rows[2]["note"] == rows[4]["note"] == "why not"  # what is taken back leaves its note to the next decision
    assert [row["order"].index(row["choice"]) for row in rows if row["choice"] is not None] == [0, 2, 1]
    assert "'x' is none of the keys" in done.output
    assert "Every item has your decision." in done.output
    assert "\x1b" not in done.output
    assert "red 0" in done.output
    assert len(load_comparisons("labels.jsonl")) == 3


def test_the_name_is_asked_for(folder: Path) -> None:
    done = label("answers.jsonl", "--terminal", "--output", "new/mine.jsonl", typed="  李 明 \nt\nq\n")
    assert done.exit_code == 0, done.output
    assert [row["labeller"] for row in rows_of(folder / "new" / "mine.jsonl")] == ["李 明"]


def test_the_end_of_the_input_is_an_end(folder: Path) -> None:
    done = label("answers.jsonl", "--terminal", "--labeller", "Ann")
    assert (done.exit_code, "0 decisions by Ann." in done.output) == (0, True)
    assert not (folder / "labels.jsonl").exists()  # nothing was decided


def test_keys_without_enter(folder: Path) -> None:
    """In a real terminal, each key counts as it is pressed; Ctrl-C leaves with 130 and what was decided stays."""
    main_end, its_end = pty.openpty()
    command = [sys.executable, "-m", "clearppo.cli", "label", "answers.jsonl", "--terminal", "--labeller", "Ann"]
    process = subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, cwd=folder, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(its_end)
    seen = ""

    def until(words: str, count: int) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while len(re.findall(words, seen)) < count:
            assert time.monotonic() < end, seen
            if select.select([main_end], [], [], 0.1)[0]:
                seen += os.read(main_end, 65536).decode(errors="replace")

    until("q quit", 1)
    os.write(main_end, b"2")
    until("answer 2 is better", 1)
    until("q quit", 2)
    os.write(main_end, b"t")
    until("q quit", 3)
    os.write(main_end, b"\x03")
    assert process.wait(timeout=30) == 130
    os.close(main_end)
    assert [row["verdict"] for row in rows_of(folder / "labels.jsonl")] == ["better", "tie"]


def test_the_table_of_agreement(folder: Path) -> None:
    for name in ("Ann", "Bob"):
        assert label("answers.jsonl", "--terminal", "--labeller", name, typed="t\nt\nt\nb\n").exit_code == 0
    done = label("labels.jsonl", "--agreement")
    assert done.exit_code == 0
    assert re.search(r"Ann and Bob\W+4\W+100%\W+1\.00", done.output)
    assert "4 items were decided by two or more people" in done.output
    assert "alpha 1.00" in done.output
    (folder / "other.jsonl").write_text(decision(labeller="Eve").line())
    assert "Eve" in label("labels.jsonl", "other.jsonl", "--agreement").output


def test_what_is_left_out_is_said(folder: Path) -> None:
    rows = [*ROWS, ROWS[0], {"prompt": "R", "completions": ["a", "a"]}, {"prompt": "S", "completions": list("abcde")}]
    write_rows(folder / "answers.jsonl", rows)
    (folder / "labels.jsonl").write_text(decision("elsewhere").line() + decision().line()[:30])
    done = label("answers.jsonl", "--terminal", "--labeller", "Ann")
    assert done.exit_code == 0, done.output
    for words in (
        "1 prompts without two different answers", "1 rows that repeat", "of 1 prompts with more than four answers",
        "1 decisions in the output are on items that are not", "was cut short by a crash; its 30 bytes moved to",
    ):  # fmt: skip
        assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["answers.jsonl", "--agreement", "--terminal"], "--terminal has no effect: --agreement prints a table"),
        (["answers.jsonl", "--terminal", "--port", "1"], "--port has no effect: with --terminal there is no page"),
        (["answers.jsonl", "--terminal", "--no-open"], "--open has no effect"),
        (["answers.jsonl", "--labeller", "Ann"], "--labeller has no effect: the page asks"),
        (["answers.jsonl", "--seed", "1"], "--seed has no effect: nothing is sampled"),
        (["answers.jsonl", "--terminal", "--labeller", " "], "name is empty"),
        (["answers.jsonl", "answers.jsonl", "--terminal"], "a file is given twice"),
        (["answers.jsonl", "--terminal", "--output", "answers.jsonl"], "is read, too"),
        (["answers.jsonl", "--terminal", "--output", "labels.json"], "--output labels.jsonl"),
        (["answer.jsonl", "--terminal"], "Did you mean answers.jsonl"),
        (["prompts.jsonl", "--terminal"], "holds prompts and no answers. Add --model_name_or_path MODEL"),
        (["answers.jsonl", "--terminal", "--model_name_or_path", "m"], "answers.jsonl holds answers. Leave it out"),
        (["answers.jsonl", "prompts.jsonl", "--terminal", "--model_name_or_path", "m"], "2 are given. Give one"),
        (["prompts.jsonl", "--model_name_or_path", "m", "--num_completions", "5"], "make 5 answers to a prompt"),
        (["prompts.jsonl", "--model_name_or_path", "m", "--model_name_or_path", "m"], "a model is given twice"),
        (["prompts.jsonl", "--model_name_or_path", "m", "--temperature", "hot"], "temperature"),
        (["answers.jsonl", "--agreement"], "line 1: no `item`"),
        ([], "Missing argument"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str, folder: Path) -> None:
    write_rows(folder / "prompts.jsonl", [{"prompt": "Q"}])
    done = label(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "labels.jsonl").exists()


def test_a_taken_back_file_has_no_table(folder: Path) -> None:
    (folder / "labels.jsonl").write_text(decision().line() + decision(verdict="undone").line())
    done = label("labels.jsonl", "--agreement")
    assert (done.exit_code, "no decision stands" in done.stderr) == (2, True)


def test_the_server_of_the_command(folder: Path) -> None:
    """It says where it is, answers, writes, ends by Ctrl-C with 0, and needs no torch."""
    import signal

    command = [sys.executable, "-X", "importtime", "-m", "clearppo.cli", "label", "answers.jsonl", "--port", "0"]
    with (folder / "imports.txt").open("w") as imports:
        process = subprocess.Popen(
            [*command, "--no-open"], stdout=subprocess.PIPE, stderr=imports, text=True, cwd=folder
        )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert "4 items to compare, decisions go to labels.jsonl: http://127.0.0.1:" in said
    url = re.findall(r"http://[\d.:]+/", said)[0]
    with urllib.request.urlopen(f"{url}api/label/state?labeller=ann") as answer:
        item = json.load(answer)["item"]["item"]
    body = json.dumps({"labeller": "ann", "item": item, "verdict": "tie", "nonce": "123456789"}).encode()
    request = urllib.request.Request(f"{url}api/label/decide", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["written"]
    second = subprocess.run([*command, "--no-open"], capture_output=True, text=True, cwd=folder, check=False)
    assert (second.returncode, "another clearppo label has" in second.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    assert len(rows_of(folder / "labels.jsonl")) == 1
    loaded = set(re.findall(r"\|\s+([\w.]+)$", (folder / "imports.txt").read_text(), re.M))
    assert not loaded & {"torch", "transformers", "numpy", "pyarrow"}
