"""Prompts: reading files and hub data sets, chat templates, tokenising, and batches in a seeded order."""

from clearppo.data.prompts import PromptSet, encode_prompts, load_rows, prompt_batches

__all__ = ["PromptSet", "encode_prompts", "load_rows", "prompt_batches"]
