"""The judgement template: what a reward model reads of a prompt and an answer, and after which words it marks them.

A model that was taught to write is asked to judge. It does so far better after words that call for the judgement
("Overall, the answer above is") than after the answer's bare last token, where it has just been asked to go on. The
template is stored in the reward model's directory, so that whatever scores with the model reads what it was trained on.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clearppo.data.templates import Message, Text, Tokenizer, render_chat, special_prefix, with_answer
from clearppo.errors import ConfigError, ModelError

DEFAULT_TEMPLATE = "{conversation}\n\nOverall, the answer above is"
"""For models with and without a chat template. No EOS: the score is read off the last word."""

FILE = "judgement.json"
VERSION = 1
PLACEHOLDERS = ("conversation", "prompt", "answer", "eos")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_NEARLY = re.compile(rf"\{{\s*(?:{'|'.join(PLACEHOLDERS)})\b[^{{}}]*\}}")  # { answer }, {answer!r}


@dataclass(frozen=True)
class JudgementTemplate:
    """A text with placeholders, which are replaced literally and once: braces inside a prompt or an answer are text.

    {conversation}  the prompt with its answer: messages by the model's chat template, strings one after the other
    {prompt}        the prompt alone: a string as it is, messages as their contents without a chat template
    {answer}        the answer alone
    {eos}           the tokenizer's end-of-text token, for models that read their score there

    Nothing else is added but what the tokenizer puts before a text (a BOS, never two): no EOS unless {eos} is written.

    Raises ConfigError if there is neither {conversation} nor {answer}, or an unknown placeholder.
    """

    text: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        if any("\ud800" <= c <= "\udfff" for c in self.text):
            raise ConfigError(_refusal(self.text, "holds half a character (a lone surrogate)"))
        names = _PLACEHOLDER.findall(self.text)
        if unknown := next((name for name in names if name not in PLACEHOLDERS), None):
            raise ConfigError(_refusal(self.text, f"has the placeholder {{{unknown}}}, which is unknown"))
        if near := next((n[0] for n in _NEARLY.finditer(self.text) if not _PLACEHOLDER.fullmatch(n[0])), None):
            raise ConfigError(_refusal(self.text, f"has {near}, which is nearly a placeholder"))
        if "" in names:
            raise ConfigError(_refusal(self.text, "has {} without a name in it"))
        if not {"conversation", "answer"} & set(names):
            raise ConfigError(
                _refusal(self.text, "has neither {conversation} nor {answer}, so no answer would be read")
            )

    def ids(self, tokenizer: Tokenizer, prompt: Text, answer: str) -> list[int]:
        """The tokens that the reward model reads; the score is read at the last one.

        Raises ValueError, with half a sentence for the caller to complete, if {conversation} stands for messages and
        the tokenizer has no chat template or its template refuses them, or if {eos} has no token.
        """
        if isinstance(prompt, str) or "{conversation}" not in self.text:
            conversation, before = f"{prompt}{answer}", special_prefix(tokenizer)
        else:
            conversation, before = _chat(tokenizer, with_answer(prompt, answer))
        if "{eos}" in self.text and not tokenizer.eos_token:
            raise ValueError("the tokenizer has no end-of-text token for {eos}")
        values = {
            "conversation": conversation,
            "prompt": prompt if isinstance(prompt, str) else _contents(prompt),
            "answer": answer,
            "eos": tokenizer.eos_token or "",
        }
        text = _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        return ids if ids[: len(before)] == before else before + ids

    def save(self, directory: str | Path) -> None:
        """Writes judgement.json into `directory`."""
        content = {"version": VERSION, "template": self.text}
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (Path(directory) / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "JudgementTemplate | None":
        """The template in `directory`'s judgement.json; None if there is no such file.

        Raises ModelError if the file is not what `save` writes.
        """
        file = Path(directory) / FILE
        if not file.is_file():
            return None
        mend = 'It must hold {"version": 1, "template": "..."}: copy it again from the training\'s output directory.'
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{file} cannot be read as JSON. {mend}") from error
        if not isinstance(content, dict) or not isinstance(content.get("template"), str):
            raise ModelError(f"{file} holds no template. {mend}")
        if content.get("version") != VERSION:
            raise ModelError(f"{file} has version {content.get('version')!r}; this ClearPPO reads version {VERSION}.")
        try:
            return cls(content["template"])
        except ConfigError as error:
            raise ModelError(f"{file}: {error}") from error


def _chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, list[int]]:
    """The conversation by the chat template, and the special tokens before the whole text.

    The chat template says whether there is a BOS; it goes before the text, in which the conversation may stand later.
    """
    conversation = render_chat(tokenizer, messages)
    if tokenizer.bos_token and conversation.startswith(tokenizer.bos_token):
        return conversation.removeprefix(tokenizer.bos_token), [tokenizer.bos_token_id]
    return conversation, []


def _contents(messages: Sequence[Message]) -> str:
    """One message's content; several as "role: content", a blank line between them."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _refusal(text: str, problem: str) -> str:
    shown = text if len(text) <= 60 else text[:59] + "…"
    return (
        f"the judgement template {shown!r} {problem}. Write {{conversation}}, or {{prompt}} and {{answer}}, "
        "and an ending that asks for the judgement, as --judgement_template."
    )
