"""From a PPOConfig to the objects of a run."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch

from clearppo.build.common import (
    DECODE_BATCH,
    bytes_of,
    learned_parameters,
    load_model,
    loading,
    make_training_engine,
    micro_batch_tokens,
    n_bytes,
    optimising,
    pad_id,
    room_for_prompts,
    sampling_settings,
    training,
    unite,
)
from clearppo.build.in_loop import HeldOut, load_measures, make_evaluation, read_held_out
from clearppo.build.output import Output, run_directory
from clearppo.build.scoring import close_sources, light_sources, whole_scorer
from clearppo.build.sharding import shard
from clearppo.build.tracking import check_trackers, make_trackers
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
from clearppo.engines.base import Engine
from clearppo.engines.environment import is_first
from clearppo.engines.local import LocalEngine
from clearppo.feedback.model import RewardModelScorer, find_reward_model
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.feedback.shared import on_first
from clearppo.learning import Objective, Passes, Ptx, TextStream
from clearppo.learning.optimiser import adamw
from clearppo.models.actor import SeparateCritic
from clearppo.models.build import load_critic, make_policy, make_reference
from clearppo.models.ema import EMA
from clearppo.models.frozen_layers import Freeze
from clearppo.models.loading import context_length, refuse_reward_model
from clearppo.models.policy import FrozenReference, Policy
from clearppo.record import Store
from clearppo.rollout import Truncation
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.rollout.sample import OldLogProbs
from clearppo.rundir import RECORD, RunDir
from clearppo.train.listener import Listener, Silence
from clearppo.train.ppo import Recipe
from clearppo.train.recording import Recorder
from clearppo.train.run import PPORun
from clearppo.train.summary import summarise
from clearppo.train.track import Track

MIB = 2**20
TOKEN_BYTES = 100
"""What the record holds of a token, with some to spare (benchmarks/record.py)."""


def build_ppo(config: PPOConfig, *, listener: Listener | None = None) -> PPORun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RewardError, RunDirError).
    """
    listener = listener or Silence()
    engine = make_training_engine(config)
    torch.manual_seed(config.run.seed)
    sources, rows, texts, held_out = _read(config, engine)
    with run_directory(config, _inputs(config), listener, engine) as output:
        return _wired(config, engine, sources, rows, texts, held_out, output, listener)


def check_ppo(config: PPOConfig, unmade: Container[str] = ()) -> None:
    """Read the data and import the functions, as `build_ppo` will, with no model loaded.

    Models in `unmade` are not there yet: an earlier step will make them. Raises ClearPPOError.
    """
    close_sources(_read(config, LocalEngine(torch.device("cpu")))[0])
    model, judge = config.model.model_name_or_path, config.reward.reward_model_path
    if model not in unmade:
        refuse_reward_model(model)
    for other in (judge, config.eval.eval_reward_model_path):
        if other is not None and other not in unmade:
            find_reward_model(other, trust_remote_code=config.model.trust_remote_code)


def _read(
    config: PPOConfig, engine: Engine
) -> tuple[list[Scorer], list[dict[str, Any]], Sequence[Demonstration], HeldOut | None]:
    """The light sources of scores, the prompts, the texts of PPO-ptx (none: it is off), and what is measured on."""
    check_trackers(config.tracking)
    sources = on_first(lambda: light_sources(config.reward), engine)
    rows = load_rows(config.data.dataset_name, config=config.data.dataset_config, split=config.data.dataset_train_split)
    rows, held_out = read_held_out(config, rows, engine)
    other = config.ptx.ptx_dataset_name
    texts = load_demonstrations(other, flag="ptx_dataset_name") if config.ptx.ptx_coef and other else ()
    return sources, rows, texts, held_out


def _wired(
    config: PPOConfig,
    engine: Engine,
    sources: Sequence[Scorer],
    rows: list[dict[str, Any]],
    texts: Sequence[Demonstration],
    held_out: HeldOut | None,
    output: Output,
    listener: Listener,
) -> PPORun:
    listener.phase("loading")
    policy, tokenizer, prompts = _policy_and_prompts(config, engine, rows, listener.note)
    settings = sampling_settings(config.sampling, policy.actor.causal_lm, tokenizer)
    _require_space(config, output, policy)
    others = _other_texts(config, texts, tokenizer, context_length(policy.actor.causal_lm)) if texts else None
    sampler = InProcessSampler(policy, tokenizer, settings, seed=config.run.seed, resident=False, division=engine)
    recipe = ppo_recipe(config, _truncation(config, tokenizer), exact=sampler.decoder.exact)
    scorer, reward_model = whole_scorer(config, sources, policy, tokenizer, listener.note, engine)
    measures = load_measures(config, held_out, policy, tokenizer, scorer, listener.note)
    reference = make_reference(policy, micro_batch_size=config.run.micro_batch_size, division=engine)
    # When all models are there: what they take is not free.
    passes = _passes(config, output, policy, engine, exact=sampler.decoder.exact)
    _bound(passes, reference, scorer)
    shard(config, engine, policy, reference, scorer, measures, sampler)
    track = _track(config, output.run_dir, tokenizer, listener, recipe, passes)
    evaluation = make_evaluation(
        config, measures, policy=policy, tokenizer=tokenizer, sampler=sampler, reference=reference, passes=passes,
        truncation=recipe.truncation, track=track, run_dir=output.run_dir, division=engine,
    )  # fmt: skip
    summary = summarise(
        config, policy, prompts, others, decoder=sampler.decoder, recipe=recipe, passes=passes,
        reward_model=reward_model, evaluation=measures.facts(config) if measures else None, device=engine.device,
    )  # fmt: skip
    return PPORun(
        config=config,
        policy=policy,
        reference=reference,
        sampler=sampler,
        scorer=scorer,
        scaling=_scaling(config),
        engine=engine,
        optimiser=_optimiser(config, policy),
        kl=_kl_controller(config),
        recipe=recipe,
        objective=ppo_objective(config),
        passes=passes,
        ptx=None if others is None else _ptx(config, others, pad_id(tokenizer), engine.device),
        prompts=prompts,
        tokenizer=tokenizer,
        pad_id=pad_id(tokenizer),
        run_dir=output.run_dir,
        listener=listener,
        summary=summary,
        track=track,
        evaluation=evaluation,
        generator=torch.Generator().manual_seed(config.run.seed),
        ema=EMA(policy.actor, config.run.ema_decay),
        checkpoints=output.checkpoints,
        resume=output.resume,
    )


def _bound(passes: Passes, reference: FrozenReference, scorer: WeightedScorer) -> None:
    """What bounds a micro-batch in learning bounds it in every other pass."""
    reference.micro_batch_tokens = passes.micro_batch_tokens
    for source in scorer.sources:
        if isinstance(source, RewardModelScorer):
            source.batch_tokens = passes.micro_batch_tokens


def _track(
    config: PPOConfig, run_dir: RunDir, tokenizer: Any, listener: Listener, recipe: Recipe, passes: Passes
) -> Track:
    if not is_first():  # it keeps what all have done
        return Track(run_dir, listener)
    options, limit = config.record, config.record.record_limit_mib * MIB
    return Track(
        run_dir,
        listener,
        sample_steps=config.run.sample_steps,
        logging_steps=config.run.logging_steps,
        trackers=make_trackers(config.tracking, config.run.output_dir),
        record=Recorder(
            Store(run_dir.path / RECORD, every=options.record_steps, last=recipe.n_iterations, limit=limit),
            tokenizer,
            recipe=recipe,
            objective=ppo_objective(config),
            passes=passes,
            scaled=config.reward.score_scaling,
            answers=options.record_answers,
            note=listener.note,
        ),
    )


def _inputs(config: PPOConfig) -> dict[str, object]:
    """The options that name what this run reads."""
    return {
        "model_name_or_path": config.model.model_name_or_path,
        "value_model_path": config.model.value_model_path,
        "reward_model_path": config.reward.reward_model_path,
        "dataset_name": config.data.dataset_name,
        "eval_dataset_name": config.eval.eval_dataset_name,
        "eval_reward_model_path": config.eval.eval_reward_model_path,
        "ptx_dataset_name": config.ptx.ptx_dataset_name,
    }


def _policy_and_prompts(
    config: PPOConfig, engine: Engine, rows: list[dict[str, Any]], note: Callable[[str], None]
) -> tuple[Policy, Any, PromptSet]:
    loaded = load_model(config.model, note=note)
    prompts = encode_prompts(
        rows,
        loaded.tokenizer,
        max_prompt_length=config.data.max_prompt_length,
        room=room_for_prompts(loaded.model, config.sampling.response_length),
        source=config.data.dataset_name,
    )
    critic = None
    if config.model.critic == "separate" and config.has_critic:
        start = config.model.value_model_path or loaded.path
        critic = engine.wrap(load_critic(start, loaded.tokenizer, **loading(config.model)))
    freeze = Freeze(layers=config.model.freeze_layers, rows=config.run.batch_size)
    policy = make_policy(
        engine.wrap(loaded.model),
        separate_critic=critic,
        freeze=freeze if freeze.layers else None,
        **training(config.model, engine.device),
    )
    if not config.has_critic:
        policy.critic.requires_grad_(False)  # the layer that every policy has: its values stay at 0
    unite(engine, policy, config.data.dataset_name, prompts)
    return policy, loaded.tokenizer, prompts


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


def build_sampler(run: PPORun, *, seed: int) -> InProcessSampler:
    """Another sampler on the run's policy as it is now, with random numbers of its own; for evaluation. It shares the
    decoder of the run's sampler, and with it whatever copy of the weights that keeps."""
    model, sampling = run.policy.actor.causal_lm, run.config.sampling
    settings = sampling_settings(sampling, model, run.tokenizer, max_batch_size=DECODE_BATCH)
    decoder = run.sampler.decoder if isinstance(run.sampler, InProcessSampler) else None
    sampler = InProcessSampler(run.policy, run.tokenizer, settings, seed=seed, decoder=decoder, resident=False)
    sampler.load(run.policy, version=0)
    return sampler


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
    return adamw(
        learned_parameters(policy.actor),
        learned_parameters(policy.critic),
        critic_learning_rate=config.optim.critic_learning_rate,
        critic_eps=config.optim.critic_adam_epsilon,
        **optimising(config.optim),
    )


def _kl_controller(config: PPOConfig) -> FixedKL | AdaptiveKL:
    kl = config.kl
    return FixedKL(kl.kl_coef) if kl.kl_controller == "fixed" else AdaptiveKL(kl.kl_coef, kl.kl_target, kl.kl_horizon)


def ppo_recipe(config: PPOConfig, truncation: Truncation | None = None, *, exact: bool = True) -> Recipe:
    """The loop's numbers that `config` asks for, where the sampler's log-probs are the learner's (`exact`) or not."""
    reward, ppo, optim = config.reward, config.ppo, config.optim
    return Recipe(
        n_iterations=config.num_iterations,
        truncation=truncation,
        old_log_probs=_old_log_probs(config, exact)[0],
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
        importance_cap=ppo.importance_cap,
        clip_value=ppo.cliprange_value,
        vf_coef=ppo.vf_coef if config.has_critic else 0.0,
        entropy_coef=ppo.entropy_coef,
        kl_loss_coef=config.kl.kl_loss_coef,
        kl_loss_estimator=config.kl.kl_loss_estimator,
    )


def _passes(config: PPOConfig, output: Output, policy: Policy, engine: Engine, *, exact: bool) -> Passes:
    networks = [policy.actor.causal_lm]
    if isinstance(policy.critic, SeparateCritic):
        networks.append(policy.critic.classifier)
    learned, asked = learned_parameters(policy), output.micro_batch_tokens(config.run.max_tokens_per_microbatch)
    return Passes(
        epochs=config.ppo.num_ppo_epochs,
        num_mini_batches=config.ppo.num_mini_batches,
        micro_batch_size=config.run.micro_batch_size,
        micro_batch_tokens=micro_batch_tokens(asked, engine, networks, learned),
        max_grad_norm=config.optim.max_grad_norm,
        early_stop_kl=config.ppo.early_stop_kl,
        first_is_old=_old_log_probs(config, exact)[1],
    )


def _old_log_probs(config: PPOConfig, exact: bool) -> tuple[OldLogProbs, bool]:
    """Whose numbers a rollout holds, and whether the loss takes those of its own pass instead."""
    if (asked := config.sampling.old_log_probs) != "auto":
        return asked, False
    one_step = config.ppo.num_ppo_epochs * config.ppo.num_mini_batches == 1
    return ("sampler" if exact or one_step else "learner"), one_step and not exact


def _require_space(config: PPOConfig, output: Output, policy: Policy) -> None:
    """Room for the model, its critic (of a shared one, the backbone once more) and its average; and for checkpoints."""
    actor, critic = n_bytes(policy.actor.causal_lm), n_bytes(policy.critic)
    of_critic = max(actor, critic) if config.has_critic else 0
    of_average = actor if config.run.ema_decay is not None else 0
    learned = bytes_of(learned_parameters(policy))
    # Adam's two moments, and with LoRA no model.
    weights = learned if config.model.use_peft else actor + of_critic
    result = actor + of_critic + of_average + _record_bytes(config)
    output.require_space(config, result=result, checkpoint=weights + 2 * learned + of_average)


def _record_bytes(config: PPOConfig) -> int:
    """What the record will take, if all answers are of full length."""
    options, batch = config.record, config.run.batch_size
    if not options.record_steps:
        return 0
    files = config.num_iterations // options.record_steps + 2  # the first and the last in any case
    tokens = min(batch, options.record_answers or batch) * config.sampling.response_length
    return min(files * tokens * TOKEN_BYTES, options.record_limit_mib * MIB)
