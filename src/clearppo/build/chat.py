"""From the options of `clearppo chat` to a model to talk to."""

from dataclasses import replace

from clearppo.build.common import load_policy
from clearppo.engines.local import LocalEngine, select_device
from clearppo.models.loading import context_length, load_tokenizer, resolve_model, stop_token_ids
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import SamplingSettings
from clearppo.rollout.talk import Talker


def build_chat(
    name_or_path: str, *, device: str, max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> Talker:
    """A model to talk to, decoding in bfloat16 where the hardware has it.

    Raises ClearPPOError (ConfigError, DeviceError, ModelError).
    """
    settings = SamplingSettings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    engine = LocalEngine(select_device(device))
    tokenizer = load_tokenizer(resolve_model(name_or_path))
    policy = load_policy(name_or_path, engine)
    model = policy.actor.causal_lm
    context = context_length(model)
    settings = replace(settings, stop_token_ids=stop_token_ids(model, tokenizer, []))
    return Talker(
        sampler=InProcessSampler(policy, tokenizer, settings, seed=seed),
        tokenizer=tokenizer,
        room=None if context is None else context - max_tokens,
    )
