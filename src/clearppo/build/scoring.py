"""From a RewardConfig to what gives the scores: Python functions, servers, a reward model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from clearppo.batch import ALONE, Division
from clearppo.config import PPOConfig, RewardConfig
from clearppo.config.kinds import qualified_name
from clearppo.data.templates import prompt_text
from clearppo.errors import ModelError
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.http import HTTPScorer, http_scorer
from clearppo.feedback.http_client import Patience, token_from
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.feedback.shared import SharedScorer
from clearppo.feedback.worker import WorkerScorer
from clearppo.models.policy import Policy
from clearppo.models.trunk import CannotShareError


def light_sources(reward: RewardConfig) -> list[Scorer]:
    """The functions and the servers, in the order of their weights, tried as far as they can be without answers.

    Raises RewardError for a function that is not there and a server at which nobody listens; ConfigError for what is no
    URL, and for a token that is not in the environment.
    """
    functions = [_function(reward, function) for function in reward.reward_funcs]
    token = token_from(reward.reward_auth_env, "reward_auth_env")
    patience = Patience(timeout=reward.reward_request_timeout, total=reward.reward_patience)
    servers = [
        http_scorer(
            url,
            noun="the reward server at",
            option="reward_urls",
            patience=patience,
            token=token,
            batch_size=reward.reward_batch_size,
            concurrency=reward.reward_concurrency,
            wire=reward.reward_url_format,
            null=reward.reward_missing,
            name="server",
        )
        for url in reward.reward_urls
    ]
    return [*functions, *servers]


def close_sources(sources: Sequence[Scorer]) -> None:
    """End the processes of reward functions that have one."""
    for source in sources:
        asked = source.source if isinstance(source, SharedScorer) else source
        if isinstance(asked, WorkerScorer):
            asked.close()


def whole_scorer(
    config: PPOConfig,
    light: Sequence[Scorer],
    policy: Policy,
    tokenizer: Any,
    note: Callable[[str], None],
    division: Division = ALONE,
) -> tuple[WeightedScorer, str | None]:
    """All that gives the scores, the `light` sources first; and where its reward model's weights are, in words, if it
    has one. `note` is told of servers that fail for a while."""
    sources, place = list(light), None
    for source in light:
        asked = source.source if isinstance(source, SharedScorer) else source
        if isinstance(asked, HTTPScorer):
            asked.note, asked.render = note, partial(prompt_text, tokenizer)
    if config.reward.reward_model_path is not None:
        model, place = _reward_model(config, config.reward.reward_model_path, policy)
        model.division = division
        sources.append(model)
    drop = config.reward.reward_missing == "drop"
    return WeightedScorer(sources, config.reward.reward_weights, drop_missing=drop), place


def _function(reward: RewardConfig, source: str | Callable[..., Any]) -> Scorer:
    if reward.reward_worker:
        spec = source if isinstance(source, str) else qualified_name(source)
        return WorkerScorer(spec, timeout=reward.reward_timeout)
    function = load_reward_function(source)
    return FunctionScorer(function, getattr(function, "__name__", type(function).__name__))


def _reward_model(config: PPOConfig, path: str, policy: Policy) -> tuple[RewardModelScorer, str]:
    share, own = config.reward.share_trunk, "weights of its own"
    portions: dict[str, Any] = {
        "batch_size": config.run.micro_batch_size,
        "trust_remote_code": config.model.trust_remote_code,
    }
    if share and config.model.use_peft:
        try:
            scorer = RewardModelScorer.on_trunk(path, policy.actor, **portions)
            return scorer, "an adapter and a head on the policy's own weights"
        except CannotShareError as error:
            if share != "auto":
                raise ModelError(
                    f"share_trunk = true, and {error}. Use --share_trunk auto to give the reward model weights of its "
                    "own, or train it with clearppo reward --use_peft true from the model that the policy starts from."
                ) from error
            own += f": {error}"
    autocast = policy.actor.autocast
    return (
        RewardModelScorer.load(path, device=policy.device, dtype=torch.float32, autocast=autocast, **portions),
        own,
    )
