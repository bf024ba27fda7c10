"""From a configuration to the objects of a run. The only room that imports plugs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clearppo.config import PPOConfig
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.data import PromptSet, encode_prompts, load_rows
from clearppo.engines.local import LocalEngine, has_fast_bf16, keep_freed_memory, select_device
from clearppo.errors import ConfigError
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.learning import Objective, Passes
from clearppo.learning.optimiser import adamw
from clearppo.models.build import Lora, load_critic, make_policy, make_reference
from clearppo.models.loading import (
    DTYPES,
    context_length,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
)
from clearppo.models.policy import Policy
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import SamplingSettings
from clearppo.rollout.talk import Talker
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, Silence
from clearppo.train.ppo import Recipe
from clearppo.train.run import PPORun
from clearppo.train.summary import summarise
from clearppo.train.track import Track

EVALUATION_BATCH = 64  # rows decoded at once; more gain nothing on a small machine


def build_ppo(config: PPOConfig, *, listener: Listener | None = None) -> PPORun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RewardError, RunDirError).
    """
    listener = listener or Silence()
    device = select_device(config.model.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.run.seed)
    functions = [reward_function(source) for source in config.reward.reward_funcs]
    rows = load_rows(config.data.dataset_name, config=config.data.dataset_config, split=config.data.dataset_train_split)
    _keep_inputs(config)
    run_dir = RunDir.create(config.run.output_dir, overwrite=config.run.overwrite_output_dir)
    try:
        return _wired(config, LocalEngine(device), functions, rows, run_dir, listener)
    except BaseException:
        run_dir.discard()
        raise


def _wired(
    config: PPOConfig,
    engine: LocalEngine,
    functions: Sequence[Scorer],
    rows: list[dict[str, Any]],
    run_dir: RunDir,
    listener: Listener,
) -> PPORun:
    listener.phase("loading")
    policy, tokenizer, stop_ids, prompts = _policy_and_prompts(config, engine, rows, listener.note)
    run_dir.require_space(_bytes_of_result(policy))
    summary = summarise(config, policy, prompts, engine.device)
    optimiser = _optimiser(config, policy)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return PPORun(
        config=config,
        policy=policy,
        reference=make_reference(policy, micro_batch_size=config.run.micro_batch_size),
        sampler=InProcessSampler(policy, tokenizer, _sampling(config, stop_ids), seed=config.run.seed),
        scorer=_scorer(config, functions, engine.device),
        engine=engine,
        optimiser=optimiser,
        kl=_kl_controller(config),
        recipe=ppo_recipe(config),
        objective=ppo_objective(config),
        passes=_passes(config),
        prompts=prompts,
        tokenizer=tokenizer,
        pad_id=int(pad_id),
        run_dir=run_dir,
        listener=listener,
        summary=summary,
        track=Track(run_dir, listener, sample_steps=config.run.sample_steps, logging_steps=config.run.logging_steps),
    )


def _keep_inputs(config: PPOConfig) -> None:
    """Raises ConfigError if overwriting output_dir would delete what this run reads."""
    if not config.run.overwrite_output_dir:
        return
    target = Path(config.run.output_dir).expanduser().resolve()
    inputs = {
        "model_name_or_path": config.model.model_name_or_path,
        "value_model_path": config.model.value_model_path,
        "reward_model_path": config.reward.reward_model_path,
        "dataset_name": config.data.dataset_name,
    }
    for option, value in inputs.items():
        place = Path(value).expanduser().resolve() if value else None
        if place is not None and place.exists() and place.is_relative_to(target):
            raise ConfigError(
                f"{option} = {value} lies in output_dir = {config.run.output_dir}, whose files "
                "--overwrite_output_dir would delete. Use another --output_dir."
            )


def _policy_and_prompts(
    config: PPOConfig, engine: LocalEngine, rows: list[dict[str, Any]], note: Callable[[str], None]
) -> tuple[Policy, Any, frozenset[int], PromptSet]:
    model_config, sampling = config.model, config.sampling
    path = resolve_model(model_config.model_name_or_path, note=note)
    tokenizer = load_tokenizer(path, trust_remote_code=model_config.trust_remote_code)
    loading: dict[str, Any] = {
        "dtype": DTYPES[model_config.dtype],
        "attn_implementation": model_config.attn_implementation,
        "trust_remote_code": model_config.trust_remote_code,
    }
    model = load_causal_lm(path, **loading)
    context = context_length(model)
    if context is not None and context <= sampling.response_length:
        raise ConfigError(
            f"response_length = {sampling.response_length} leaves no room for a prompt in this model's context of "
            f"{context} tokens. Use a smaller --response_length."
        )
    prompts = encode_prompts(
        rows,
        tokenizer,
        max_prompt_length=config.data.max_prompt_length,
        room=None if context is None else context - sampling.response_length,
        source=config.data.dataset_name,
    )
    critic = None
    if model_config.critic == "separate":
        critic = load_critic(model_config.value_model_path or path, tokenizer, **loading)
    lora = None
    if model_config.use_peft:
        lora = Lora(
            r=model_config.lora_r, alpha=model_config.lora_alpha, target_modules=model_config.lora_target_modules
        )
    policy = make_policy(
        engine.wrap(model),
        separate_critic=None if critic is None else engine.wrap(critic),
        lora=lora,
        autocast=uses_autocast(config, engine.device),
        gradient_checkpointing=model_config.gradient_checkpointing,
    )
    return policy, tokenizer, stop_token_ids(model, tokenizer, list(sampling.stop_token_ids)), prompts


def reward_function(source: str | Callable[..., Any]) -> FunctionScorer:
    """A Python reward function as a scorer: "file.py:name", "package.module:name", or the function itself."""
    function = load_reward_function(source)
    return FunctionScorer(function, getattr(function, "__name__", type(function).__name__))


def build_sampler(run: PPORun, *, seed: int) -> InProcessSampler:
    """Another sampler on the run's policy as it is now, with random numbers of its own; for evaluation."""
    stop_ids = stop_token_ids(run.policy.actor.causal_lm, run.tokenizer, list(run.config.sampling.stop_token_ids))
    settings = replace(_sampling(run.config, stop_ids), max_batch_size=EVALUATION_BATCH)
    return InProcessSampler(run.policy, run.tokenizer, settings, seed=seed)


def build_chat(
    name_or_path: str, *, device: str, max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> Talker:
    """A model to talk to, decoding in bfloat16 where the hardware has it."""
    settings = SamplingSettings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    engine = LocalEngine(select_device(device))
    path = resolve_model(name_or_path)
    tokenizer = load_tokenizer(path)
    model = load_causal_lm(path)
    context = context_length(model)
    policy = make_policy(engine.wrap(model), autocast=has_fast_bf16(engine.device))
    settings = replace(settings, stop_token_ids=stop_token_ids(model, tokenizer, []))
    return Talker(
        sampler=InProcessSampler(policy, tokenizer, settings, seed=seed),
        tokenizer=tokenizer,
        room=None if context is None else context - max_tokens,
    )


def uses_autocast(config: PPOConfig, device: torch.device) -> bool:
    """Whether forward passes run in bf16 autocast: as asked for, or wherever the hardware gains by it."""
    if config.model.dtype != "float32":
        return False
    return has_fast_bf16(device) if config.model.bf16 == "auto" else bool(config.model.bf16)


def _scorer(config: PPOConfig, functions: Sequence[Scorer], device: torch.device) -> Scorer:
    sources: list[Scorer] = list(functions)
    if config.reward.reward_model_path is not None:
        sources.append(
            RewardModelScorer.load(
                resolve_model(config.reward.reward_model_path),
                device=device,
                dtype=torch.float32,
                batch_size=config.run.micro_batch_size,
                trust_remote_code=config.model.trust_remote_code,
            )
        )
    return WeightedScorer(sources, config.reward.reward_weights)


def _optimiser(config: PPOConfig, policy: Policy) -> torch.optim.AdamW:
    actor = [parameter for parameter in policy.actor.parameters() if parameter.requires_grad]
    critic = [parameter for parameter in policy.critic.parameters() if parameter.requires_grad]
    optim = config.optim
    return adamw(
        actor,
        critic,
        learning_rate=optim.learning_rate,
        critic_learning_rate=optim.critic_learning_rate,
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
    )


def _sampling(config: PPOConfig, stop_ids: frozenset[int]) -> SamplingSettings:
    sampling = config.sampling
    return SamplingSettings(
        max_tokens=sampling.response_length,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_token_ids=stop_ids,
        stop_strings=tuple(sampling.stop_strings),
        max_batch_size=sampling.generation_batch_size,
    )


def _kl_controller(config: PPOConfig) -> FixedKL | AdaptiveKL:
    if config.kl.kl_controller == "fixed":
        return FixedKL(config.kl.kl_coef)
    return AdaptiveKL(config.kl.kl_coef, config.kl.kl_target, config.kl.kl_horizon)


def ppo_recipe(config: PPOConfig) -> Recipe:
    """The loop's numbers that `config` asks for."""
    return Recipe(
        n_iterations=config.num_iterations,
        kl_estimator=config.kl.kl_estimator,
        missing_eos_penalty=config.reward.missing_eos_penalty,
        whiten_rewards=config.reward.whiten_rewards,
        gamma=config.ppo.gamma,
        lam=config.ppo.lam,
        whiten_advantages=config.ppo.whiten_advantages,
        schedule=config.optim.lr_scheduler_type,
        warmup_ratio=config.optim.warmup_ratio,
    )


def ppo_objective(config: PPOConfig) -> Objective:
    """The loss that `config` asks for."""
    ppo = config.ppo
    return Objective(
        clip=ppo.cliprange,
        clip_high=ppo.cliprange_high,
        dual_clip=ppo.dual_clip,
        clip_value=ppo.cliprange_value,
        vf_coef=ppo.vf_coef,
        entropy_coef=ppo.entropy_coef,
    )


def _passes(config: PPOConfig) -> Passes:
    return Passes(
        epochs=config.ppo.num_ppo_epochs,
        num_mini_batches=config.ppo.num_mini_batches,
        micro_batch_size=config.run.micro_batch_size,
        max_grad_norm=config.optim.max_grad_norm,
        early_stop_kl=config.ppo.early_stop_kl,
    )


def _bytes_of_result(policy: Policy) -> int:
    """Weights of the model and of its critic (with a shared one, the backbone a second time), and some records."""
    actor = sum(p.numel() * p.element_size() for p in policy.actor.causal_lm.parameters())
    critic = sum(p.numel() * p.element_size() for p in policy.critic.parameters())
    return 50_000_000 + actor + max(actor, critic)
