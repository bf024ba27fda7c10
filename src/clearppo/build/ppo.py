"""From a PPOConfig to the objects of a run."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch

from clearppo.build.common import (
    DECODE_BATCH,
    bytes_of,
    learned_parameters,
    load_model,
    make_training_engine,
    n_bytes,
    pad_id,
    room_for_prompts,
    sampling_settings,
    unite,
)
from clearppo.build.in_loop import HeldOut, load_measures, make_evaluation, read_held_out
from clearppo.build.learning import (
    make_optimiser,
    make_passes,
    make_policy_of,
    make_ptx,
    other_texts,
    ppo_objective,
    ppo_recipe,
)
from clearppo.build.output import Output, Place, run_directory
from clearppo.build.plan import plan_of_run
from clearppo.build.plan_inputs import Inputs, shape_of
from clearppo.build.sampling import check_sampler, make_answering
from clearppo.build.scoring import close_sources, light_sources, whole_scorer
from clearppo.build.sharding import decide, shard
from clearppo.build.tracking import check_trackers, make_trackers
from clearppo.config import PPOConfig
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import FixedMoments, RunningScaling, ScoreScaling
from clearppo.data import (
    Demonstration,
    PromptSet,
    encode_prompts,
    load_demonstrations,
    load_rows,
)
from clearppo.engines.base import Engine
from clearppo.engines.environment import is_first
from clearppo.engines.local import LocalEngine
from clearppo.engines.peak import Peak
from clearppo.feedback.model import RewardModelScorer, find_reward_model
from clearppo.feedback.scorer import Scorer, WeightedScorer
from clearppo.feedback.shared import on_first
from clearppo.learning import Passes
from clearppo.models.build import make_reference
from clearppo.models.ema import EMA
from clearppo.models.loading import context_length, refuse_reward_model
from clearppo.models.policy import FrozenReference, Policy
from clearppo.models.trunk import TrunkReward
from clearppo.record import Store
from clearppo.rollout import Truncation
from clearppo.rollout.inprocess import InProcessSampler
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


def build_ppo(config: PPOConfig, *, listener: Listener | None = None, place: Place = run_directory) -> PPORun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.
    `place` gives it its directory.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RewardError, RunDirError).
    """
    listener = listener or Silence()
    engine = make_training_engine(config)
    torch.manual_seed(config.run.seed)
    sources, rows, texts, held_out = _read(config, engine)
    with place(config, _inputs(config), listener, engine) as output:
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
    check_sampler(config, engine)
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
    _require_space(config, output, policy)
    others = other_texts(config, texts, tokenizer, context_length(policy.actor.causal_lm)) if texts else None
    answering = make_answering(config, policy, tokenizer, engine, prompts.ids, held_out, listener.note)
    recipe = ppo_recipe(config, _truncation(config, tokenizer), **answering.numbers)
    scorer, reward_model = whole_scorer(config, sources, policy, tokenizer, listener.note, engine)
    measures = load_measures(config, held_out, policy, tokenizer, scorer, listener.note)
    reference = make_reference(policy, micro_batch_size=config.run.micro_batch_size, division=engine)
    passes = _passes(config, engine, output, policy, answering.numbers, reference, scorer)
    planned = _planned_inputs(config, policy, scorer, prompts, passes)
    sharing = decide(config, engine, lambda wanted: plan_of_run(wanted, planned, note=listener.note), listener.note)
    shard(config, engine, sharing, policy, reference, scorer, measures, answering.decoder)
    track = _track(config, output.run_dir, tokenizer, listener, recipe, passes, engine)
    evaluation = make_evaluation(
        config, measures, policy=policy, tokenizer=tokenizer, another=answering.another, reference=reference,
        passes=passes, truncation=recipe.truncation, track=track, run_dir=output.run_dir, division=engine,
    )  # fmt: skip
    summary = summarise(
        config, policy, prompts, others, decoding=answering.how, exact=answering.exact, recipe=recipe, passes=passes,
        reward_model=reward_model, evaluation=measures.facts(config) if measures else None, device=engine.device,
    )  # fmt: skip
    return PPORun(
        config=config, policy=policy, reference=reference, sampler=answering.sampler, scorer=scorer, engine=engine,
        scaling=_scaling(config),
        optimiser=make_optimiser(config, policy),
        kl=_kl_controller(config),
        recipe=recipe,
        objective=ppo_objective(config),
        passes=passes,
        ptx=None if others is None else make_ptx(config, others, pad_id(tokenizer), engine.device),
        prompts=prompts, tokenizer=tokenizer, pad_id=pad_id(tokenizer),
        run_dir=output.run_dir, listener=listener, summary=summary, track=track,
        evaluation=evaluation,
        generator=torch.Generator().manual_seed(config.run.seed),
        ema=EMA(policy.actor, config.run.ema_decay),
        checkpoints=output.checkpoints,
        resume=output.resume,
        plan=sharing.plan,
        numbers=sharing.numbers,
    )  # fmt: skip


def _planned_inputs(
    config: PPOConfig, policy: Policy, scorer: WeightedScorer, prompts: PromptSet, passes: Passes
) -> Inputs:
    models = [source.model for source in scorer.sources if isinstance(source, RewardModelScorer)]
    own = next((model for model in models if not isinstance(model, TrunkReward)), None)
    return Inputs(
        policy=shape_of(policy.actor.causal_lm, config.model.lora_target_modules),
        judge=None if own is None else shape_of(own),
        judge_on_trunk=bool(models) and own is None,
        lengths=[len(ids) for ids in prompts.ids],
        rounds=config.num_iterations,
        micro_tokens=passes.micro_batch_tokens,
    )


def _passes(
    config: PPOConfig,
    engine: Engine,
    output: Output,
    policy: Policy,
    numbers: Mapping[str, bool],
    reference: FrozenReference,
    scorer: WeightedScorer,
) -> Passes:
    """How answers are cut. What bounds a micro-batch in learning bounds it in every other pass."""
    tokens = output.micro_batch_tokens(config.run.max_tokens_per_microbatch)
    passes = make_passes(config, policy, engine, tokens=tokens, **numbers)
    reference.micro_batch_tokens = passes.micro_batch_tokens
    for source in scorer.sources:
        if isinstance(source, RewardModelScorer):
            source.batch_tokens = passes.micro_batch_tokens
    return passes


def _track(
    config: PPOConfig,
    run_dir: RunDir,
    tokenizer: Any,
    listener: Listener,
    recipe: Recipe,
    passes: Passes,
    engine: Engine,
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
        peak=Peak(engine.device),
        waited=engine.waited if engine.world > 1 else None,
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
    policy = make_policy_of(config, engine, loaded)
    unite(engine, policy, config.data.dataset_name, prompts)
    return policy, loaded.tokenizer, prompts


def build_sampler(run: PPORun, *, seed: int) -> InProcessSampler:
    """Another sampler on the run's policy as it is now, with random numbers of its own; for evaluation. It shares the
    decoder of the run's sampler, and with it whatever copy of the weights that keeps."""
    model = run.policy.actor.causal_lm
    settings = sampling_settings(run.config.sampling, model, run.tokenizer, max_batch_size=DECODE_BATCH)
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


def _kl_controller(config: PPOConfig) -> FixedKL | AdaptiveKL:
    if config.kl.kl_controller == "fixed":
        return FixedKL(config.kl.kl_coef)
    return AdaptiveKL(config.kl.kl_coef, config.kl.kl_target, config.kl.kl_horizon)


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
