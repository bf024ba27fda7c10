"""Prompts, demonstrations and comparisons: reading, chat templates, tokenising, and batches in a seeded order."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearppo.data.batching import length_grouped, split_off
    from clearppo.data.comparison_formats import Comparison
    from clearppo.data.comparisons import (
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

_HOMES = {
    "batching": ("length_grouped", "split_off"),
    "comparison_formats": ("Comparison",),
    "comparisons": (
        "ComparisonBatch", "ComparisonSet", "encode_comparisons", "load_comparisons", "split_comparisons",
    ),
    "demonstrations": (
        "Demonstration", "SequenceSet", "encode_demonstrations", "load_demonstrations", "split_demonstrations",
    ),
    "judgement": ("DEFAULT_TEMPLATE", "JudgementTemplate"),
    "prompts": ("PromptSet", "encode_prompts", "load_rows", "prompt_batches", "split_prompts"),
    "templates": ("prompt_key",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `clearppo label` reads rows and must not wait for torch."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'clearppo.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"clearppo.data.{home}"), name)
