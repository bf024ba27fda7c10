"""采样: the pupil answers."""

from clearppo.batch import Prompts, Rollout
from clearppo.models.policy import Policy, analyze_in_micro_batches
from clearppo.rollout.sampler import ExactGeneration, Sampler
from clearppo.rollout.truncate import Truncation


def sample(
    policy: Policy,
    prompts: Prompts,
    sampler: Sampler,
    *,
    micro_batch_size: int = 16,
    truncation: Truncation | None = None,
) -> Rollout:
    """Answer the prompts and note what the policy thought of every token: old_log_probs and old_values.

    If the sampler used the learner's own weights and arithmetic, its numbers are taken; otherwise the learner reads
    the answers once more, so that the ratio of the first update is 1 whatever sampled.

    `truncation` cuts `completions`, which the scorers read, and says in `finish_reasons` which answers came to an end;
    the tokens, their mask and their numbers stay whole.
    """
    generation = sampler.generate(prompts)
    if isinstance(generation, ExactGeneration):
        old_log_probs, old_values = generation.policy_log_probs, generation.values
    else:
        analysis = analyze_in_micro_batches(
            policy,
            prompts,
            generation.responses,
            generation.mask,
            temperature=generation.temperature,
            micro_batch_size=micro_batch_size,
        )
        old_log_probs, old_values = analysis.log_probs, analysis.values
    completions, finish_reasons = generation.completions, generation.finish_reasons
    if truncation is not None:
        completions, finish_reasons = truncation.read(generation.responses, generation.mask)
    return Rollout(
        prompts=prompts,
        responses=generation.responses,
        mask=generation.mask,
        old_log_probs=old_log_probs,
        old_values=old_values,
        sampler_log_probs=generation.log_probs,
        finish_reasons=finish_reasons,
        completions=completions,
        temperature=generation.temperature,
        policy_version=generation.policy_version,
    )
