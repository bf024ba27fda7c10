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
    assert "1 decision by Ann, in" in label("answers.jsonl", "--terminal", "--labeller", "Ann", typed="t\n").output
    (folder / "labels.jsonl").unlink()
    label("answers.jsonl", "--terminal", "--labeller", "Ann")
    assert not (folder / "labels.jsonl").exists()  # nothing was decided


IN_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background has it ignored
from clearppo.cli import main
main(["label", *sys.argv[1:]])
"""
"""Takes the terminal for its own first: in the new process, for between fork and exec a process that has threads, as a
long run of tests has, may wait for ever."""


class Terminal:
    """`clearppo label answers.jsonl --terminal` in a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.keys, its_end = pty.openpty()
        command = [sys.executable, "-c", IN_TERMINAL, "answers.jsonl", "--terminal", *arguments]
        self.process = subprocess.Popen(
            command, stdin=its_end, stdout=its_end, stderr=its_end, cwd=folder, start_new_session=True
        )
        os.close(its_end)
        self.seen = ""

    def until(self, words: str, count: int = 1) -> None:
        """Wait for words on the screen."""
        end = time.monotonic() + 30
        while len(re.findall(words, self.seen)) < count:
            assert time.monotonic() < end, self.seen
            if select.select([self.keys], [], [], 0.1)[0]:
                self.seen += os.read(self.keys, 65536).decode(errors="replace")

    def press(self, *bursts: bytes) -> None:
        """What a terminal sends; there is a moment between two."""
        for burst in bursts:
            os.write(self.keys, burst)
            time.sleep(0.1)

    def end(self) -> int:
        """Press Ctrl-C; the exit code."""
        os.write(self.keys, b"\x03")
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            os.close(self.keys)


def test_keys_without_enter(folder: Path) -> None:
    """In a real terminal, each key counts as it is pressed; Ctrl-C leaves with 130 and what was decided stays."""
    terminal = Terminal(folder, "--labeller", "Ann")
    terminal.until("q quit")
    terminal.press(b"2")
    terminal.until("answer 2 is better")
    terminal.until("q quit", 2)
    terminal.press(b"t")
    terminal.until("q quit", 3)
    assert terminal.end() == 130
    assert [row["verdict"] for row in rows_of(folder / "labels.jsonl")] == ["better", "tie"]


@pytest.mark.parametrize(
    "sent",
    [
        (b"\x1b[B",),  # Down: its last letter alone would be "all bad"
        (b"\x1b[3~",),  # Delete
        (b"\x1b[1;5C",),  # Ctrl-Right
        (b"\x1bOS",),  # F4
        (b"\x1bt",),  # Alt and t
        (b"\x1b[", b"B"),  # over a slow line
        (b"\x1b",),
        (b"1t",),  # pasted
        ("t是".encode(),),
        (b"1\n2\n3\n" * 2000,),
    ],
    ids=["down", "delete", "ctrl-right", "f4", "alt", "slow", "escape", "pasted", "chinese", "long"],
)
def test_no_key_but_the_listed_ones_decides(sent: tuple[bytes, ...], folder: Path) -> None:
    terminal = Terminal(folder, "--labeller", "Ann")
    terminal.until("q quit")
    terminal.press(*sent)
    terminal.until("That is none of the keys")
    terminal.press(b"b")
    terminal.until("all bad")
    terminal.until("1 of 4 labelled")
    assert terminal.end() == 130
    assert terminal.seen.count("That is none of the keys") == 1
    assert "skipped" not in terminal.seen
    assert [row["verdict"] for row in rows_of(folder / "labels.jsonl")] == ["all bad"]


def test_what_is_pasted_into_a_note_is_no_key(folder: Path) -> None:
    terminal = Terminal(folder, "--labeller", "Ann")
    terminal.until("q quit")
    terminal.press(b"n")
    terminal.until("note: ")
    terminal.press("per\u200cs\x1b[Dian\n1".encode())  # a letter without width stays, an arrow goes
    terminal.until("q quit", 2)
    terminal.press(b"t")
    terminal.until("1 of 4 labelled")
    assert terminal.end() == 130
    rows = rows_of(folder / "labels.jsonl")
    assert [(row["verdict"], row["note"]) for row in rows] == [("tie", "per\u200csian")]


def test_a_name_that_is_none_is_asked_for_again(folder: Path) -> None:
    terminal = Terminal(folder)
    terminal.until("your name: ")
    terminal.press(b"\n")
    terminal.until("name is empty")
    terminal.until("your name: ", 2)
    terminal.press(b"Ann\n")
    terminal.until("q quit")
    terminal.press(b"t")
    terminal.until("1 of 4 labelled")
    assert terminal.end() == 130
    assert [row["labeller"] for row in rows_of(folder / "labels.jsonl")] == ["Ann"]
    piped = label("answers.jsonl", "--terminal", "--output", "piped.jsonl", typed="\n1\n2\n")  # 1 is no name
    assert (piped.exit_code, "name is empty" in piped.stderr) == (2, True)


def test_an_enormous_answer_is_drawn_in_part(folder: Path) -> None:
    write_rows(folder / "answers.jsonl", [{"prompt": "Q" * 20_001, "completions": ["a", "b" * 3_000_000]}])
    start = time.monotonic()
    done = label("answers.jsonl", "--terminal", "--labeller", "Ann", typed="t\n")
    assert time.monotonic() - start < 20  # the whole took minutes
    assert done.exit_code == 0, done.output
    assert re.search(r"\[1 more character is\W+not drawn\]", done.output)
    assert re.search(r"\[2,980,000 more characters\W+are\W+not\W+drawn\]", done.output)
    assert done.output.count("b") < 21_000
    assert len(rows_of(folder / "labels.jsonl")[0]["completions"][1]) == 3_000_000


def test_the_table_of_agreement(folder: Path) -> None:
    for name in ("Ann", "Bob"):
        assert label("answers.jsonl", "--terminal", "--labeller", name, typed="t\nt\nt\nb\n").exit_code == 0
    done = label("labels.jsonl", "--agreement")
    assert done.exit_code == 0
    assert re.search(r"Ann and Bob\W+4\W+100%\W+1\.00", done.output)
    assert "4 items were decided by two or more people" in done.output
    assert "alpha 1.00" in done.output
    for name, item in (("Bob", "i"), ("Eve", "i")):
        with (folder / "one.jsonl").open("a") as one:
            one.write(decision(item, name).line())
    assert "1 item was decided by two or more people" in label("one.jsonl", "--agreement").output
    (folder / "other.jsonl").write_text(decision(labeller="Eve").line())
    assert "Eve" in label("labels.jsonl", "other.jsonl", "--agreement").output


def test_which_file_is_preferred(folder: Path) -> None:
    """Nothing names a file while answers are compared; the end does, and --agreement, and the end says what is next."""
    for name in ("mine", "sft"):
        write_rows(folder / f"{name}.jsonl", [{"prompt": f"Q{n}", "completions": [f"{name[0]}{n}"]} for n in range(8)])
    shown = label("mine.jsonl", "sft.jsonl", "--terminal", "--labeller", "Ann", "--output", "probe.jsonl", typed="q\n")
    assert "sft.jsonl" not in shown.output
    assert "0 decisions by Ann." in shown.output
    desk_order = {row["prompt"]: row for row in rows_of(folder / "mine.jsonl")}
    typed = ""
    from clearppo.data.candidates import read_candidates, read_source
    from clearppo.ui.label_desk import Desk
    from clearppo.ui.label_store import LabelStore

    store = LabelStore.open("probe.jsonl")
    desk = Desk(read_candidates({f: read_source(f) for f in ("mine.jsonl", "sft.jsonl")}).items, store, overlap=0.1)
    while (item := desk.show("Ann")) is not None:
        place = next(n for n, text in enumerate(item.answers) if text in desk_order[item.prompt]["completions"])
        desk.decide("Ann", item.item, "better", place)
        typed += f"{place + 1}\n"
    store.close()
    done = label("mine.jsonl", "sft.jsonl", "--terminal", "--labeller", "Ann", typed=typed)
    for output in (done.output, label("labels.jsonl", "--agreement").output):
        said = " ".join(output.split())
        assert "mine.jsonl is preferred to sft.jsonl: it wins 100%" in said
        assert re.search(r"mine\.jsonl\W+8\W+8\W+0\W+0\W+0\W+100%\W+68%–100%\W+against sft\.jsonl", said)
    assert "8 decisions by Ann, in labels.jsonl." in done.output
    assert "clearppo reward --dataset_name labels.jsonl --model_name_or_path MODEL --output_dir" in done.output


def test_what_is_left_out_is_said(folder: Path) -> None:
    rows = [*ROWS, ROWS[0], {"prompt": "R", "completions": ["a", "a"]}, {"prompt": "S", "completions": list("abcde")}]
    write_rows(folder / "answers.jsonl", rows)
    (folder / "labels.jsonl").write_text(decision("elsewhere").line() + decision().line()[:30])
    done = label("answers.jsonl", "--terminal", "--labeller", "Ann")
    assert done.exit_code == 0, done.output
    for words in (
        "1 prompt without two different answers is left", "1 row that repeats another one is left",
        "of 1 prompt with more than four answers", "1 decision in the output is on items that are not",
        "was cut short by a crash; its 30 bytes moved to",
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
        (["answers.jsonl", "./answers.jsonl", "--terminal"], "a file is given twice"),
        (["answers.jsonl", "link.jsonl", "--terminal"], "a file is given twice"),
        (["answers.jsonl", "--terminal", "--overlap", "nan"], "overlap = nan is no share. Use --overlap 0.1"),
        (["huge.jsonl", "--agreement"], "must be a number from 0 to 1000000000"),
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
    (folder / "link.jsonl").symlink_to("answers.jsonl")
    write_rows(folder / "huge.jsonl", [{**json.loads(decision().line()), "seconds": int("9" * 401)}])
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
