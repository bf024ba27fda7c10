"""A reward function for a process of its own."""

import random


def by_words(prompts, completions, bonus, **columns):
    """Words and a bonus, and a random number that is too small to be seen, and must not differ from call to call."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [len(text.split()) + extra + 1e-6 * random.random() for text, extra in zip(texts, bonus, strict=True)]
