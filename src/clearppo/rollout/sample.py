"""采样: the pupil answers."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import ALONE, Division, Prompts, Rollout
from clearppo.errors import ConfigError
from clearppo.models.actor import SharedCritic
from clearppo.models.layout import lay_out
from clearppo.models.policy import Analysis, Policy, analyze_in_micro_batches, micro_batches, scatter
from clearppo.rollout.sampler import Generation, Sampler
from clearppo.rollout.truncate import Truncation

OldLogProbs = Literal["auto", "learner", "sampler"]
Bounds = tuple[int, int | None, Division]
"""Rows and tokens of a micro-batch, and who reads which rows."""


def sample(
    policy: Policy,
    prompts: Prompts,
    sampler: Sampler,
    *,
    old_log_probs: OldLogProbs = "auto",
    micro_batch_size: int = 16,
    micro_batch_tokens: int | None = None,
    truncation: Truncation | None = None,
    division: Division = ALONE,
) -> Rollout:
    """Answer the prompts and note what the policy thought of every token: old_log_probs and old_values.

    With `old_log_probs` "learner" the learner reads the answers once more, so that the ratio of the first update is 1
    whatever sampled. With "sampler" the sampler's numbers are taken, and only a critic of which it knows nothing still
    reads the answers. "auto" takes the sampler's if the generation is exact, else the learner's.

    `truncation` cuts `completions`, which the scorers read, and says in `finish_reasons` which answers came to an end;
    the tokens, their mask and their numbers stay whole.

    Of several processes each reads its share of the answers (`division`), and all have the same whole rollout.
    """
    generation = sampler.generate(prompts)
    bounds = (micro_batch_size, micro_batch_tokens, division)
    if old_log_probs == "sampler" or (old_log_probs == "auto" and generation.exact):
        if generation.policy_log_probs is None:
            raise ConfigError(
                "old_log_probs = sampler, and this sampler does not know the log-probs over the whole vocabulary, only "
                "those after top_k and top_p. Use --old_log_probs learner."
            )
        old, values = generation.policy_log_probs, generation.values
        values = _values(policy, prompts, generation, bounds) if values is None else values
    else:
        analysis = _analysis(policy, prompts, generation, bounds)
        old, values = analysis.log_probs, analysis.values
    completions, finish_reasons = generation.completions, generation.finish_reasons
    if truncation is not None:
        completions, finish_reasons = truncation.read(generation.responses, generation.mask)
    return Rollout(
        prompts=prompts,
        responses=generation.responses,
        mask=generation.mask,
        old_log_probs=old,
        old_values=values,
        sampler_log_probs=generation.log_probs,
        finish_reasons=finish_reasons,
        completions=completions,
        temperature=generation.temperature,
        policy_version=generation.policy_version,
    )


def _analysis(policy: Policy, prompts: Prompts, generation: Generation, bounds: Bounds) -> Analysis:
    return analyze_in_micro_batches(
        policy,
        prompts,
        generation.responses,
        generation.mask,
        temperature=generation.temperature,
        micro_batch_size=bounds[0],
        micro_batch_tokens=bounds[1],
        division=bounds[2],
    )


@torch.no_grad()
def _values(policy: Policy, prompts: Prompts, generation: Generation, bounds: Bounds) -> Float[Tensor, "B T"]:
    """The critic's values where the sampler knows none: a critic with a backbone of its own need not wait for the
    actor's."""
    if isinstance(policy.critic, SharedCritic):
        # At any temperature: values do not depend on it, and at 0, in an evaluation, there are no log-probs to read.
        return _analysis(policy, prompts, replace(generation, temperature=1.0), bounds).values
    out = torch.zeros_like(generation.log_probs)
    for rows, part, responses, mask in micro_batches(prompts, generation.responses, generation.mask, *bounds):
        texts = lay_out(part, responses, mask)
        values = texts.spread(policy.critic(texts))
        scatter(out, rows, values)
    return bounds[2].sum(out)
