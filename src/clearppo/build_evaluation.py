"""Two models answer the same prompts: how far one has come from the other, by any number of measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clearppo.config import AnswerConfig
from clearppo.data import PromptSet, encode_prompts, load_rows
from clearppo.engines.local import LocalEngine, has_fast_bf16
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import Scorer
from clearppo.models.build import make_policy, make_reference
from clearppo.models.loading import (
    DTYPES,
    context_length,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
)
from clearppo.models.policy import FrozenReference, Policy
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import SamplingSettings
from clearppo.train.evaluation import Evaluation, evaluate
from clearppo.wiring import make_engine, pad_id

DECODE_BATCH = 64  # rows decoded at once; more gain nothing on a small machine
MICRO_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two models answered to the same prompts; the KL of each is from the first. Answers stand prompt after
    prompt, and then once more for each further answer."""

    prompts: PromptSet
    before: Evaluation
    after: Evaluation


def compare_models(
    before: str,
    after: str,
    *,
    prompts: str,
    functions: Mapping[str, str | Callable[..., object]],
    reward_models: Mapping[str, str],
    sampling: AnswerConfig,
    n_answers: int = 1,
    device: str = "auto",
    seed: int = 0,
) -> Comparison:
    """Sample `n_answers` answers a prompt from each model, with the same random numbers, and measure them.

    `functions` are reward functions by the name under which their scores appear, `reward_models` directories.
    Raises ClearPPOError for whatever cannot be loaded.
    """
    engine = make_engine(device)
    scorers: dict[str, Scorer] = {name: FunctionScorer(load_reward_function(f), name) for name, f in functions.items()}
    rows = load_rows(prompts)
    for name, path in reward_models.items():
        scorers[name] = RewardModelScorer.load(
            path, device=engine.device, dtype=DTYPES["float32"], batch_size=MICRO_BATCH
        )
    tokenizer = load_tokenizer(resolve_model(before))
    start = _policy(before, engine)
    settings = _settings(start, tokenizer, sampling)
    context = context_length(start.actor.causal_lm)
    room = None if context is None else context - settings.max_tokens
    prompt_set = encode_prompts(rows, tokenizer, max_prompt_length=None, room=room, source=prompts)
    batch = prompt_set.batch(list(range(len(prompt_set))) * n_answers, pad_id(tokenizer)).to(engine.device)
    reference = make_reference(start, micro_batch_size=MICRO_BATCH)

    def measured(policy: Policy) -> Evaluation:
        sampler = InProcessSampler(policy, tokenizer, settings, seed=seed)
        frozen = FrozenReference(reference.actor, policy=policy, micro_batch_size=MICRO_BATCH)
        return evaluate(policy, batch, sampler=sampler, reference=frozen, scorers=scorers)

    first = measured(start)
    return Comparison(prompts=prompt_set, before=first, after=measured(_policy(after, engine)))


def _policy(path: str, engine: LocalEngine) -> Policy:
    model = engine.wrap(load_causal_lm(resolve_model(path)))
    return make_policy(model, autocast=has_fast_bf16(engine.device))


def _settings(policy: Policy, tokenizer: Any, sampling: AnswerConfig) -> SamplingSettings:
    return SamplingSettings(
        max_tokens=sampling.response_length,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_token_ids=stop_token_ids(policy.actor.causal_lm, tokenizer, list(sampling.stop_token_ids)),
        stop_strings=tuple(sampling.stop_strings),
        max_batch_size=sampling.generation_batch_size or DECODE_BATCH,
    )
