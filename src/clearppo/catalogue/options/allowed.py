"""What an option allows, and when it has an effect, in Chinese: the English of config/kinds.py, phrase by phrase."""

import re

_PHRASES = (
    (r"auto, or the directory of a checkpoint", "auto，或一个检查点的目录"),
    (r"a list of alarm=action, such as (\S+)", r"一串 alarm=action，如 \1"),
    (r"a list of http or https addresses", "一串 http 或 https 网址"),
    (r"a list of (?:whole numbers)", "一串整数"),
    (r"a list of numbers", "一串数"),
    (r"a list of text", "一串文本"),
    (r"a list of ", "一串 "),
    (r"one of (.+?)(?=, or none|$)", r"\1 之一"),
    (r"a whole number", "整数"),
    (r"a number", "数"),
    (r"text that is not empty", "不为空的文本"),
    (r"\btext\b", "文本"),
    (r" of at least (\S+?)(?=[, ]|$)", r" ≥ \1"),
    (r" above (\S+?)(?=[, ]|$)", r" > \1"),
    (r" and at most (\S+?)(?=[, ]|$)", r"，≤ \1"),
    (r" and below (\S+?)(?=[, ]|$)", r"，< \1"),
    (r", or ", "，或 "),
    (r" or ", " 或 "),
    (r" and ", "，且 "),
)


def in_chinese(words: str) -> str:
    """The same in Chinese; names, numbers and choices stay."""
    for english, chinese in _PHRASES:
        words = re.sub(english, chinese, words)
    return words
