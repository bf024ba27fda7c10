"""Templates and tokenizers that belong to a model, and those that do not."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from clearppo.data.templates import prompt_ids
from clearppo.train.doctor.finding import Finding
from clearppo.train.doctor.judge_model import reward_tokenizer
from clearppo.train.doctor.spellings import _WORDS, word_spellings
from clearppo.train.doctor.template import chat_template, evenly
from tests.planted.models import foreign_tokenizer
from tests.tiny import EOS, tiny_tokenizer

USER = [{"role": "user", "content": "What do you say?"}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
)


def checked(tokenizer: Any, *texts: Any, vocabulary: int = 160, **more: Any) -> Finding:
    ids = [prompt_ids(tokenizer, text) for text in texts]
    stops = {"stop_ids": frozenset([tokenizer.eos_token_id]), **more}
    return chat_template(tokenizer, texts, ids, embedding=torch.zeros(vocabulary, 4), **stops)


def with_template(template: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_fits() -> None:
    found = checked(tiny_tokenizer(), USER)
    assert found.verdict == "ok"
    assert found.measured == "messages; 1 of 1 prompts come back exactly from their tokens"


@pytest.mark.parametrize(
    ("template", "verdict", "words"),
    [
        (CHATML, "stop", "<|im_start|> into"),
        (TINY.replace("<eos>", "</done>"), "stop", "'</done>'"),  # ends nothing, and falls apart
        (TINY.partition("{% if")[0], "stop", "'<|assistant|>'"),
        (TINY.replace("{{ m['content'] }}", ""), "stop", "leaves out what the user says"),
        (TINY.replace("<eos>", "<pad>"), "look", "--stop_token_ids 2"),
        (TINY.replace("<|assistant|>", "Answer: [ANSWER]"), "stop", "[ANSWER] into"),
    ],
)
def test_templates_of_others(template: str, verdict: str, words: str) -> None:
    found = checked(with_template(template), USER)
    assert found.verdict == verdict
    assert words in f"{found.reason} {found.mend}"


def test_a_word_that_falls_apart_is_only_looked_at_where_the_model_has_none_of_its_own() -> None:
    tokenizer = with_template(MISTRAL)
    assert checked(tokenizer, USER).verdict == "stop"  # it has <|user|>, and does not use it
    tokenizer.get_added_vocab = lambda: {EOS: 1}
    assert checked(tokenizer, USER, ends=False).verdict == "look"


def test_other_ends_of_a_turn() -> None:
    other = with_template(TINY.replace("<eos>", "<pad>"))
    assert checked(other, USER, stop_ids=frozenset([2])).verdict == "ok"
    assert checked(other, USER, stop_strings=("<pad>",)).verdict == "ok"
    assert checked(other, USER, ends=False).verdict == "ok"


def test_a_template_that_writes_no_more_before_an_answer_needs_no_generation_prompt() -> None:
    template = MISTRAL.replace("[INST]", "<|user|>").replace("[/INST]", "<|assistant|>")
    assert checked(with_template(template), USER).verdict == "ok"


def test_the_system_is_left_out() -> None:
    template = "{% for m in messages %}{% if m['role'] != 'system' %}" + TINY.partition("%}")[2].replace(
        "{% endfor %}", "{% endif %}{% endfor %}"
    )
    found = checked(with_template(template), [{"role": "system", "content": "Be kind."}, *USER])
    assert found.verdict == "look"
    assert "what the system says" in found.reason


def test_plain_prompts() -> None:
    tokenizer = tiny_tokenizer()
    assert checked(tokenizer, "The film was", "It is a").verdict == "ok"
    order = checked(tokenizer, "What do you say?", "The food is good.", "The film was")
    assert order.verdict == "look"
    assert "2 of 3 prompts end like a question" in order.reason
    assert checked(tiny_tokenizer(chat=False), "What do you say?").verdict == "ok"
    rendered = checked(tokenizer, "<|im_start|>user\nWhat do you say?<|im_end|>")
    assert rendered.verdict == "stop"


def test_what_is_lost() -> None:
    found = checked(tiny_tokenizer(), "Что это?")
    assert found.verdict == "stop"
    assert "<unk>" in found.reason
    assert checked(tiny_tokenizer(), *["The film was good, I think that it is"] * 9, "It is a дog").verdict == "look"


def test_twice_begun() -> None:
    tokenizer = tiny_tokenizer(bos=True, chat=False)
    assert checked(tokenizer, "The film was").verdict == "ok"
    assert "twice" in checked(tokenizer, "<bos>The film was").reason


def test_tokens_that_the_model_does_not_have() -> None:
    assert "the model knows 20" in checked(tiny_tokenizer(), "The film was", vocabulary=20).reason


def test_evenly() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(1000, 3) == [0, 333, 666]


# ------------------------------------------------------------------------------------------------ whose tokenizer it is


def word_tokenizer(order: torch.Tensor | None = None) -> PreTrainedTokenizerFast:
    """Knows every word in two spellings; `order` gives them other numbers."""
    words = ["<unk>", "<eos>", *dict.fromkeys(spelling for word in _WORDS.split() for spelling in (word, word.title()))]
    numbers = list(range(len(words))) if order is None else order.tolist()
    whole = Tokenizer(models.WordLevel(dict(zip(words, numbers, strict=True)), unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>", eos_token="<eos>")


def trained_embedding(size: int) -> torch.Tensor:
    """Two spellings of a word next to each other: a direction a word, and some noise."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn((size // 2 + 1, 16), generator=generator).repeat_interleave(2, dim=0)[:size]
    return words + 0.5 * torch.randn(words.shape, generator=generator)


class Judge:
    name = "rm"

    def __init__(self, tokenizer: Any, embedding: torch.Tensor, context: int = 128) -> None:
        rows, width = embedding.shape
        self.tokenizer = tokenizer
        self.model = LlamaModel(
            LlamaConfig(
                vocab_size=rows, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                max_position_embeddings=context,
            )
        )  # fmt: skip
        self.model.set_input_embeddings(torch.nn.Embedding.from_pretrained(embedding))

    def encoded(self, prompts: Any, completions: Any) -> list[list[int]]:
        return [self.tokenizer(p + c)["input_ids"] for p, c in zip(prompts, completions, strict=True)]


def looked_at(judge: Judge, policy: Judge) -> Finding:
    return reward_tokenizer(
        judge, policy.tokenizer, policy.model, ["the good year", "what time"], [" life", " day"],
        longest="the good year and the next", response_length=4,
    )  # fmt: skip


def test_two_spellings_of_a_word() -> None:
    own = word_tokenizer()
    size = len(own)
    seen = word_spellings(own, trained_embedding(size))
    assert seen is not None
    assert seen.n > 100
    assert seen.related > 0.6
    assert abs(seen.unrelated) < 0.1
    other = word_spellings(word_tokenizer(torch.randperm(size, generator=torch.Generator().manual_seed(1))),
                           trained_embedding(size))  # fmt: skip
    assert other is not None
    assert abs(other.certain) < 4
    assert word_spellings(tiny_tokenizer(), torch.zeros(160, 4)) is None


def test_a_reward_model_with_its_own_tokenizer_and_with_anothers() -> None:
    own = word_tokenizer()
    size = len(own)
    policy = Judge(own, torch.randn((size, 16), generator=torch.Generator().manual_seed(5)))
    assert looked_at(Judge(own, trained_embedding(size)), policy).verdict == "ok"
    other = word_tokenizer(torch.randperm(size, generator=torch.Generator().manual_seed(1)))
    found = looked_at(Judge(other, trained_embedding(size)), policy)
    assert found.verdict == "stop"
    assert "trained with another tokenizer" in found.reason
    beyond = looked_at(Judge(own, trained_embedding(size)[:100]), policy)
    assert beyond.verdict == "stop"
    assert "100 rows" in beyond.reason
    assert looked_at(Judge(own, trained_embedding(2 * size)), policy).verdict == "look"


def test_a_reward_model_that_grew_from_the_policy() -> None:
    """No word is spelled twice here, so that only the policy's own rows can tell."""
    policy = Judge(tiny_tokenizer(), trained_embedding(160))
    near = trained_embedding(160) + 0.01
    assert looked_at(Judge(tiny_tokenizer(), near), policy).verdict == "ok"
    others = foreign_tokenizer(len(tiny_tokenizer()))
    found = looked_at(Judge(others, near), policy)
    assert found.verdict == "stop"
    assert "Its embedding is the policy's own" in found.reason


def test_a_reward_model_that_cannot_read_the_longest_prompt() -> None:
    own = word_tokenizer()
    policy = Judge(own, torch.randn((len(own), 8)))
    assert "it reads 9" in looked_at(Judge(own, trained_embedding(len(own)), context=9), policy).reason
    assert looked_at(Judge(own, trained_embedding(len(own)), context=10), policy).verdict == "ok"
