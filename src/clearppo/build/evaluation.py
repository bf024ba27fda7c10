"""Two models answer the same prompts: how far one has come from the other, by any number of measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from clearppo.build.common import DECODE_BATCH, load_policy, make_engine, pad_id, room_for_prompts, sampling_settings
from clearppo.config import AnswerConfig
from clearppo.data import PromptSet, encode_prompts, load_rows
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import Scorer
from clearppo.models.build import make_reference
from clearppo.models.loading import load_tokenizer, resolve_model
from clearppo.models.policy import FrozenReference, Policy
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.train.evaluation import Evaluation, evaluate

MICRO_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
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
) -> ModelComparison:
    """Sample `n_answers` answers a prompt from each model, with the same random numbers, and measure them.

    `functions` are reward functions by the name under which their scores appear, `reward_models` directories.
    Raises ClearPPOError for whatever cannot be loaded.
    """
    engine = make_engine(device)
    scorers: dict[str, Scorer] = {name: FunctionScorer(load_reward_function(f), name) for name, f in functions.items()}
    rows = load_rows(prompts)
    for name, path in reward_models.items():
        scorers[name] = RewardModelScorer.load(path, device=engine.device, dtype=torch.float32, batch_size=MICRO_BATCH)
    tokenizer = load_tokenizer(resolve_model(before))
    start = load_policy(before, engine)
    model = start.actor.causal_lm
    settings = sampling_settings(sampling, model, tokenizer, max_batch_size=DECODE_BATCH)
    room = room_for_prompts(model, sampling.response_length)
    prompt_set = encode_prompts(rows, tokenizer, max_prompt_length=None, room=room, source=prompts)
    batch = prompt_set.batch(list(range(len(prompt_set))) * n_answers, pad_id(tokenizer)).to(engine.device)
    reference = make_reference(start, micro_batch_size=MICRO_BATCH)

    def measured(policy: Policy) -> Evaluation:
        sampler = InProcessSampler(policy, tokenizer, settings, seed=seed)
        frozen = FrozenReference(reference.actor, policy=policy, micro_batch_size=MICRO_BATCH)
        return evaluate(policy, batch, sampler=sampler, reference=frozen, scorers=scorers)

    first = measured(start)
    return ModelComparison(prompts=prompt_set, before=first, after=measured(load_policy(after, engine)))
