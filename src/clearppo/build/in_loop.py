"""From a PPOConfig to the evaluation in its loop: held-out prompts, and what measures the answers to them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clearppo.batch import ALONE, Division
from clearppo.build.common import DECODE_BATCH, pad_id, room_for_prompts, sampling_settings
from clearppo.config import OptionError, PPOConfig
from clearppo.config.kinds import number
from clearppo.data import PromptSet, encode_prompts, load_rows, prompt_key, split_prompts
from clearppo.engines.base import Engine
from clearppo.feedback.function import FunctionScorer, function_name, load_reward_function
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer, WeightedScorer, unique_names
from clearppo.feedback.shared import on_first
from clearppo.learning import Passes
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, SamplingSettings, Truncation
from clearppo.rundir import RunDir
from clearppo.train.eval_metrics import SCORE, metric_names
from clearppo.train.in_loop import Choice, EvaluationInLoop
from clearppo.train.marks import data_mark
from clearppo.train.track import Track

SEED = 2**32
"""Of the prompts that are chosen and of the answers' random numbers: no run's own, because --seed ends before it, and
the same for all runs, so that they can be compared."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows that are measured on, what the user calls them, and the functions that measure and are not optimised."""

    rows: Sequence[dict[str, Any]]
    source: str
    functions: Mapping[str, Scorer]
    also_learned: int


def read_held_out(
    config: PPOConfig, rows: list[dict[str, Any]], engine: Engine
) -> tuple[list[dict[str, Any]], HeldOut | None]:
    """The rows that are learned from, and those that are held out with what measures them; None: nothing is measured.

    Raises DataError, ConfigError and RewardError for whatever cannot be read.
    """
    options, data = config.eval, config.data
    if options.eval_steps is None:
        return rows, None
    held: list[dict[str, Any]]
    if options.eval_fraction is not None:
        rows, held = split_prompts(rows, options.eval_fraction, config.run.seed)
        source = data.dataset_name
    elif options.eval_dataset_name is not None:
        held, source = load_rows(options.eval_dataset_name, flag="eval_dataset_name"), options.eval_dataset_name
    else:
        split = options.dataset_test_split
        held = load_rows(data.dataset_name, config=data.dataset_config, split=split, split_flag="dataset_test_split")
        source = f"{data.dataset_name} ({split})"
    functions = on_first(lambda: _functions(options.eval_reward_funcs), engine)
    learned = {prompt_key(row["prompt"]) for row in rows}
    return rows, HeldOut(
        rows=held,
        source=source,
        functions={scorer.names[0]: scorer for scorer in functions},
        also_learned=sum(prompt_key(row["prompt"]) in learned for row in held),
    )


def _functions(named: Sequence[Any]) -> list[FunctionScorer]:
    functions = [load_reward_function(function) for function in named]
    names = unique_names([function_name(function) for function in functions])
    return [FunctionScorer(function, name) for name, function in zip(names, functions, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The prompts that are measured on, and everything that measures the answers, by name; "score" is optimised."""

    prompts: PromptSet
    scorers: Mapping[str, Scorer]

    def facts(self, config: PPOConfig) -> str:
        """What is measured, for people."""
        options, n = config.eval, len(self.prompts)
        drawn = f"temperature {number(options.eval_temperature)}" if options.eval_temperature else "greedy"
        names = [name for name in self.scorers if name != SCORE]
        others = f"; not optimised: {', '.join(names)}" if names else ""
        often = "every iteration" if options.eval_steps == 1 else f"every {options.eval_steps} iterations"
        return f"{often}, {n} held-out prompt{'s' * (n > 1)}, {drawn}{others}"


def load_measures(
    config: PPOConfig,
    held_out: HeldOut | None,
    policy: Policy,
    tokenizer: Any,
    scorer: WeightedScorer,
    note: Callable[[str], None],
) -> Measures | None:
    """Encode the held-out prompts and load the reward model that measures only; None if nothing is measured.

    At most eval_num_prompts of the prompts that fit are taken, chosen by chance once.
    """
    if held_out is None:
        return None
    if held_out.also_learned:
        note(
            f"{held_out.also_learned} of the {len(held_out.rows)} held-out prompts are in {config.data.dataset_name} "
            "too: the policy learns from them"
        )
    prompts = encode_prompts(
        held_out.rows,
        tokenizer,
        max_prompt_length=config.data.max_prompt_length,
        room=room_for_prompts(policy.actor.causal_lm, config.sampling.response_length),
        source=held_out.source,
    )
    wanted = min(config.eval.eval_num_prompts, len(prompts))
    chosen = prompts.chosen(sorted(random.Random(SEED).sample(range(len(prompts)), wanted)))
    return Measures(prompts=chosen, scorers=_scorers(config, held_out, policy, scorer))


def _scorers(config: PPOConfig, held_out: HeldOut, policy: Policy, scorer: WeightedScorer) -> dict[str, Scorer]:
    found: dict[str, Scorer] = dict(held_out.functions)
    if (path := config.eval.eval_reward_model_path) is not None:
        model = RewardModelScorer.load(
            path, device=policy.device, dtype=torch.float32, batch_size=config.run.micro_batch_size,
            trust_remote_code=config.model.trust_remote_code, autocast=policy.actor.autocast,
        )  # fmt: skip
        found[unique_names([*found, model.name])[-1]] = model
    taken = scorer.names if SCORE in scorer.names else (SCORE, *scorer.names)
    names = unique_names([*taken, *found])[len(taken) :]
    _check_choice(config, metric_names(names, scorer.names))
    return {SCORE: scorer, **dict(zip(names, found.values(), strict=True))}


def _check_choice(config: PPOConfig, names: Sequence[str]) -> None:
    wanted = config.eval.metric_for_best_model
    if wanted is not None and wanted not in names:
        raise OptionError(
            "metric_for_best_model",
            f"metric_for_best_model = {wanted} is nothing that this run measures. Use one of {', '.join(names)}.",
        )


def make_evaluation(
    config: PPOConfig, measures: Measures | None, *, policy: Policy, tokenizer: Any,
    another: Callable[[SamplingSettings, int], Sampler], reference: Reference, passes: Passes,
    truncation: Truncation | None, track: Track, run_dir: RunDir, division: Division = ALONE,
) -> EvaluationInLoop | None:  # fmt: skip
    """The evaluation of a run whose parts these are; None if nothing is measured."""
    options = config.eval
    if measures is None or options.eval_steps is None:
        return None
    for scorer in measures.scorers.values():
        if isinstance(scorer, RewardModelScorer):
            scorer.batch_tokens, scorer.division = passes.micro_batch_tokens, division
    choice = options.metric_for_best_model
    return EvaluationInLoop(
        policy=policy,
        prompts=measures.prompts.batch(range(len(measures.prompts)), pad_id(tokenizer)).to(policy.device),
        make_sampler=_samplers(config, policy, tokenizer, another),
        reference=reference,
        scorers=measures.scorers,
        portions={**passes.portions, "division": division},
        truncation=truncation,
        kl_temperature=None if options.eval_temperature else config.sampling.temperature,
        every=options.eval_steps,
        n_iterations=config.num_iterations,
        choice=None if choice is None else Choice(metric=choice, greater=options.greater_is_better),
        mark=data_mark(measures.prompts.texts, [options.eval_temperature, config.sampling.response_length]),
        run_dir=run_dir,
        track=track,
    )


def _samplers(
    config: PPOConfig, policy: Policy, tokenizer: Any, another: Callable[[SamplingSettings, int], Sampler]
) -> Callable[[], Sampler]:
    """What makes a sampler that begins anew, on the weights that the run's own sampler holds."""
    model = policy.actor.causal_lm
    settings = sampling_settings(config.sampling, model, tokenizer, max_batch_size=DECODE_BATCH)
    settings = replace(settings, temperature=config.eval.eval_temperature)
    return lambda: another(settings, SEED)
