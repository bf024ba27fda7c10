"""From what the user wrote (a string, or a list of chat messages) to token ids, for any tokenizer of transformers."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

Message = Mapping[str, Any]
Text = str | Sequence[Message]
"""A prompt as the user gave it: plain text, or messages of {"role", "content"}."""


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of a transformers tokenizer (this room does not import transformers)."""

    bos_token: Any
    bos_token_id: Any
    eos_token: Any
    eos_token_id: Any
    chat_template: Any

    def __call__(self, text: Any, **options: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def prompt_ids(tokenizer: Tokenizer, prompt: Text) -> list[int]:
    """The tokens after which the answer is to start.

    A string is tokenised as it stands, with the special tokens that the tokenizer puts around plain text, except an EOS
    at its end: an answer that follows an EOS would start a new text. Messages go through the chat template with a
    generation prompt; if the last one is the assistant's, the answer continues it.

    Raises ValueError, with half a sentence for the caller to complete, if the tokenizer has no chat template or its
    template refuses the messages.
    """
    if isinstance(prompt, str):
        return plain_ids(tokenizer, prompt, end=False)
    continues = prompt[-1]["role"] == "assistant"
    return chat_ids(tokenizer, prompt, add_generation_prompt=not continues, continue_final_message=continues)


def prompt_text(tokenizer: Tokenizer, prompt: Text) -> str:
    """The text after which the answer is to start, before it is tokenised. Raises as `prompt_ids`."""
    if isinstance(prompt, str):
        return prompt
    continues = prompt[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not continues, "continue_final_message": continues}
    return _rendered(tokenizer, prompt, tokenize=False, **options)


def answer_ids(tokenizer: Tokenizer, prompt: Text, completion: str) -> list[int]:
    """The tokens of a prompt with its answer, as a reward model reads them: the end of the text or turn included.

    A completion of messages that end in the assistant's own words belongs to that same message. Raises as `prompt_ids`.
    """
    if isinstance(prompt, str):
        return plain_ids(tokenizer, prompt + completion, end=True)
    return chat_ids(tokenizer, with_answer(prompt, completion))


def with_answer(prompt: Sequence[Message], answer: str) -> list[Message]:
    """The whole conversation: the answer as the assistant's message, or as the end of the one that it had started."""
    if prompt and prompt[-1]["role"] == "assistant":
        return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + answer}]
    return [*prompt, {"role": "assistant", "content": answer}]


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Message], **options: bool) -> list[int]:
    """The chat template's tokens for these messages, by its options. Raises as `prompt_ids`."""
    return list(_rendered(tokenizer, messages, tokenize=True, return_dict=False, **options))


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The chat template's text for a whole conversation, no generation prompt after it. Raises as `prompt_ids`."""
    return _rendered(tokenizer, messages, tokenize=False)


def special_prefix(tokenizer: Tokenizer) -> list[int]:
    """The special tokens that the tokenizer puts before plain text: none, a BOS, or BERT's [CLS]."""
    bare = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    whole = list(tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"])
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return whole[: next(starts, 0)]


def prompt_key(prompt: Text) -> Hashable:
    """A prompt as something that can be compared and counted."""
    return prompt if isinstance(prompt, str) else tuple((message["role"], message["content"]) for message in prompt)


def plain_ids(tokenizer: Tokenizer, text: str, *, end: bool) -> list[int]:
    """Plain text with the special tokens that the tokenizer adds around it; without the EOS it adds if not `end`."""
    # verbose=False: lengths are checked by the callers, with an error that names the row.
    ids = list(tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])
    if end or not ids or ids[-1] != tokenizer.eos_token_id:
        return ids
    # Only what the tokenizer added: an EOS that the user wrote at the end of the text stays.
    written = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    added = _trailing(ids, tokenizer.eos_token_id) - _trailing(written, tokenizer.eos_token_id)
    return ids[: len(ids) - added]


def _trailing(ids: list[int], token: int) -> int:
    count = 0
    while count < len(ids) and ids[-1 - count] == token:
        count += 1
    return count


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message], **options: bool) -> Any:
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template")
    try:
        conversation = [dict(message) for message in messages]
        return tokenizer.apply_chat_template(conversation, **options)
    except Exception as error:  # a template may raise anything: it is a program that came with the model
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"the chat template refuses its messages ({reason[0].rstrip('.')[:200]})") from error
