"""What a person sees: a live bar in a terminal, plain lines elsewhere, nothing that an answer could do to it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from clearppo.console import LiveConsole, PlainConsole, console_listener, headline, sample_table, shortened
from clearppo.train.listener import Listener, SampleRow, Silence, Summary, Table

METRICS = {
    "objective/scores": 0.5, "objective/kl": 1.25, "completions/mean_length": 20.0, "tokens_per_second": 80.0,
}  # fmt: skip
SUMMARY = Summary(
    objective="maximise E[min(ratio*A, clip(ratio, 0.8, 1.2)*A)]",
    facts=[("prompts", "3 from [brackets].jsonl")],
    models=[{"model": "actor", "from": "m", "parameters": "1", "trainable": "1", "dtype": "float32", "device": "cpu"}],
    notes=["2 prompts are left out"],
)


def terminal(**how: object) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False, **how)


def whole_run(listener: Listener) -> None:
    listener.phase("loading")
    listener.started(SUMMARY, 2)
    for step in (1, 2):
        for phase in ("sampling", "feedback", "learning"):
            listener.phase(phase)
        listener.iteration(step, METRICS)
    listener.samples(2, [SampleRow(prompt="p", completion="\x1b[31mred [bold]x[/bold]", score=0.1, kl=0.2)])
    listener.note("a [note]")
    listener.phase("saving")
    listener.finished()


def test_a_terminal_shows_phases_numbers_and_the_objective() -> None:
    console = terminal()
    with console_listener(console) as listener:
        assert isinstance(listener, LiveConsole)
        whole_run(listener)
    text = console.file.getvalue()
    for shown in ("学习", "2/2", "reward +0.500", "KL 1.25 nats", "80 tok/s", "0.8, 1.2", "[brackets]", "a [note]"):
        assert shown in text
    assert "\x1b[31mred" not in text  # the answer's own escape is gone
    assert "[bold]x[/bold]" in text  # and its markup is text


@pytest.mark.parametrize("console", [Console(file=io.StringIO()), terminal(_environ={"TERM": "dumb"})])
def test_a_log_file_and_a_dumb_terminal_get_plain_lines(console: Console) -> None:
    with console_listener(console) as listener:
        assert isinstance(listener, PlainConsole)
        whole_run(listener)
    text = console.file.getvalue()
    assert "iteration 2/2  reward +0.500  KL 1.25 nats  length 20  80 tok/s" in text
    assert "\x1b" not in text


def test_another_kind_of_run_brings_its_own_words() -> None:
    summary = replace(SUMMARY, round="step", headline=lambda metrics: f"loss {metrics['loss']:.2f}")
    table = Table(title="a [title]", columns=("what", "how much"), rows=(("accuracy [x]", "71 %"), ("pairs", "12")))
    for console in (Console(file=io.StringIO()), terminal()):
        with console_listener(console) as listener:
            listener.started(summary, 2)
            listener.iteration(2, {"loss": 0.25})
            listener.table(table)
            listener.table(replace(table, columns=("", ""), numbers=False))
            listener.finished()
        text = console.file.getvalue()
        for shown in ("loss 0.25", "a [title]", "accuracy [x]", "71 %"):
            assert shown in text
        assert text.count("how much") == 1
        assert ("step 2/2" in text) == (not console.is_terminal)


def test_a_run_that_goes_on_reckons_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("clearppo.console.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO())
    with console_listener(console) as listener:
        listener.started(replace(SUMMARY, done=8), 12)
        now[0] = 60.0
        listener.iteration(10, METRICS)
    assert "iteration 10/12" in console.file.getvalue()
    assert "1:00 left" in console.file.getvalue()


def test_silence_listens() -> None:
    whole_run(Silence())
    assert isinstance(Silence(), Listener)


def test_long_and_wild_texts_become_one_short_line() -> None:
    assert shortened("a\n\tb\x00c") == "a b c"
    assert len(shortened("x" * 1000)) == 240
    assert headline(METRICS).startswith("reward +0.500")
    assert sample_table(3, []).title == "answers in iteration 3"
