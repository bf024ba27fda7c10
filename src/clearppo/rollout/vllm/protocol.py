"""What goes to vLLM and comes back, as its route /inference/v1/generate has it: tokens in, tokens and log-probs out.

Everything that has a default in vLLM and decides about an answer is said, so that a server's own generation settings
change nothing.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearppo.batch import FinishReason
from clearppo.errors import NumbersError
from clearppo.rollout.sampler import SamplingSettings
from clearppo.rollout.vllm.http import EngineRefused

GENERATE = "/inference/v1/generate"
NOTHING = -9999.0
"""What vLLM's server writes for a log-prob that is NaN or -inf."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its tokens, the log-prob of each under the distribution that it was drawn from, and how it ended."""

    tokens: list[int]
    log_probs: list[float]
    finish_reason: FinishReason


def row_seed(seed: int, row: int) -> int:
    """The seed of the `row`-th row that a sampler answers: a hash of both, as vLLM takes it (63 bits)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{row}".encode()).digest()[:8], "big") >> 1


def request(prompt: Sequence[int], settings: SamplingSettings, seed: int) -> dict[str, Any]:
    """The body that asks for one answer."""
    return {
        "token_ids": list(prompt),
        "sampling_params": {
            "n": 1,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "logprobs": 0,  # of the token that was drawn
            "ignore_eos": True,  # what ends an answer is said here, whatever the model's files say
            "stop_token_ids": sorted(settings.stop_token_ids),
            "stop": list(settings.stop_strings) or None,
            "detokenize": bool(settings.stop_strings),
            "skip_special_tokens": False,
        },
    }


def probe(tokens: Sequence[int]) -> dict[str, Any]:
    """The body that asks what the engine thinks of each of these tokens, at temperature 1 over the whole vocabulary."""
    params = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "detokenize": False, "ignore_eos": True}
    return {"token_ids": list(tokens), "sampling_params": params}


def probed(body: Any, tokens: Sequence[int], url: str) -> list[float]:
    """The log-probs that a probe was answered with: of each token but the first. Raises EngineRefused."""
    try:
        by_place = body["prompt_logprobs"][1:]
        return [float(at[str(token)]["logprob"]) for at, token in zip(by_place, tokens[1:], strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineRefused(f"the vLLM server at {url} answered a probe without log-probs. {_VERSION}") from error


def read(body: Any, settings: SamplingSettings, version: str, url: str) -> Answer:
    """What an answer says. `version`: the name of the weights that were handed over last, and which it must be of.

    Raises EngineRefused if it is of others or not what was asked for, NumbersError if a log-prob is no number.
    """
    try:
        choice: Mapping[str, Any] = body["choices"][0]
        tokens = [int(token) for token in choice["token_ids"]]
        log_probs = [float(entry["logprob"]) for entry in choice["logprobs"]["content"]]
        versions = {str(span["version"]) for span in choice["weight_versions"]}
        finish = choice["finish_reason"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineRefused(f"the vLLM server at {url} answered without tokens and log-probs. {_VERSION}") from error
    if versions != {version}:
        raise EngineRefused(
            f"the vLLM server at {url} answered with the weights {', '.join(sorted(versions))}, and {version} were "
            "handed over last. Is another run using it? Give each run engines of its own."
        )
    if finish not in ("stop", "length") or not tokens or len(tokens) != len(log_probs):
        raise EngineRefused(f"the vLLM server at {url} gave up an answer: {finish}, after {len(tokens)} tokens.")
    if len(tokens) > settings.max_tokens or (finish == "length" and len(tokens) < settings.max_tokens):
        raise EngineRefused(
            f"the vLLM server at {url} gave {len(tokens)} tokens where response_length = {settings.max_tokens}: its "
            "--max-model-len is too small."
        )
    if any(not math.isfinite(number) or number <= NOTHING for number in log_probs):
        raise NumbersError(
            f"the vLLM server at {url} drew a token whose log-prob is no number: the policy's weights have diverged, "
            "or the engine computes in a precision that is too small. Use a smaller --learning_rate, or --vllm_dtype "
            "float32."
        )
    return Answer(tokens=tokens, log_probs=[min(number, 0.0) for number in log_probs], finish_reason=finish)


_VERSION = "ClearPPO is written for vLLM 0.32; other versions may speak otherwise."
