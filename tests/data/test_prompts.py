"""Encoding and batching: nothing is cut, masks come from lengths, every epoch has every prompt once."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.data import PromptSet, encode_prompts, prompt_batches
from clearppo.errors import ConfigError, DataError
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def encode(rows: list[dict[str, Any]], max_prompt_length: int | None = None, room: int | None = None) -> PromptSet:
    return encode_prompts(rows, TOKENIZER, max_prompt_length=max_prompt_length, room=room, source="p.jsonl")


def made(lengths: list[int]) -> PromptSet:
    """Prompt i is `lengths[i]` times the token 10 + i."""
    ids = tuple((10 + i,) * length for i, length in enumerate(lengths))
    return PromptSet(
        ids=ids,
        texts=tuple(f"p{i}" for i in range(len(ids))),
        columns={"index": tuple(range(len(ids)))},
        n_too_long=0,
        longest=max(lengths, default=0),
    )


def refused(kind: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        encode(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def z(count: int) -> dict[str, Any]:
    """A prompt of exactly `count` tokens: "z" is in no merge."""
    return {"prompt": "z" * count}


# --------------------------------------------------------------------------------------------- encoding


def test_texts_columns_and_tokens() -> None:
    messages = [{"role": "user", "content": "hi"}]
    prompts = encode([{"prompt": "The film", "label": 1}, {"prompt": messages, "topic": "x"}])
    assert [TOKENIZER.decode(list(ids)) for ids in prompts.ids] == ["The film", "<|user|>\nhi<eos>\n<|assistant|>\n"]
    assert prompts.texts == ("The film", messages)
    assert prompts.columns == {"label": (1, None), "topic": (None, "x")}
    assert (len(prompts), prompts.n_too_long, prompts.longest) == (2, 0, max(map(len, prompts.ids)))


def test_long_prompts_are_left_out_and_counted() -> None:
    rows = [{**z(length), "n": length} for length in (3, 9, 4, 5, 7)]
    prompts = encode(rows, max_prompt_length=5, room=8)
    assert [len(ids) for ids in prompts.ids] == [3, 4, 5]
    assert prompts.texts == ("zzz", "zzzz", "zzzzz")
    assert prompts.columns == {"n": (3, 4, 5)}
    assert (prompts.n_too_long, prompts.longest) == (2, 9)


def test_without_a_limit_everything_is_kept() -> None:
    assert [len(ids) for ids in encode([z(3), z(900)]).ids] == [3, 900]
    assert [len(ids) for ids in encode([z(3), z(8)], room=8).ids] == [3, 8]


def test_a_prompt_longer_than_the_room() -> None:
    message = refused(DataError, [z(8), z(9)], room=8)
    assert "p.jsonl row 2: its prompt is 9 tokens long" in message
    assert "room for 8" in message
    assert "--max_prompt_length 8" in message
    assert "--response_length" in message


def test_all_prompts_too_long() -> None:
    message = refused(DataError, [z(8), z(9)], max_prompt_length=7)
    assert "all 2 prompts of p.jsonl are longer than max_prompt_length = 7 tokens (the longest has 9)" in message


def test_lengths_that_contradict() -> None:
    message = refused(ConfigError, [z(1)], max_prompt_length=9, room=8)
    assert "max_prompt_length = 9 is more than the 8 tokens" in message
    assert "--max_prompt_length 8" in message
    assert encode([z(1)], max_prompt_length=8, room=8).ids == ((TOKENIZER("z")["input_ids"][0],),)
    assert "max_prompt_length = 0" in refused(ConfigError, [z(1)], max_prompt_length=0)
    assert "leaves no room for a prompt: context_length - response_length = 0" in refused(ConfigError, [z(1)], room=0)


def test_no_rows_and_bad_rows() -> None:
    assert "p.jsonl holds no prompts" in refused(DataError, [])
    assert "p.jsonl row 2: no `prompt` (columns seen: text)" in refused(DataError, [z(1), {"text": "a"}])
    assert "row 1: `prompt` is a number" in refused(DataError, [{"prompt": 3}])
    with pytest.raises(DataError, match="no prompts"):
        made([])


def test_a_prompt_without_tokens() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Strip()
    with pytest.raises(DataError, match=r"p row 1: its prompt encodes to no token at all"):
        encode_prompts([{"prompt": "  "}], tokenizer, max_prompt_length=None, room=None, source="p")


def test_a_template_that_is_missing_or_refuses() -> None:
    rows = [{"prompt": [{"role": "user", "content": "hi"}]}]
    with pytest.raises(DataError, match=r"p row 1: the tokenizer has no chat template\. Use a model"):
        encode_prompts(rows, tiny_tokenizer(chat=False), max_prompt_length=None, room=None, source="p")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"p row 1: the chat template refuses its messages \(roles must alternate\)"):
        encode_prompts(rows, tokenizer, max_prompt_length=None, room=None, source="p")


# --------------------------------------------------------------------------------------------- batches


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data(), st.integers(0, 20))
def test_left_padding(lengths: list[int], data: st.DataObject, pad_id: int) -> None:
    """Whatever the padding id is, even one that a prompt contains, the mask tells prompt from padding."""
    prompts = made(lengths)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    batch = prompts.batch(indices, pad_id)
    width = max(lengths[i] for i in indices)
    assert batch.ids.shape == batch.mask.shape == (len(indices), width)
    for row, i in enumerate(indices):
        empty = width - lengths[i]
        assert batch.ids[row].tolist() == [pad_id] * empty + list(prompts.ids[i])
        assert batch.mask[row].tolist() == [False] * empty + [True] * lengths[i]
    assert batch.texts == tuple(f"p{i}" for i in indices)
    assert batch.columns == {"index": tuple(indices)}


def indices_of(prompts: PromptSet, batch_size: int, n_batches: int, seed: int) -> list[tuple[int, ...]]:
    return [tuple(b.columns["index"]) for b in prompt_batches(prompts, batch_size, n_batches, seed, pad_id=0)]


@given(st.integers(1, 7), st.integers(1, 20), st.integers(0, 8), st.integers(0, 2**40))
def test_every_epoch_has_every_prompt_once(size: int, batch_size: int, n_batches: int, seed: int) -> None:
    batches = indices_of(made([1] * size), batch_size, n_batches, seed)
    assert [len(batch) for batch in batches] == [batch_size] * n_batches
    sequence = [i for batch in batches for i in batch]
    for start in range(0, len(sequence), size):
        epoch = sequence[start : start + size]
        assert len(set(epoch)) == len(epoch)
    assert all(sorted(sequence[s : s + size]) == list(range(size)) for s in range(0, len(sequence) - size + 1, size))


@given(st.integers(0, 2**40), st.integers(1, 9))
def test_the_order_is_the_seeds_alone(seed: int, batch_size: int) -> None:
    prompts = made([1] * 10)
    first = indices_of(prompts, batch_size, 6, seed)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert indices_of(prompts, batch_size, 6, seed) == first
    assert torch.equal(torch.random.get_rng_state(), before)
    one_by_one = [i for batch in indices_of(prompts, 1, 6 * batch_size, seed) for i in batch]
    assert [i for batch in first for i in batch] == one_by_one


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(0, 2**40))
def test_answers_to_one_prompt_are_adjacent(size: int, n_prompts: int, group: int, n_batches: int, seed: int) -> None:
    """The same prompts in the same order as with one answer each, every row as often as asked for."""
    prompts = made([i % 3 + 1 for i in range(size)])
    batches = list(prompt_batches(prompts, n_prompts * group, n_batches, seed, 0, num_generations=group))
    single = indices_of(prompts, n_prompts, n_batches, seed)
    assert [tuple(b.columns["index"]) for b in batches] == [tuple(i for i in b for _ in range(group)) for b in single]
    for batch in batches:
        assert len(batch) == n_prompts * group
        for first in range(0, len(batch), group):
            for row in range(first, first + group):
                assert batch.texts[row] == batch.texts[first]
                assert torch.equal(batch.ids[row], batch.ids[first])
                assert torch.equal(batch.mask[row], batch.mask[first])


@pytest.mark.parametrize("group", [3, 16, 0, -2])
def test_answers_that_do_not_fill_a_batch(group: int) -> None:
    """At once, not when the first batch is asked for."""
    with pytest.raises(ConfigError, match=f"num_generations = {group} does not divide batch_size = 8"):
        prompt_batches(made([1]), 8, 1, 0, 0, num_generations=group)


def test_seeds_and_epochs_differ() -> None:
    prompts = made([1] * 50)
    orders = [indices_of(prompts, 50, 2, seed) for seed in (0, 1)]
    assert len({orders[0][0], orders[0][1], orders[1][0], orders[1][1]}) == 4
