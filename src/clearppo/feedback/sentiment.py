"""Sentiment as a reward function: two word-list measures that work offline. The quickstart optimises one of them
and looks at the other."""

import functools
from collections.abc import Sequence
from typing import Any

from clearppo.errors import RewardError


def vader(completions: Sequence[Any], **_: Any) -> list[float]:
    """VADER's compound sentiment of each completion, -1 (most negative) to 1 (Hutto and Gilbert 2014)."""
    analyser = _vader()
    return [analyser.polarity_scores(_text(completion))["compound"] for completion in completions]


def textblob(completions: Sequence[Any], **_: Any) -> list[float]:
    """TextBlob's polarity of each completion, -1 to 1: another lexicon, averaged instead of summed up."""
    blob = _textblob()
    return [float(blob(_text(completion)).sentiment.polarity) for completion in completions]


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise RewardError(
            "the reward function vader needs the package vaderSentiment: pip install vaderSentiment"
        ) from error
    return SentimentIntensityAnalyzer()


@functools.cache
def _textblob() -> Any:
    try:
        from textblob import TextBlob
    except ImportError as error:
        raise RewardError("the reward function textblob needs the package textblob: pip install textblob") from error
    return TextBlob


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
