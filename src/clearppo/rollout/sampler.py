"""The socket of the first phase: a Sampler answers prompts. Plugs stand beside it; a fake for tests stands here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearppo.batch import FinishReason, Prompts
from clearppo.errors import ConfigError
from clearppo.models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How tokens are drawn. The order is: logits / temperature, then top_k, then top_p on what is left, then draw.

    An answer ends with the first stop token or stop string (both are kept in the response) or after `max_tokens`.
    `temperature = 0` takes the most probable token; it is for talking to a model and for evaluation, not for PPO.
    At most `max_batch_size` answers grow at the same time (None: all of them), with the same result.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    max_batch_size: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether some tokens are not drawn from; the most probable one is never among them."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens = {self.max_tokens} leaves no room for an answer. Use 1 or more.")
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature = {self.temperature}, top_k = {self.top_k}, top_p = {self.top_p}: use a temperature of 0 "
                "or more, top_k of 0 (off) or more, and top_p above 0 and up to 1 (off)."
            )
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ConfigError(
                f"max_batch_size = {self.max_batch_size} lets no answer grow. Use 1 or more, or None for no limit."
            )


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A sampler's answers, and what it thought of every token; masked cells hold 0.

    `log_probs` are of the distribution that was drawn from, after temperature, top_k and top_p; `policy_log_probs` over
    the whole vocabulary at `temperature`; both in nats. `values` are the critic's before each token. The last two are
    None if the sampler cannot know them (another engine; a critic with a backbone of its own).

    `exact`: the sampler used the learner's own weights and arithmetic, so `policy_log_probs`, and `values` where they
    are known, are what the policy's `analyze` would say, to rounding. Otherwise they are near it.
    """

    responses: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    log_probs: Float[Tensor, "B T"]
    policy_log_probs: Float[Tensor, "B T"] | None
    values: Float[Tensor, "B T"] | None
    exact: bool
    finish_reasons: tuple[FinishReason, ...]
    completions: tuple[str, ...]
    temperature: float
    policy_version: int


@runtime_checkable
class TextDecoder(Protocol):
    """The part of a tokenizer that a sampler needs."""

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> Any: ...


@runtime_checkable
class Sampler(Protocol):
    """Answers prompts with the weights that it was last given."""

    def generate(self, prompts: Prompts) -> Generation:
        """One answer a prompt, in the order of the prompts. Every row has at least one token."""
        ...

    def load(self, policy: Policy, version: int) -> None:
        """Take over the policy's present weights; later generations carry `version`."""
        ...

    def state(self) -> dict[str, Any]:
        """All that later answers depend on beside the weights: plain values, as a checkpoint keeps them."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where a sampler stood that had this state; its weights are given to `load`."""
        ...


class FakeSampler:
    """Answers every prompt with the same tokens. For tests of what comes after sampling."""

    def __init__(self, tokens: list[int], *, temperature: float = 1.0) -> None:
        self.tokens = tokens
        self.temperature = temperature
        self.version = 0

    def generate(self, prompts: Prompts) -> Generation:
        shape = (len(prompts), len(self.tokens))
        device = prompts.ids.device
        return Generation(
            responses=torch.tensor(self.tokens, device=device).expand(shape).clone(),
            mask=torch.ones(shape, dtype=torch.bool, device=device),
            log_probs=torch.zeros(shape, device=device),
            policy_log_probs=torch.zeros(shape, device=device),
            values=None,
            exact=False,
            finish_reasons=("length",) * len(prompts),
            completions=(" ".join(str(token) for token in self.tokens),) * len(prompts),
            temperature=self.temperature,
            policy_version=self.version,
        )

    def load(self, policy: Policy, version: int) -> None:
        self.version = version

    def state(self) -> dict[str, Any]:
        return {"version": self.version}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.version = state["version"]
