"""Reference samples: answers on which a reward model's scores get their mean and standard deviation."""

from collections.abc import Sequence

from clearppo.data.demonstrations import Demonstration
from clearppo.data.judgement import JudgementTemplate
from clearppo.data.templates import Text, Tokenizer
from clearppo.errors import DataError


def encode_references(
    references: Sequence[Demonstration],
    tokenizer: Tokenizer,
    template: JudgementTemplate,
    *,
    max_length: int | None,
    source: str,
) -> list[list[int]]:
    """The tokens that a reward model reads of each sample. Texts longer than `max_length` are left out.

    Of a whole conversation the last message is the answer and what stands before it the prompt.
    Raises DataError, with the place of the row, for one that cannot be read so, and if fewer than two are left.
    """
    texts: list[list[int]] = []
    for number, reference in enumerate(references, start=1):
        place = f"{source} {reference.where or f'row {number}'}"
        prompt, answer = _parts(reference, place)
        try:
            ids = template.ids(tokenizer, prompt, answer)
        except ValueError as error:
            raise DataError(f"{place} cannot be read as a reference sample: {error}. Mend the row.") from error
        if max_length is None or len(ids) <= max_length:
            texts.append(ids)
    if len(texts) < 2:
        raise DataError(
            f"{source} leaves {len(texts)} reference samples of at most {max_length} tokens, and a mean and a standard "
            "deviation need two at least. Give more rows as --reference_dataset_name, or leave it out to use all "
            "answers of the comparisons."
        )
    return texts


def _parts(reference: Demonstration, place: str) -> tuple[Text, str]:
    prompt, completion = reference.prompt, reference.completion
    if isinstance(completion, str):
        if not isinstance(prompt, str):
            raise DataError(f"{place}: the prompt is messages and the answer a string. Write both in one way.")
        return prompt, completion
    *before, last = completion
    if last["role"] != "assistant":
        raise DataError(f"{place}: the last message is the {last['role']}'s, not the assistant's answer. Mend the row.")
    return [*(prompt if not isinstance(prompt, str) else []), *before], last["content"]
