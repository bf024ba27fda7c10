"""采样 Sampling: answers to prompts, with log-probs and values as they were when each token was drawn."""

from clearppo.rollout.sample import sample
from clearppo.rollout.sampler import FakeSampler, Generation, Sampler, SamplingSettings
from clearppo.rollout.truncate import Truncation

__all__ = ["FakeSampler", "Generation", "Sampler", "SamplingSettings", "Truncation", "sample"]
