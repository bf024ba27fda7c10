"""From a PPOConfig to the objects of a run; with its siblings build_*.py the only room that imports plugs."""

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import torch

from clearppo.config import PPOConfig
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import FixedMoments, RunningScaling, ScoreScaling
from clearppo.data import (
    Demonstration,
    PromptSet,
    SequenceSet,
    encode_demonstrations,
    encode_prompts,
    load_demonstrations,
    load_rows,
)
from clearppo.engines.local import LocalEngine, has_fast_bf16, select_device
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.model import RewardModelScorer, find_reward_model
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.learning import Objective, Passes, Ptx, TextStream
from clearppo.learning.optimiser import adamw
from clearppo.models.build import load_critic, make_policy, make_reference
from clearppo.models.loading import (
    context_length,
    load_causal_lm,
    load_tokenizer,
    refuse_reward_model,
    resolve_model,
    stop_token_ids,
)
from clearppo.models.policy import Policy
from clearppo.rollout import Truncation
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sampler import SamplingSettings
from clearppo.rollout.talk import Talker
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, Silence
from clearppo.train.ppo import Recipe
from clearppo.train.run import PPORun
from clearppo.train.summary import summarise
from clearppo.train.track import Track
from clearppo.wiring import (
    load_model,
    loading,
    lora,
    make_engine,
    pad_id,
    room_for_prompts,
    run_directory,
    uses_autocast,
)

EVALUATION_BATCH = 64  # rows decoded at once; more gain nothing on a small machine


def build_ppo(config: PPOConfig, *, listener: Listener | None = None) -> PPORun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RewardError, RunDirError).
    """
    listener = listener or Silence()
    engine = make_engine(config.model.device)
    torch.manual_seed(config.run.seed)
    functions, rows, texts = _read(config)
    with run_directory(config.run, _inputs(config)) as run_dir:
        return _wired(config, engine, functions, rows, texts, run_dir, listener)


def check_ppo(config: PPOConfig, unmade: Container[str] = ()) -> None:
    """Read the data and import the functions, as `build_ppo` will, with no model loaded.

    Models in `unmade` are not there yet: an earlier step will make them. Raises ClearPPOError.
    """
    _read(config)
    model, judge = config.model.model_name_or_path, config.reward.reward_model_path
    if model not in unmade:
        refuse_reward_model(model)
    if judge is not None and judge not in unmade:
        find_reward_model(judge, trust_remote_code=config.model.trust_remote_code)


def _read(config: PPOConfig) -> tuple[list[FunctionScorer], list[dict[str, Any]], Sequence[Demonstration]]:
    """The reward functions, the prompts, and the texts of PPO-ptx (none: it is off)."""
    functions = [reward_function(source) for source in config.reward.reward_funcs]
    rows = load_rows(config.data.dataset_name, config=config.data.dataset_config, split=config.data.dataset_train_split)
    other = config.ptx.ptx_dataset_name
    wanted = config.ptx.ptx_coef and other is not None
    return functions, rows, load_demonstrations(str(other), flag="ptx_dataset_name") if wanted else ()


def _wired(
    config: PPOConfig,
    engine: LocalEngine,
    functions: Sequence[Scorer],
    rows: list[dict[str, Any]],
    texts: Sequence[Demonstration],
    run_dir: RunDir,
    listener: Listener,
) -> PPORun:
    listener.phase("loading")
    policy, tokenizer, stop_ids, prompts = _policy_and_prompts(config, engine, rows, listener.note)
    run_dir.require_space(_bytes_of_result(config, policy))
    others = _other_texts(config, texts, tokenizer, context_length(policy.actor.causal_lm)) if texts else None
    return PPORun(
        config=config,
        policy=policy,
        reference=make_reference(policy, micro_batch_size=config.run.micro_batch_size),
        sampler=InProcessSampler(policy, tokenizer, _sampling(config, stop_ids), seed=config.run.seed),
        scorer=_scorer(config, functions, engine.device),
        scaling=_scaling(config),
        engine=engine,
        optimiser=_optimiser(config, policy),
        kl=_kl_controller(config),
        recipe=ppo_recipe(config, _truncation(config, tokenizer)),
        objective=ppo_objective(config),
        passes=_passes(config),
        ptx=None if others is None else _ptx(config, others, pad_id(tokenizer), engine.device),
        prompts=prompts,
        tokenizer=tokenizer,
        pad_id=pad_id(tokenizer),
        run_dir=run_dir,
        listener=listener,
        summary=summarise(config, policy, prompts, others, engine.device),
        track=Track(run_dir, listener, sample_steps=config.run.sample_steps, logging_steps=config.run.logging_steps),
    )


def _inputs(config: PPOConfig) -> dict[str, object]:
    """The options that name what this run reads."""
    return {
        "model_name_or_path": config.model.model_name_or_path,
        "value_model_path": config.model.value_model_path,
        "reward_model_path": config.reward.reward_model_path,
        "dataset_name": config.data.dataset_name,
        "ptx_dataset_name": config.ptx.ptx_dataset_name,
    }


def _policy_and_prompts(
    config: PPOConfig, engine: LocalEngine, rows: list[dict[str, Any]], note: Callable[[str], None]
) -> tuple[Policy, Any, frozenset[int], PromptSet]:
    model_config, sampling = config.model, config.sampling
    loaded = load_model(model_config, note=note)
    model, tokenizer = loaded.model, loaded.tokenizer
    prompts = encode_prompts(
        rows,
        tokenizer,
        max_prompt_length=config.data.max_prompt_length,
        room=room_for_prompts(model, sampling.response_length),
        source=config.data.dataset_name,
    )
    critic = None
    if model_config.critic == "separate" and config.has_critic:
        critic = load_critic(model_config.value_model_path or loaded.path, tokenizer, **loading(model_config))
    policy = make_policy(
        engine.wrap(model),
        separate_critic=None if critic is None else engine.wrap(critic),
        lora=lora(model_config),
        autocast=uses_autocast(model_config, engine.device),
        gradient_checkpointing=model_config.gradient_checkpointing,
    )
    if not config.has_critic:
        policy.critic.requires_grad_(False)  # the layer that every policy has: its values stay at 0
    return policy, tokenizer, stop_token_ids(model, tokenizer, list(sampling.stop_token_ids)), prompts


def _other_texts(config: PPOConfig, texts: Sequence[Demonstration], tokenizer: Any, context: int | None) -> SequenceSet:
    """The texts of PPO-ptx as `clearppo sft` would learn them: plain text whole, of an answered prompt the answer."""
    longest = config.ptx.ptx_max_length
    return encode_demonstrations(
        texts,
        tokenizer,
        max_length=longest if context is None else min(longest, context),
        room=context,
        source=str(config.ptx.ptx_dataset_name),
        option="ptx_max_length",
    )


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


def _scaling(config: PPOConfig) -> ScoreScaling | None:
    """How scores are scaled; None for the start policy's moments, which the run measures."""
    match config.reward.score_scaling:
        case None:
            return FixedMoments(mean=0.0, std=1.0)  # as they are
        case "reference":
            return None
        case kind:
            return RunningScaling(centred=kind == "running")


def _truncation(config: PPOConfig, tokenizer: Any) -> Truncation | None:
    token = config.sampling.truncate_token
    return None if token is None else Truncation.from_text(token, config.sampling.truncate_after, tokenizer)


def _ptx(config: PPOConfig, texts: SequenceSet, padding: int, device: torch.device) -> Ptx:
    return Ptx(
        stream=TextStream(texts, pad_id=padding, seed=config.run.seed, device=device),
        coef=config.ptx.ptx_coef,
        batch_ratio=config.ptx.ptx_batch_ratio,
        reduction=config.ptx.ptx_reduction,
    )


def _optimiser(config: PPOConfig, policy: Policy) -> torch.optim.Optimizer:
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
        critic_eps=optim.critic_adam_epsilon,
        weight_decay=optim.weight_decay,
        style=optim.adam_style,
    )


def _sampling(config: PPOConfig, stop_ids: frozenset[int]) -> SamplingSettings:
    """How answers are drawn; answers of fixed length end nowhere else, not at the end-of-text token either."""
    sampling = config.sampling
    ends = not sampling.fixed_length
    return SamplingSettings(
        max_tokens=sampling.response_length,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_token_ids=stop_ids if ends else frozenset(),
        stop_strings=tuple(sampling.stop_strings) if ends else (),
        max_batch_size=sampling.generation_batch_size,
    )


def _kl_controller(config: PPOConfig) -> FixedKL | AdaptiveKL:
    if config.kl.kl_controller == "fixed":
        return FixedKL(config.kl.kl_coef)
    return AdaptiveKL(config.kl.kl_coef, config.kl.kl_target, config.kl.kl_horizon)


def ppo_recipe(config: PPOConfig, truncation: Truncation | None = None) -> Recipe:
    """The loop's numbers that `config` asks for."""
    reward, ppo, optim = config.reward, config.ppo, config.optim
    return Recipe(
        n_iterations=config.num_iterations,
        truncation=truncation,
        kl_estimator=config.kl.kl_estimator,
        score_clip=reward.score_clip,
        missing_eos_penalty=reward.missing_eos_penalty,
        missing_eos_score=reward.missing_eos_score,
        whiten_rewards=reward.whiten_rewards,
        estimator=ppo.advantage_estimator,
        group_size=config.sampling.num_generations,
        gamma=ppo.gamma,
        lam=ppo.lam,
        critic_lam=ppo.critic_lam,
        whiten_advantages=ppo.whiten_advantages,
        unbiased_whitening=ppo.unbiased_whitening,
        critic_warmup_steps=ppo.critic_warmup_steps,
        schedule=optim.lr_scheduler_type,
        warmup_ratio=optim.warmup_ratio,
        warmup_steps=optim.warmup_steps,
        warmup_start=optim.warmup_start,
        min_lr_ratio=optim.min_lr_ratio,
    )


def ppo_objective(config: PPOConfig) -> Objective:
    """The loss that `config` asks for."""
    ppo = config.ppo
    return Objective(
        clip=ppo.cliprange,
        clip_high=ppo.cliprange_high,
        dual_clip=ppo.dual_clip,
        clip_value=ppo.cliprange_value,
        vf_coef=ppo.vf_coef if config.has_critic else 0.0,
        entropy_coef=ppo.entropy_coef,
        kl_loss_coef=config.kl.kl_loss_coef,
        kl_loss_estimator=config.kl.kl_loss_estimator,
    )


def _passes(config: PPOConfig) -> Passes:
    return Passes(
        epochs=config.ppo.num_ppo_epochs,
        num_mini_batches=config.ppo.num_mini_batches,
        micro_batch_size=config.run.micro_batch_size,
        max_grad_norm=config.optim.max_grad_norm,
        early_stop_kl=config.ppo.early_stop_kl,
    )


def _bytes_of_result(config: PPOConfig, policy: Policy) -> int:
    """Weights of the model, its critic (of a shared one, the backbone once more) and its average, and some records."""
    actor = sum(p.numel() * p.element_size() for p in policy.actor.causal_lm.parameters())
    critic = sum(p.numel() * p.element_size() for p in policy.critic.parameters())
    models = [actor]
    if config.has_critic:
        models.append(max(actor, critic))
    if config.run.ema_decay is not None:
        models.append(actor)
    return 50_000_000 + sum(models)
