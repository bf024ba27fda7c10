"""What a plan needs to know of models and texts, of a run that is built or from its configuration alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from clearppo.build.common import room_for_prompts
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.data import encode_demonstrations, encode_prompts, load_demonstrations, load_rows
from clearppo.data.comparisons import encode_comparisons, load_comparisons
from clearppo.data.judgement import DEFAULT_TEMPLATE, JudgementTemplate
from clearppo.errors import ModelError
from clearppo.feedback.model import find_reward_model
from clearppo.models.fused_layers import FAMILIES
from clearppo.models.loading import (
    context_length,
    first_line,
    load_tokenizer,
    quiet_transformers,
    refuse_reward_model,
    resolve_model,
)
from clearppo.models.trunk import ADAPTER, RECORD
from clearppo.plan.shape import Shape

TrainConfig = SFTConfig | RewardModelConfig | PPOConfig
RowT = TypeVar("RowT")
SAMPLE = 512
"""So many rows are tokenised, evenly spread; their lengths stand for all."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Shapes of the models, and lengths in tokens: of the prompts, or of the texts that SFT or a reward model learns
    from, of which a row has `texts`. `micro_tokens` is what a micro-batch may hold, "auto": what memory allows.
    `assumptions` are sentences about what was not looked at."""

    policy: Shape
    judge: Shape | None = None
    judge_on_trunk: bool = False
    lengths: Sequence[int]
    texts: float = 1.0
    rounds: int
    micro_tokens: int | Literal["auto"] | None = "auto"
    assumptions: Sequence[str] = ()


def shape_of(model: Any, targets: Sequence[str] | str = "all-linear") -> Shape:
    """The shape of a transformers model, loaded or not (on torch's device `meta`), without any adapters. `targets` are
    the layers that LoRA would adapt."""
    config = model.config.get_text_config()
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    of_head = set() if outputs is None else {id(p) for p in outputs.parameters()}
    matrices = others = embeddings = lora = 0
    for name, part in model.named_modules():
        for kind, parameter in part.named_parameters(recurse=False):
            if id(parameter) in tables:
                continue
            if id(parameter) in of_head or kind.startswith("lora_") or "lora_" in name:
                continue
            if parameter.ndim >= 2:
                matrices += parameter.numel()
                adapted = targets == "all-linear" or name.removesuffix(".base_layer").rsplit(".", 1)[-1] in targets
                lora += sum(parameter.shape) if adapted and isinstance(part, nn.Linear | Conv1D) else 0
            else:
                others += parameter.numel()
    embeddings = sum(p.numel() for p in {id(p): p for p in model.parameters() if id(p) in tables}.values())
    heads = config.num_attention_heads
    hidden = config.hidden_size
    wide = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    return Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        wide=max(wide) if isinstance(wide, list | tuple) else wide,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        vocabulary=inputs.weight.shape[0],
        embeddings=embeddings,
        matrices=matrices,
        others=others,
        head=0 if outputs is None else outputs.weight.numel(),
        tied=tied,
        lora=lora,
        fused=config.model_type in FAMILIES,
    )


def described(path: str, *, classifier: bool, trust_remote_code: bool = False) -> Any:
    """The model of a directory or hub name without its weights, from its config alone. Raises ModelError."""
    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    extra = {"num_labels": 1} if classifier else {}
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **extra)
            return auto.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(f"cannot read the config of {path}: {first_line(error)}. Check the name.") from error


def inputs_of(config: TrainConfig) -> Inputs:
    """Read the configs of the models and a part of the texts. Raises ClearPPOError."""
    model = config.model
    if not isinstance(config, RewardModelConfig):
        refuse_reward_model(model.model_name_or_path)
    path = resolve_model(model.model_name_or_path)
    trust = model.trust_remote_code
    network = described(path, classifier=isinstance(config, RewardModelConfig), trust_remote_code=trust)
    tokenizer = load_tokenizer(path, trust_remote_code=trust)
    shape = shape_of(network, model.lora_target_modules)
    tokens = config.run.max_tokens_per_microbatch
    match config:
        case PPOConfig():
            return _of_ppo(config, shape, network, tokenizer)
        case SFTConfig():
            return _of_sft(config, shape, network, tokenizer, tokens)
        case _:
            return _of_reward(config, shape, network, tokenizer, path, tokens)


def on_trunk(config: PPOConfig, directory: str) -> bool:
    """Whether the reward model of this directory will be an adapter on the policy's trunk, as far as its files say."""
    return (
        config.model.use_peft
        and config.reward.share_trunk is not False
        and (Path(directory).expanduser() / ADAPTER / RECORD).is_file()
    )


def _of_ppo(config: PPOConfig, shape: Shape, network: Any, tokenizer: Any) -> Inputs:
    data = config.data
    rows = load_rows(data.dataset_name, config=data.dataset_config, split=data.dataset_train_split)
    prompts = encode_prompts(
        spread(rows),
        tokenizer,
        max_prompt_length=data.max_prompt_length,
        room=room_for_prompts(network, config.sampling.response_length),
        source=data.dataset_name,
    )
    judge, trunk, said = None, False, _of_sample(len(rows))
    if (named := config.reward.reward_model_path) is not None:
        trust = config.model.trust_remote_code
        found = find_reward_model(named, trust_remote_code=trust)
        trunk = on_trunk(config, found)
        if trunk:
            said = [*said, "the reward model's adapter belongs to the policy's weights"]
        else:
            judge = shape_of(described(found, classifier=True, trust_remote_code=trust))
    return Inputs(
        policy=shape,
        judge=judge,
        judge_on_trunk=trunk,
        lengths=[len(ids) for ids in prompts.ids],
        rounds=config.num_iterations,
        micro_tokens=config.run.max_tokens_per_microbatch,
        assumptions=said,
    )


def _of_sft(
    config: SFTConfig, shape: Shape, network: Any, tokenizer: Any, tokens: int | Literal["auto"] | None
) -> Inputs:
    data, context = config.data, context_length(network)
    rows = load_demonstrations(data.dataset_name, config=data.dataset_config, split=data.dataset_train_split)
    found = encode_demonstrations(
        spread(rows),
        tokenizer,
        max_length=_limit(data.max_length, context),
        room=context,
        completion_only=data.completion_only_loss,
        source=data.dataset_name,
    )
    rounds = _steps(config, len(rows))
    return Inputs(
        policy=shape, lengths=found.lengths, rounds=rounds, micro_tokens=tokens, assumptions=_of_sample(len(rows))
    )


def _of_reward(
    config: RewardModelConfig,
    shape: Shape,
    network: Any,
    tokenizer: Any,
    path: str,
    tokens: int | Literal["auto"] | None,
) -> Inputs:
    data, context = config.data, context_length(network)
    asked = data.judgement_template
    template = JudgementTemplate(asked) if asked is not None else JudgementTemplate.load(path)
    rows = load_comparisons(data.dataset_name, config=data.dataset_config, split=data.dataset_train_split)
    found = encode_comparisons(
        spread(rows),
        tokenizer,
        template or JudgementTemplate(DEFAULT_TEMPLATE),
        max_length=_limit(data.max_length, context),
        room=context,
        source=data.dataset_name,
    )
    lengths = [len(ids) for answers in found.ids for ids in answers]
    return Inputs(
        policy=shape,
        lengths=lengths,
        texts=len(lengths) / len(found.ids),
        rounds=_steps(config, len(rows)),
        micro_tokens=tokens,
        assumptions=_of_sample(len(rows)),
    )


def spread(rows: Sequence[RowT]) -> list[RowT]:
    """Some of the rows, evenly spread; all, if they are few."""
    if len(rows) <= SAMPLE:
        return list(rows)
    return [rows[i * len(rows) // SAMPLE] for i in range(SAMPLE)]


def _of_sample(n_rows: int) -> list[str]:
    return [f"the lengths of {SAMPLE} of {n_rows} rows stand for all"] if n_rows > SAMPLE else []


def _limit(longest: int | None, context: int | None) -> int | None:
    return longest if longest is None or context is None else min(longest, context)


def _steps(config: SFTConfig | RewardModelConfig, n_rows: int) -> int:
    """Optimiser steps of the whole run."""
    data, run = config.data, config.run
    if run.max_steps is not None:
        return run.max_steps
    held_out = data.eval_fraction if data.eval_dataset_name is None and data.dataset_test_split is None else 0
    per_epoch = math.ceil(max(n_rows * (1 - held_out), 1) / run.batch_size)
    return max(math.ceil(round(run.num_train_epochs * per_epoch, 6)), 1)
