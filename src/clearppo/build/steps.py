"""From an SFTConfig or a RewardModelConfig to the objects of a run, as build/ppo.py does it for PPO."""

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from clearppo.build.common import (
    bytes_of,
    learned_parameters,
    load_model,
    loading,
    make_training_engine,
    micro_batch_tokens,
    n_bytes,
    optimising,
    pad_id,
    training,
    unite,
)
from clearppo.build.output import Output, Place, run_directory
from clearppo.build.plan import plan_of_run
from clearppo.build.plan_inputs import Inputs, shape_of
from clearppo.build.sharding import Sharing, decide, require_gpu, require_one_pass
from clearppo.build.tracking import check_trackers, make_trackers
from clearppo.config import OptimConfig, RewardModelConfig, SFTConfig, TrainRunConfig, explicit
from clearppo.data.comparisons import Comparison, ComparisonSet, encode_comparisons, load_comparisons, split_comparisons
from clearppo.data.demonstrations import (
    Demonstration,
    SequenceSet,
    encode_demonstrations,
    load_demonstrations,
    split_demonstrations,
)
from clearppo.data.judgement import DEFAULT_TEMPLATE, JudgementTemplate
from clearppo.data.references import encode_references
from clearppo.engines.base import Engine
from clearppo.engines.peak import Peak
from clearppo.learning.optimiser import adamw, rate_scale
from clearppo.learning.reward import RewardObjective, check_comparisons
from clearppo.models.build import make_actor
from clearppo.models.loading import context_length, load_tokenizer, refuse_reward_model, resolve_model
from clearppo.models.reward_model import load_classifier, make_reward_model, new_head
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, Silence
from clearppo.train.registry import Registry
from clearppo.train.reward import RewardRun
from clearppo.train.sft import SFTRun
from clearppo.train.step_metrics import REWARD, SFT, Step
from clearppo.train.step_summary import summarise_reward, summarise_sft
from clearppo.train.supervised import Course, StepTrack

RowT = TypeVar("RowT")
Rows = tuple[Sequence[RowT], Sequence[RowT]]
"""Rows to learn from, and rows held out."""


def build_sft(config: SFTConfig, *, listener: Listener | None = None, place: Place = run_directory) -> SFTRun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.
    `place` gives it its directory.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RunDirError).
    """
    listener = listener or Silence()
    engine = make_training_engine(config)
    torch.manual_seed(config.run.seed)
    rows = _rows(config, load_demonstrations, split_demonstrations)
    with place(config, _inputs(config), listener, engine) as output:
        return _wired_sft(config, engine, rows, output, listener)


def build_reward(
    config: RewardModelConfig, *, listener: Listener | None = None, place: Place = run_directory
) -> RewardRun:
    """The same for a reward model."""
    listener = listener or Silence()
    engine = make_training_engine(config)
    torch.manual_seed(config.run.seed)
    template, references = _judgement(config), _references(config)
    rows = _rows(config, partial(load_comparisons, note=listener.note), split_comparisons)
    with place(config, _inputs(config), listener, engine) as output:
        return _wired_reward(config, engine, template, rows, references, output, listener)


def check_sft(config: SFTConfig) -> None:
    """Read the data, as `build_sft` will. Raises ClearPPOError if it cannot be read."""
    refuse_reward_model(config.model.model_name_or_path)
    _rows(config, load_demonstrations, split_demonstrations)


def check_reward(config: RewardModelConfig, unmade: Container[str] = ()) -> None:
    """The same for a reward model. Files in `unmade` are not there yet: an earlier step will make them."""
    _judgement(config)
    _references(config)
    if config.data.dataset_name not in unmade:
        _rows(config, load_comparisons, split_comparisons)


def _judgement(config: RewardModelConfig) -> JudgementTemplate | None:
    text = config.data.judgement_template
    return None if text is None else JudgementTemplate(text)


def _references(config: RewardModelConfig) -> Sequence[Demonstration] | None:
    name = config.rm.reference_dataset_name
    return None if name is None else load_demonstrations(name, flag="reference_dataset_name")


def _wired_sft(
    config: SFTConfig, engine: Engine, rows: Rows[Demonstration], output: Output, listener: Listener
) -> SFTRun:
    listener.phase("loading")
    loaded = load_model(config.model, note=listener.note)
    learned, held_out = _encoded_demonstrations(config, rows, loaded.tokenizer, context_length(loaded.model))
    actor = make_actor(engine.wrap(loaded.model), **training(config.model, engine.device))
    unite(engine, actor, config.data.dataset_name, learned)
    _require_space(config, output, actor)
    tokens = _micro_batch_tokens(config.run, output, engine, actor, actor.causal_lm)
    course = _course(config.run, config.optim, learned.lengths, learned.lengths)
    planned = Inputs(
        policy=shape_of(loaded.model, config.model.lora_target_modules),
        lengths=learned.lengths,
        rounds=course.n_steps,
        micro_tokens=tokens,
    )
    sharing = decide(config, engine, lambda wanted: plan_of_run(wanted, planned, note=listener.note), listener.note)
    _shard(config, engine, sharing, actor)
    return SFTRun(
        config=config,
        actor=actor,
        engine=engine,
        optimiser=adamw(learned_parameters(actor), **optimising(config.optim)),
        learned=learned,
        held_out=held_out,
        course=course,
        tokenizer=loaded.tokenizer,
        pad_id=pad_id(loaded.tokenizer),
        micro_batch_tokens=tokens,
        run_dir=output.run_dir,
        listener=listener,
        summary=summarise_sft(
            config,
            actor,
            learned=learned,
            held_out=held_out,
            course=course,
            micro_batch_tokens=tokens,
            device=engine.device,
        ),
        track=_track(SFT, config, output.run_dir, listener, engine),
        checkpoints=output.checkpoints,
        resume=output.resume,
        plan=sharing.plan,
        numbers=sharing.numbers,
    )


def _shard(config: SFTConfig | RewardModelConfig, engine: Engine, sharing: Sharing, network: nn.Module) -> None:
    """Have every process keep a share of the network, if `sharing` says so. Raises ConfigError, ModelError."""
    if sharing.full:
        away = config.run.offload == "cpu"
        require_gpu("offload", config.run.offload, away, engine)
        engine.shard(network, offload=away)


def _wired_reward(
    config: RewardModelConfig,
    engine: Engine,
    template: JudgementTemplate | None,
    rows: Rows[Comparison],
    references: Sequence[Demonstration] | None,
    output: Output,
    listener: Listener,
) -> RewardRun:
    listener.phase("loading")
    path = resolve_model(config.model.model_name_or_path, note=listener.note)
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    # A reward model that is trained further goes on reading what it has read.
    template = template or JudgementTemplate.load(path) or JudgementTemplate(DEFAULT_TEMPLATE)
    classifier = load_classifier(path, head_std=config.rm.head_init_std, seed=config.run.seed, **loading(config.model))
    if "head_init_std" in explicit(config) and not new_head(classifier):
        listener.note(f"head_init_std has no effect: {path} is a reward model already and keeps its score layer")
    objective = RewardObjective(loss=config.rm.rm_loss, center_coef=config.rm.center_coef)
    learned, held_out = _encoded_comparisons(config, rows, tokenizer, template, context_length(classifier), objective)
    model = make_reward_model(engine.wrap(classifier), **training(config.model, engine.device))
    unite(engine, model, config.data.dataset_name, learned)
    _require_space(config, output, model)
    tokens = _micro_batch_tokens(config.run, output, engine, model, model.classifier)
    course = _course(config.run, config.optim, learned.lengths, [sum(map(len, texts)) for texts in learned.ids])
    planned = _planned_inputs(config, classifier, learned, course, tokens)
    sharing = decide(config, engine, lambda wanted: plan_of_run(wanted, planned, note=listener.note), listener.note)
    require_one_pass(config, sharing, learned, tokens)
    _shard(config, engine, sharing, model)
    return RewardRun(
        config=config,
        model=model,
        template=template,
        engine=engine,
        optimiser=adamw(learned_parameters(model), **optimising(config.optim)),
        objective=objective,
        learned=learned,
        held_out=held_out,
        references=_reference_ids(config, references, learned, tokenizer, template, model.room),
        course=course,
        tokenizer=tokenizer,
        pad_id=pad_id(tokenizer),
        micro_batch_tokens=tokens,
        run_dir=output.run_dir,
        listener=listener,
        summary=summarise_reward(
            config,
            model,
            template=template.text,
            learned=learned,
            held_out=held_out,
            course=course,
            micro_batch_tokens=tokens,
            device=engine.device,
        ),
        track=_track(REWARD, config, output.run_dir, listener, engine),
        checkpoints=output.checkpoints,
        resume=output.resume,
        plan=sharing.plan,
        numbers=sharing.numbers,
    )


def _track(
    registry: Registry[Step],
    config: SFTConfig | RewardModelConfig,
    run_dir: RunDir,
    listener: Listener,
    engine: Engine,
) -> StepTrack:
    trackers = make_trackers(config.tracking, config.run.output_dir) if engine.rank == 0 else None
    return StepTrack(
        registry,
        run_dir,
        listener,
        logging_steps=config.run.logging_steps,
        trackers=trackers,
        peak=Peak(engine.device),
        waited=engine.waited if engine.world > 1 else None,
    )


def _planned_inputs(
    config: RewardModelConfig, classifier: Any, learned: ComparisonSet, course: Course, tokens: int | None
) -> Inputs:
    lengths = [len(ids) for answers in learned.ids for ids in answers]
    return Inputs(
        policy=shape_of(classifier, config.model.lora_target_modules),
        lengths=lengths,
        texts=len(lengths) / len(learned.ids),
        rounds=course.n_steps,
        micro_tokens=tokens,
    )


def _micro_batch_tokens(
    run: TrainRunConfig, output: Output, engine: Engine, network: nn.Module, model: Any
) -> int | None:
    asked = output.micro_batch_tokens(run.max_tokens_per_microbatch)
    return micro_batch_tokens(asked, engine, [model], learned_parameters(network))


def _require_space(config: SFTConfig | RewardModelConfig, output: Output, network: nn.Module) -> None:
    whole, learned = n_bytes(network), bytes_of(learned_parameters(network))
    # In a checkpoint: Adam's two moments, and with LoRA no model.
    weights = learned if config.model.use_peft else whole
    output.require_space(config, result=whole, checkpoint=weights + 2 * learned)


def _inputs(config: SFTConfig | RewardModelConfig) -> dict[str, object]:
    """The options that name what this run reads."""
    names = {
        "model_name_or_path": config.model.model_name_or_path,
        "dataset_name": config.data.dataset_name,
        "eval_dataset_name": config.data.eval_dataset_name,
    }
    if isinstance(config, RewardModelConfig):
        names["reference_dataset_name"] = config.rm.reference_dataset_name
    return dict(names)


def _rows(
    config: SFTConfig | RewardModelConfig,
    load: Callable[..., Sequence[RowT]],
    split_off: Callable[[Sequence[RowT], float, int], Rows[RowT]],
) -> Rows[RowT]:
    check_trackers(config.tracking)
    data = config.data
    rows = load(data.dataset_name, config=data.dataset_config, split=data.dataset_train_split)
    if data.eval_dataset_name is not None:
        return rows, load(data.eval_dataset_name, flag="eval_dataset_name")
    if data.dataset_test_split is not None:
        part = data.dataset_test_split
        return rows, load(data.dataset_name, config=data.dataset_config, split=part, split_flag="dataset_test_split")
    return split_off(rows, data.eval_fraction, config.run.seed) if data.eval_fraction else (rows, ())


def _encoded_demonstrations(
    config: SFTConfig, rows: Rows[Demonstration], tokenizer: Any, context: int | None
) -> tuple[SequenceSet, SequenceSet | None]:
    data = config.data

    def encoded(part: Sequence[Demonstration], source: str) -> SequenceSet:
        return encode_demonstrations(
            part,
            tokenizer,
            max_length=_limit(data.max_length, context),
            room=context,
            completion_only=data.completion_only_loss,
            source=source,
        )

    learned = encoded(rows[0], data.dataset_name)
    return learned, encoded(rows[1], _held_out_source(config)) if rows[1] else None


def _encoded_comparisons(
    config: RewardModelConfig,
    rows: Rows[Comparison],
    tokenizer: Any,
    template: JudgementTemplate,
    context: int | None,
    objective: RewardObjective,
) -> tuple[ComparisonSet, ComparisonSet | None]:
    def encoded(part: Sequence[Comparison], source: str) -> ComparisonSet:
        limit = _limit(config.data.max_length, context)
        found = encode_comparisons(part, tokenizer, template, max_length=limit, room=context, source=source)
        check_comparisons(found, objective, source)
        return found

    learned = encoded(rows[0], config.data.dataset_name)
    return learned, encoded(rows[1], _held_out_source(config)) if rows[1] else None


def _held_out_source(config: SFTConfig | RewardModelConfig) -> str:
    data = config.data
    return data.eval_dataset_name or f"the held-out part of {data.dataset_name}"


def _limit(max_length: int | None, context: int | None) -> int | None:
    """The longest text that is kept: what the model cannot read is left out too, unless every row must fit."""
    return max_length if max_length is None or context is None else min(max_length, context)


def _reference_ids(
    config: RewardModelConfig,
    references: Sequence[Demonstration] | None,
    learned: ComparisonSet,
    tokenizer: Any,
    template: JudgementTemplate,
    context: int | None,
) -> Sequence[Sequence[int]]:
    """The texts on which scores get their mean and standard deviation: all compared answers, if no others are named."""
    if references is None:
        return [ids for texts in learned.ids for ids in texts]
    limit = _limit(config.data.max_length, context) or context
    return encode_references(
        references, tokenizer, template, max_length=limit, source=str(config.rm.reference_dataset_name)
    )


def _course(run: TrainRunConfig, optim: OptimConfig, lengths: Sequence[int], tokens: Sequence[int]) -> Course:
    def rate(step: int, n_steps: int) -> float:
        return rate_scale(
            step,
            n_steps,
            optim.lr_scheduler_type,
            optim.warmup_ratio,
            warmup_steps=optim.warmup_steps,
            warmup_start=optim.warmup_start,
            min_lr_ratio=optim.min_lr_ratio,
        )

    return Course(
        lengths=lengths,
        tokens=tokens,
        batch_size=run.batch_size,
        epochs=run.num_train_epochs,
        max_steps=run.max_steps,
        eval_steps=run.eval_steps,
        rate=rate,
    )
