"""chat_template: whether prompts come to the model in the form that it knows, and nothing of them gets lost."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clearppo.data.templates import prompt_text, render_chat, with_answer
from clearppo.train.doctor.finding import Finding, Problem, finding
from clearppo.train.doctor.spellings import strangers

N_READ = 32
"""So many prompts are rendered and read again, evenly over the set."""
N_SEARCHED = 4096
"""So many rows are searched for tokens that the model does not know."""
PROBE = "QZXPROBE"
_WORD = re.compile(
    r"<[|｜][^|｜<>\s]{1,40}[|｜]>|</?(?:s|bos|eos|[a-z]+(?:_[a-z]+)+)>|\[/?[A-Z_]{3,20}\]|<</?[A-Z]{2,9}>>"
)
_TURN = re.compile(r"im_start|im_end|start_of_turn|end_of_turn|header_id|eot|INST|user|assistant|system", re.IGNORECASE)
_ORDER = tuple(".?!。？！")
UNKNOWN_SHARE = 0.1
BELONGS = "Give the model the tokenizer that it was trained with."


def chat_template(
    tokenizer: Any,
    texts: Sequence[Any],
    ids: Sequence[Sequence[int]],
    *,
    embedding: Tensor,
    stop_ids: frozenset[int],
    stop_strings: Sequence[str] = (),
    ends: bool = True,
) -> Finding:
    """The prompts `texts` and the `ids` that the policy reads, through its `embedding` [V, H]. `ends` says that an
    answer may end before its full length, with one of these stops."""
    chosen = evenly(len(texts), N_READ)
    shown = [texts[i] for i in chosen]
    problems = out_of_range(tokenizer, ids, embedding.shape[0])
    spelled, wrong = strangers(tokenizer, embedding, BELONGS)
    problems += wrong
    exact, lost = _round_trip(tokenizer, shown, [ids[i] for i in chosen])
    problems += lost
    chats = [text for text in shown if not isinstance(text, str)]
    problems += _doubled_start(tokenizer, ids)
    problems += strange_words(tokenizer, [prompt_text(tokenizer, text) for text in shown], chat=bool(chats))
    said = f"{exact} of {len(shown)} prompts come back exactly from their tokens"
    said += f"; {spelled}" if spelled else ""
    if not chats:
        return finding(
            "chat_template", f"plain text; {said}", problems + _plain(tokenizer, shown), "No template is used."
        )
    problems += [problem for messages in chats for problem in _conversation(tokenizer, messages)]
    if ends:
        problems += _end_of_turn(tokenizer, chats, stop_ids, stop_strings)
    fine = "The template says whose turn it is, and every word of its own is one token."
    return finding("chat_template", f"messages; {said}", problems, fine)


def evenly(size: int, count: int) -> list[int]:
    """At most `count` places of `size`, evenly over all."""
    return sorted({i * size // count for i in range(count)}) if size > count else list(range(size))


def out_of_range(tokenizer: Any, ids: Sequence[Sequence[int]], vocabulary: int) -> list[Problem]:
    """Tokens that the model does not know."""
    largest = max(max(ids[i]) for i in evenly(len(ids), N_SEARCHED))
    if largest < vocabulary:
        return []
    return [
        Problem(
            "stop",
            f"The tokenizer writes token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), and the model knows "
            f"{vocabulary}.",
            BELONGS,
        )
    ]


def strange_words(tokenizer: Any, rendered: Sequence[str], *, chat: bool, whose: str = "the model") -> list[Problem]:
    """Words that look like a template's own and fall apart into several tokens: a template of another model. Of plain
    text they count where most prompts have them."""
    counts: dict[str, int] = {}
    for text in rendered:
        for word in set(_WORD.findall(text)):
            counts[word] = counts.get(word, 0) + 1
    needed = 1 if chat else len(rendered) / 2
    pieces = {word: len(_plain_ids(tokenizer, word)) for word, count in counts.items() if count >= needed}
    broken = {word: n for word, n in pieces.items() if n > 1}
    if not broken:
        return []
    listed = ", ".join(f"{word} into {n}" for word, n in sorted(broken.items())[:4])
    unused = [
        word for word in tokenizer.get_added_vocab() if _TURN.search(word) and not any(word in t for t in rendered)
    ]
    if unused:
        return [
            Problem(
                "stop",
                f"Words of the template fall apart into several tokens ({listed}), while {whose} has words of its own "
                f"for turns, which are not used ({', '.join(sorted(unused)[:3])}): the template is another model's.",
                "Put this model's own chat_template into its tokenizer_config.json (or chat_template.jinja).",
            )
        ]
    return [
        Problem(
            "look",
            f"Words of the template fall apart into several tokens ({listed}): right only if {whose} was trained on "
            "them so.",
            "Compare the template with the model's card, or fine-tune on this template with clearppo sft.",
        )
    ]


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _round_trip(tokenizer: Any, texts: Sequence[Any], ids: Sequence[Sequence[int]]) -> tuple[int, list[Problem]]:
    """How many prompts come back, and what is wrong if some do not."""
    exact = sum(
        _bare(prompt_text(tokenizer, text)) in _bare(tokenizer.decode(row, skip_special_tokens=False))
        for text, row in zip(texts, ids, strict=True)
    )
    problems = unknown_tokens(tokenizer, ids)
    if problems or exact == len(texts):
        return exact, problems
    reason = f"{len(texts) - exact} of {len(texts)} prompts read back from their tokens differ from what was written."
    return exact, [
        Problem("look", reason, "Look whether the tokenizer belongs to this model, and lowercases or drops signs.")
    ]


def unknown_tokens(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[Problem]:
    """Signs that the tokenizer has no token for."""
    token = tokenizer.unk_token_id
    count = sum(list(row).count(token) for row in ids)
    if token is None or token == tokenizer.eos_token_id or not count:
        return []
    share = count / sum(map(len, ids))
    reason = f"{share:.1%} of the tokens are {tokenizer.unk_token}: the tokenizer has none for what stands there."
    verdict = "stop" if share > UNKNOWN_SHARE else "look"
    return [Problem(verdict, reason, "Use a model whose tokenizer knows this language and these signs.")]


def _bare(text: str) -> str:
    """Without blanks, case and spellings of one sign: tokenizers may normalise these."""
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()


def _doubled_start(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[Problem]:
    start = tokenizer.bos_token_id
    twice = sum(len(row) > 1 and row[0] == row[1] == start for row in ids) if start is not None else 0
    if not twice:
        return []
    return [
        Problem(
            "look",
            f"{twice} prompts begin with {tokenizer.bos_token} twice, which the model has never seen.",
            f"Leave {tokenizer.bos_token} out of the prompts: the tokenizer puts it there.",
        )
    ]


def _plain(tokenizer: Any, texts: Sequence[str]) -> list[Problem]:
    orders = sum(text.rstrip().endswith(_ORDER) for text in texts)
    if not tokenizer.chat_template or orders <= len(texts) / 2 or any(_WORD.search(text) for text in texts):
        return []
    return [
        Problem(
            "look",
            f"{orders} of {len(texts)} prompts end like a question or an order, as plain text, and the model has a "
            "chat template: it will go on with the text rather than answer.",
            'Write the prompts as [{"role": "user", "content": "..."}], if the model was trained to chat.',
        )
    ]


def _conversation(tokenizer: Any, messages: Sequence[Any]) -> list[Problem]:
    """One prompt of messages: whether all is said, and the answer asked for."""
    text = prompt_text(tokenizer, messages)
    missing = [message["role"] for message in messages if message["content"].strip() not in text]
    if missing:
        verdict = "stop" if "user" in missing else "look"
        reason = f"The template leaves out what the {missing[0]} says."
        return [
            Problem(verdict, reason, "Use a template that writes the messages of every role that the prompts have.")
        ]
    last = messages[-1]
    if last["role"] == "assistant" or render_chat(tokenizer, messages) != text:
        return []
    # The same with and without a generation prompt: fine only if nothing else stands before an answer.
    whole = render_chat(tokenizer, with_answer(messages, PROBE))
    before = whole[: whole.find(PROBE)] if PROBE in whole else ""
    left_out = before.removeprefix(text).strip() if before.startswith(text) else ""
    if not left_out:
        return []
    return [
        Problem(
            "stop",
            f"The template adds no generation prompt: before every answer stands {left_out!r}, and a prompt ends "
            "without it, so the model would have to write it itself.",
            "Give the template an {% if add_generation_prompt %} part that writes it.",
        )
    ]


def _end_of_turn(
    tokenizer: Any, chats: Sequence[Sequence[Any]], stop_ids: frozenset[int], stop_strings: Sequence[str]
) -> list[Problem]:
    """What the template writes after an answer must end one."""
    asked = [messages for messages in chats if messages[-1]["role"] != "assistant"]
    if not asked:
        return []
    whole = render_chat(tokenizer, with_answer(asked[0], PROBE))
    after = whole.partition(PROBE)[2]
    ids = _plain_ids(tokenizer, after)
    if not after.strip() or stop_ids & set(ids) or any(text in after for text in stop_strings):
        return []
    word, first = after.strip().split()[0], _plain_ids(tokenizer, after.strip())
    if len(_plain_ids(tokenizer, word)) > 1:
        return [
            Problem(
                "stop",
                f"The template ends an answer with {word!r}, which is several tokens here and ends "
                "nothing: the template is another model's, or its words were never added to the tokenizer.",
                "Use the template that this model was trained with.",
            )
        ]
    ends = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(stop_ids))
    return [
        Problem(
            "look",
            f"The template ends an answer with {word!r}, and only {ends} ends one here: answers may run on past their "
            "turn.",
            f"Add --stop_token_ids {first[0]}.",
        )
    ]
