"""What can be seen of prompts and tokenizer at the start of every run: no model runs, no source of scores is asked, and
no random number is drawn."""

from collections.abc import Iterable, Sequence
from typing import Any

from clearppo.config import PPOConfig
from clearppo.data import PromptSet
from clearppo.data.templates import prompt_key
from clearppo.models.loading import stop_token_ids
from clearppo.train.doctor.answers import id_problems
from clearppo.train.doctor.finding import Finding, finding
from clearppo.train.doctor.prompts import duplicate_prompts, pad, prompts_length
from clearppo.train.doctor.template import chat_template

MORE = "clearppo doctor looks at answers, reward and critic, too"


def static_findings(
    config: PPOConfig, tokenizer: Any, prompts: PromptSet, model: Any, held_out: Iterable[Any] = ()
) -> list[Finding]:
    """chat_template, pad, prompts_length and duplicate_prompts of a run with this `model` (transformers'). `held_out`
    are the prompts that it is measured with."""
    sampling = config.sampling
    embedding = model.get_input_embeddings().weight
    return [
        chat_template(
            tokenizer, prompts.texts, prompts.ids, embedding=embedding, ends=not sampling.fixed_length,
            stop_ids=stop_token_ids(model, tokenizer, list(sampling.stop_token_ids)),
            stop_strings=sampling.stop_strings,
        ),
        pad(tokenizer, embedding.shape[0]),
        prompts_length(
            [len(ids) for ids in prompts.ids], left_out=prompts.n_too_long, limit=config.data.max_prompt_length,
            option="max_prompt_length", noun="prompts",
        ),
        duplicate_prompts(map(prompt_key, prompts.texts), held_out=map(prompt_key, held_out)),
    ]  # fmt: skip


def stops(config: PPOConfig, tokenizer: Any, model: Any) -> Finding:
    """eos, as far as it can be seen without an answer."""
    ids = stop_token_ids(model, tokenizer, list(config.sampling.stop_token_ids))
    problems = id_problems(ids, model.get_input_embeddings().weight.shape[0])
    words = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ids)[:4])
    return finding("eos", f"{words} ends an answer", problems, "The model knows it.")


def in_brief(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding that somebody should look at, or one line if all is well. A run that begins has been
    given its room on the disk already."""
    wrong = [found for found in findings if found.verdict != "ok"]
    fine = [*(found.name for found in findings if found.verdict == "ok"), "disk"]
    lines = [f"doctor says {found.verdict.upper()}: {found}" for found in wrong]
    if not wrong:
        return [f"doctor, in brief: {', '.join(fine)} ok; {MORE}"]
    return [*lines, f"doctor, in brief: {len(wrong)} to look at ({MORE})"]
