"""Prompts, demonstrations and comparisons: reading, chat templates, tokenising, and batches in a seeded order."""

from clearppo.data.batching import length_grouped, split_off
from clearppo.data.comparisons import (
    Comparison,
    ComparisonBatch,
    ComparisonSet,
    encode_comparisons,
    load_comparisons,
    split_comparisons,
)
from clearppo.data.demonstrations import (
    Demonstration,
    SequenceSet,
    encode_demonstrations,
    load_demonstrations,
    split_demonstrations,
)
from clearppo.data.judgement import DEFAULT_TEMPLATE, JudgementTemplate
from clearppo.data.prompts import PromptSet, encode_prompts, load_rows, prompt_batches, split_prompts
from clearppo.data.templates import prompt_key

__all__ = [
    "DEFAULT_TEMPLATE",
    "Comparison",
    "ComparisonBatch",
    "ComparisonSet",
    "Demonstration",
    "JudgementTemplate",
    "PromptSet",
    "SequenceSet",
    "encode_comparisons",
    "encode_demonstrations",
    "encode_prompts",
    "length_grouped",
    "load_comparisons",
    "load_demonstrations",
    "load_rows",
    "prompt_batches",
    "prompt_key",
    "split_comparisons",
    "split_demonstrations",
    "split_off",
    "split_prompts",
]
