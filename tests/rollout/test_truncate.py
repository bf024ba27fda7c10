"""Answers are cut for their readers only: golden cases G13 and G20, their edges, and a whole `sample`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.errors import ConfigError
from clearppo.feedback import Scores, judge
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm
from clearppo.rollout import FakeSampler, SamplingSettings, Truncation, sample
from clearppo.rollout.inprocess import InProcessSampler
from tests.tiny import EOS, tiny_causal_lm, tiny_rollout, tiny_tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "golden.json").read_text())["cases"]


def case(number: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = next(case for case in GOLDEN if case["id"] == number)
    return found["inputs"], found["expected"]


class Spelled:
    """A decoder that writes token ids out; the special ones are left out where that is asked for."""

    def __init__(self, *special: int) -> None:
        self.special = special

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        return " ".join(str(t) for t in token_ids if not (skip_special_tokens and t in self.special))


def read(
    responses: list[list[int]], token: int, after: int, mask: torch.Tensor | None = None, special: int = -1
) -> Any:
    ids = torch.tensor(responses)
    everything = torch.ones(ids.shape, dtype=torch.bool)
    cut = Truncation(token_id=token, after=after, tokenizer=Spelled(special))
    return cut.read(ids, everything if mask is None else mask)


def spelled(rows: list[list[int]], padding: int) -> tuple[str, ...]:
    return tuple(" ".join(str(t) for t in row if t != padding) for row in rows)


def test_G13_lm_human_preferences() -> None:
    """Before, at and behind the index, more than once, never, last; the fine takes the score's place."""
    given_, expected = case("G13")
    responses = given_["responses"]
    completions, reasons = read(responses, given_["truncate_token"], given_["truncate_after"])
    assert completions == spelled(expected["postprocessed"], given_["padding_token"])
    assert [reason == "stop" for reason in reasons] == expected["valid"]

    class Told:
        names = ("told",)

        def __call__(self, rollout: Any) -> Scores:
            total = torch.tensor(given_["raw_scores"])
            return Scores(total=total, parts={"told": total})

        def log_probs(self, rollout: Any) -> torch.Tensor:
            return rollout.old_log_probs

        def full_kl(self, rollout: Any) -> torch.Tensor:
            raise AssertionError("one sample is enough")

    B, T = len(responses), len(responses[0])
    rollout = tiny_rollout(["p"] * B, completions, lengths=[T] * B, finish_reasons=reasons)
    feedback = judge(rollout, Told(), Told(), missing_eos_score=given_["penalty"])
    assert feedback.scores.tolist() == pytest.approx(expected["scores"])
    # The score lands on the last token of all, also where the text was cut earlier.
    assert feedback.rewards[:, -1].tolist() == pytest.approx(expected["scores"])
    assert not feedback.rewards[:, :-1].any()


def test_G20_summarize_from_feedback() -> None:
    """The EOS itself is kept, at any place: what is read ends there, or at the last token."""
    given_, expected = case("G20")
    completions, reasons = read(given_["samples"], given_["truncate_token"], 0)
    assert completions == spelled(expected["processed"], given_["padding_token"])
    assert [len(text.split()) - 1 for text in completions] == expected["last_response_index"]
    assert list(reasons) == ["stop", "length", "stop", "stop"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 10), st.integers(0, 9))
def test_the_first_one_from_there_on(tokens: list[int], after: int, length: int) -> None:
    """Against a plain search; padding behind the answer is never looked at, whatever stands there."""
    length = min(length, len(tokens))
    mask = (torch.arange(len(tokens)) < length)[None]
    places = [t for t in range(after, length) if tokens[t] == 1]
    end = places[0] + 1 if places else length
    completions, reasons = read([tokens], 1, after, mask)
    assert completions == (" ".join(map(str, tokens[:end])),)
    assert reasons == ("stop" if places else "length",)


def test_a_special_token_ends_an_answer_and_is_not_read() -> None:
    assert read([[5, 6, 9, 7]], 9, 0, special=9) == (("5 6",), ("stop",))


@pytest.mark.parametrize("after", [-1, -10])
def test_an_index_that_is_none(after: int) -> None:
    with pytest.raises(ConfigError, match=f"truncate_after = {after}; .*Use --truncate_after 0"):
        read([[1]], 1, after)


@pytest.mark.parametrize("text", [".", "\n", EOS, " the", "T", "s", " "])
@pytest.mark.parametrize("bos", [False, True])
def test_a_token_by_its_text(text: str, bos: bool) -> None:
    """Special tokens around a text, and tokens that it merges with ("s" behind "a"), are no part of it."""
    tokenizer = tiny_tokenizer(vocab_size=250, bos=bos, adds_eos=bos)
    cut = Truncation.from_text(text, 3, tokenizer)
    assert tokenizer.decode([cut.token_id]) == text
    assert (cut.after, cut.tokenizer) == (3, tokenizer)


def test_the_token_that_stands_in_an_answer_not_the_one_that_begins_a_text() -> None:
    """Llama 2's tokenizer writes a text with a space before it: "." alone is another token than "." behind a word."""

    class SpaceFirst:
        words = ("▁a", "▁.", ".", "▁the", "\n")

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            ids, rest = [], "▁" + text.replace(" ", "▁")
            while rest:
                word = max((w for w in (*self.words, "▁") if rest.startswith(w)), key=len)
                ids.append((*self.words, "▁").index(word))
                rest = rest[len(word) :]
            return ids

        def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
            return "".join((*self.words, "▁")[t] for t in token_ids).replace("▁", " ").removeprefix(" ")

    assert SpaceFirst().encode(".") == [1]
    assert Truncation.from_text(".", 0, SpaceFirst()).token_id == 2
    assert Truncation.from_text("\n", 0, SpaceFirst()).token_id == 4  # alone it would be two tokens
    assert Truncation.from_text(" the", 0, SpaceFirst()).token_id == 3


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("the dog", r"'the dog' is 4 tokens \('t', 'h', 'e', ' dog'\)"),
        ("a b c d", r"is 6 tokens \('a', .*, \.\.\.\)"),
        ("", "'' is 0 tokens to"),
        ("é", r"'é' is 2 tokens"),
    ],
)
def test_texts_that_are_not_one_token(text: str, seen: str) -> None:
    with pytest.raises(ConfigError, match=f"truncate_token = .*{seen}.*exactly one that it knows.*--truncate_token"):
        Truncation.from_text(text, 0, tiny_tokenizer())


def test_an_unknown_text_is_no_token() -> None:
    class Unknowing:
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [0]

        def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
            return "[UNK]"

    with pytest.raises(ConfigError, match=r"'文' is 1 token \('\[UNK\]'\) to"):
        Truncation.from_text("文", 0, Unknowing())


def test_sampling_keeps_every_token_and_cuts_what_is_read(tmp_path: Path) -> None:
    """Fixed length: no stops at all, so the EOS is a token like any other, and all tokens are learned from."""
    tokenizer = tiny_tokenizer()
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, tokenizer=tokenizer), dtype=torch.float64))
    prompts = tiny_rollout(["p"] * 40, ["x"] * 40).prompts
    settings = SamplingSettings(max_tokens=12, temperature=4.0)  # hot: any token comes now and then, the EOS too
    eos = int(tokenizer.eos_token_id)
    truncation = Truncation.from_text(EOS, 3, tokenizer)

    def sampler() -> InProcessSampler:
        return InProcessSampler(policy, tokenizer, settings, seed=4)

    plain = sample(policy, prompts, sampler())
    cut = sample(policy, prompts, sampler(), truncation=truncation)
    assert plain.mask.all()
    assert set(plain.finish_reasons) == {"length"}
    inside = (plain.responses[:, :-1] == eos).any(dim=1)
    assert inside.any(), "no answer of this seed holds an EOS before its end"
    for name in ("responses", "mask", "old_log_probs", "old_values", "sampler_log_probs"):
        assert torch.equal(getattr(plain, name), getattr(cut, name))
    assert (cut.temperature, cut.policy_version) == (plain.temperature, plain.policy_version)
    # What the decoder noted behind an EOS is what one pass over the whole says.
    analysis = policy.analyze(prompts, plain.responses, plain.mask, temperature=4.0)
    torch.testing.assert_close(analysis.log_probs.detach(), plain.old_log_probs, atol=1e-9, rtol=1e-9)
    for row, text, reason in zip(cut.responses.tolist(), cut.completions, cut.finish_reasons, strict=True):
        ends = [t for t, token in enumerate(row) if token == eos and t >= 3]
        read = row[: ends[0]] if ends else row
        assert text == tokenizer.decode(read, skip_special_tokens=True)
        assert reason == ("stop" if ends else "length")
    assert set(cut.finish_reasons) == {"stop", "length"}


def test_a_stop_of_the_sampler_is_no_end_under_truncation(tmp_path: Path) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path)))
    prompts = tiny_rollout(["p", "q"], ["x", "y"]).prompts
    rollout = sample(
        policy, prompts, FakeSampler([5, 6, 7]), truncation=Truncation(token_id=6, after=0, tokenizer=Spelled())
    )
    assert (rollout.completions, rollout.finish_reasons) == (("5 6", "5 6"), ("stop", "stop"))
    late = sample(
        policy, prompts, FakeSampler([5, 6, 7]), truncation=Truncation(token_id=6, after=2, tokenizer=Spelled())
    )
    assert (late.completions, late.finish_reasons) == (("5 6 7", "5 6 7"), ("length", "length"))
