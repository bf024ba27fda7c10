"""From a PrefsConfig to a run that makes comparisons: the model that answers, and who says which answer is better."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clearppo.build.common import (
    DECODE_BATCH,
    Loaded,
    load_model,
    make_engine,
    pad_id,
    room_for_prompts,
    sampling_settings,
    uses_autocast,
)
from clearppo.config import PrefsConfig
from clearppo.data import PromptSet, encode_prompts, load_rows
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.http import http_scorer
from clearppo.feedback.model import RewardModelScorer, find_reward_model
from clearppo.feedback.scorer import Scorer
from clearppo.models.build import make_policy
from clearppo.models.loading import refuse_reward_model
from clearppo.models.policy import Policy
from clearppo.rollout.inprocess import InProcessSampler
from clearppo.train.comparing import answers_headline, prefs_headline
from clearppo.train.listener import Listener, Silence, Summary
from clearppo.train.part_file import PartFile
from clearppo.train.prefs import PrefsRun, check_columns


def build_prefs(config: PrefsConfig, *, listener: Listener | None = None) -> PrefsRun:
    """Check, load and wire everything that `config` names. Cheap checks come first, so that bad input fails in seconds.

    Raises ClearPPOError (ConfigError, DataError, ModelError, DeviceError, RewardError, RunDirError).
    """
    listener = listener or Silence()
    engine = make_engine(config.model.device)
    torch.manual_seed(config.run.seed)
    light = _light_scorer(config)
    rows = _rows(config)
    _keep_prompts(config)
    file = PartFile.create(config.run.output_file, overwrite=config.run.overwrite_output_file)
    try:
        return _wired(config, engine, light, rows, file, listener)
    except BaseException:
        file.discard()
        raise


def check_prefs(config: PrefsConfig, unmade: Container[str] = ()) -> None:
    """Read the prompts and ask for the labeller, as `build_prefs` will, with no model loaded.

    Models in `unmade` are not there yet: an earlier step will make them. Raises ClearPPOError.
    """
    if _light_scorer(config) is None and config.label.reward_model_path is not None:
        find_reward_model(config.label.reward_model_path, trust_remote_code=config.model.trust_remote_code)
    _rows(config)
    if config.model.model_name_or_path not in unmade:
        refuse_reward_model(config.model.model_name_or_path)


def _rows(config: PrefsConfig) -> list[dict[str, Any]]:
    data = config.data
    rows = load_rows(data.dataset_name, config=data.dataset_config, split=data.dataset_train_split)
    check_columns(rows, data.dataset_name, for_human=config.label.for_human)
    return rows


def _wired(
    config: PrefsConfig,
    engine: Engine,
    light: Scorer | None,
    rows: Sequence[Mapping[str, Any]],
    file: PartFile,
    listener: Listener,
) -> PrefsRun:
    listener.phase("loading")
    scorer = light if config.label.reward_model_path is None else _reward_model(config, engine.device)
    loaded = load_model(config.model, note=listener.note)
    prompts = encode_prompts(
        rows,
        loaded.tokenizer,
        max_prompt_length=config.data.max_prompt_length,
        room=room_for_prompts(loaded.model, config.sampling.response_length),
        source=config.data.dataset_name,
    )
    at_once = config.sampling.generation_batch_size or DECODE_BATCH
    settings = sampling_settings(config.sampling, loaded.model, loaded.tokenizer, max_batch_size=at_once)
    policy = make_policy(engine.wrap(loaded.model), autocast=uses_autocast(config.model, engine.device))
    order = _prompt_order(len(prompts), config.label.max_prompts, config.run.seed)
    return PrefsRun(
        sampler=InProcessSampler(policy, loaded.tokenizer, settings, seed=config.run.seed),
        model=config.model.model_name_or_path,
        scorer=scorer,
        prompts=prompts,
        order=order,
        num_completions=config.sampling.num_completions,
        batch_prompts=max(1, at_once // config.sampling.num_completions),
        min_gap=config.label.min_gap,
        pad_id=pad_id(loaded.tokenizer),
        device=engine.device,
        file=file,
        listener=listener,
        summary=_summary(config, policy, loaded, prompts, len(order), scorer),
    )


def _prompt_order(count: int, most: int | None, seed: int) -> list[int]:
    """Which prompts are answered, in which order: all in theirs, or the first `most` of a seeded order."""
    if most is None:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].tolist()


def _light_scorer(config: PrefsConfig) -> Scorer | None:
    """A labeller that costs nothing to make, tried as far as it can be without answers; None for a reward model, and
    for people."""
    label = config.label
    if label.labeller is not None:
        function = load_reward_function(label.labeller, option="labeller", noun="labeller")
        return FunctionScorer(function, noun="labeller")
    if label.judge_url is not None:
        return http_scorer(label.judge_url, batch_size=config.run.micro_batch_size)
    return None


def _reward_model(config: PrefsConfig, device: torch.device) -> RewardModelScorer:
    path = config.label.reward_model_path
    assert path is not None  # PrefsConfig has exactly one labeller
    return RewardModelScorer.load(
        path,
        device=device,
        dtype=torch.float32,
        autocast=uses_autocast(config.model, device),
        batch_size=config.run.micro_batch_size,
        trust_remote_code=config.model.trust_remote_code,
    )


def _keep_prompts(config: PrefsConfig) -> None:
    """Raises ConfigError if the output would replace the prompts that this run reads."""
    prompts, output = (Path(name).expanduser().resolve() for name in (config.data.dataset_name, config.run.output_file))
    if prompts == output:
        raise ConfigError(
            f"output_file = {config.run.output_file} is dataset_name, the prompts that are read. "
            "Use another --output_file."
        )


def _summary(
    config: PrefsConfig, policy: Policy, loaded: Loaded, prompts: PromptSet, count: int, scorer: Scorer | None
) -> Summary:
    """What is about to be made, for people."""
    label, sampling = config.label, config.sampling
    who = f"labeller {scorer.names[0]}" if scorer and label.labeller else label.reward_model_path or label.judge_url
    gap = f" by more than {label.min_gap:g}" if label.min_gap else ""
    better = "people will say which is better" if scorer is None else f"better is what {who} scores higher{gap}"
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    model = {
        "model": "answers",
        "from": config.model.model_name_or_path,
        "parameters": f"{parameters / 1e6:,.1f} M",
        "dtype": "bf16" if policy.actor.autocast else config.model.dtype,
        "device": str(policy.device),
    }
    notes = []
    if prompts.n_too_long:
        notes.append(
            f"{prompts.n_too_long} prompts longer than max_prompt_length = {config.data.max_prompt_length} tokens are "
            f"left out (the longest has {prompts.longest})"
        )
    return Summary(
        objective=f"comparisons of {sampling.num_completions} answers to each prompt: {better}",
        facts=[
            ("prompts", f"{count} from {config.data.dataset_name}"),
            ("answers", f"up to {sampling.response_length} tokens at temperature {sampling.temperature:g}"),
            ("seed", str(config.run.seed)),
            ("output", config.run.output_file),
        ],
        models=[model],
        notes=notes,
        round="batch",
        headline=answers_headline if scorer is None else prefs_headline,
    )
