"""Tokenizers and models small enough to be built inside a test: no network, the same weights for the same seed.

They are untrained, but their initialisation is wide enough that logits and scores differ visibly between tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from clearppo.batch import Prompts, Rollout

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen2", "mistral")

EOS = "<eos>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SENTENCES = (
    "The film was a delight, and the actors were wonderful.",
    "The plot was dull and the ending was bad.",
    "I think that this is good: the food, the music and the people.",
    "What do you say to the dog that is here? It is a happy dog!",
)


def tiny_tokenizer(
    *,
    pad: str | None = EOS,
    eos: str | None = EOS,
    chat: bool = True,
    bos: bool = False,
    adds_eos: bool = False,
    vocab_size: int = 160,
) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of about `vocab_size` tokens that gives any ASCII text back exactly; others become <unk>.

    Padding is the EOS unless `pad` is "<pad>" or None. `bos` puts <bos> before plain text, `adds_eos` an EOS after it.
    """
    special = ["<unk>", EOS, "<pad>", "<bos>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ascii_letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # ByteLevel's spelling of " " and "\n"
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=ascii_letters, show_progress=False
        ),
    )
    if bos or adds_eos:
        around = f"{'<bos> ' if bos else ''}$A{f' {EOS}' if adds_eos else ''}"
        used = [(token, tokenizer.token_to_id(token)) for token in ("<bos>", EOS)]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token=eos,
        pad_token=pad,
        bos_token="<bos>" if bos else None,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def tiny_config(
    family: str, tokenizer: PreTrainedTokenizerFast, *, context: int = 128, **more: Any
) -> PreTrainedConfig:
    """Two layers of 32 hidden units. Mistral sees 8 tokens back. `more` overrides what the family's config knows."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family != "gpt2":
        sizes["intermediate_size"] = 48
    if family in ("llama", "qwen2", "mistral"):
        sizes["num_key_value_heads"] = 2
    if family == "mistral":
        sizes["sliding_window"] = 8
    return AutoConfig.for_model(family, **{**sizes, **more})


def tiny_causal_lm(
    directory: str | Path,
    *,
    family: str = "llama",
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    context: int = 128,
    **more: Any,
) -> str:
    """Saves a causal language model with its tokenizer to `directory`, and returns it as a string."""
    return _save(AutoModelForCausalLM, directory, family, seed, tokenizer, dtype, context, more)


def tiny_reward_model(
    directory: str | Path,
    *,
    family: str = "llama",
    seed: int = 1,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    context: int = 128,
    num_labels: int = 1,
    **more: Any,
) -> str:
    """Saves a sequence classifier with its tokenizer to `directory`, and returns it as a string."""
    more = {"num_labels": num_labels, **more}
    return _save(AutoModelForSequenceClassification, directory, family, seed, tokenizer, dtype, context, more)


def _save(
    kind: Any,
    directory: str | Path,
    family: str,
    seed: int,
    tokenizer: PreTrainedTokenizerFast | None,
    dtype: torch.dtype,
    context: int,
    more: dict[str, Any],
) -> str:
    tokenizer = tokenizer or tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(tiny_config(family, tokenizer, context=context, **more))
    model.to(dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def tiny_rollout(
    texts: Sequence[Any],
    completions: Sequence[str],
    *,
    columns: dict[str, Sequence[Any]] | None = None,
    lengths: Sequence[int] | None = None,
    finish_reasons: Sequence[str] | None = None,
    seed: int = 0,
) -> Rollout:
    """A rollout with these texts; its numbers are random (prompt ids of 3 tokens, log-probs below 0, values).

    `lengths` are the response lengths in tokens (default: 1, 2, 3, ...); masked cells hold 0.
    """
    B = len(texts)
    lengths = list(lengths) if lengths is not None else list(range(1, B + 1))
    T = max(lengths)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(seed)

    def numbers() -> torch.Tensor:
        return torch.rand((B, T), generator=generator).masked_fill(~mask, 0.0)

    old_log_probs = -numbers()
    return Rollout(
        prompts=Prompts(
            ids=torch.randint(2, 100, (B, 3), generator=generator),
            mask=torch.ones((B, 3), dtype=torch.bool),
            texts=tuple(texts),
            columns={name: tuple(column) for name, column in (columns or {}).items()},
        ),
        responses=torch.randint(2, 100, (B, T), generator=generator).masked_fill(~mask, 0),
        mask=mask,
        old_log_probs=old_log_probs,
        old_values=numbers(),
        sampler_log_probs=old_log_probs.clone(),
        finish_reasons=tuple(finish_reasons or ["stop"] * B),
        completions=tuple(completions),
        temperature=1.0,
        policy_version=0,
    )
