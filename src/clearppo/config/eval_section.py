"""The section `eval` of PPO: measuring on held-out prompts while the policy learns."""

from typing import Annotated

from pydantic import Field

from clearppo.config.data_sections import RewardFunction
from clearppo.config.kinds import OnlyIf, spelled
from clearppo.config.messages import InertOptionError, OptionError, listed
from clearppo.config.rules import check_function_name
from clearppo.config.section import Section

_MEASURED = OnlyIf("eval_steps", "is set", "nothing is measured while the policy learns", "--eval_steps 10")
_CHOSEN = OnlyIf("metric_for_best_model", "is set", "no checkpoint is the best", "--metric_for_best_model eval/score")


class EvalConfig(Section):
    """评估: how the policy is measured while it learns, on prompts that it does not learn from."""

    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Measure the policy on held-out prompts every so many iterations, before the first and after the "
        "last: scores, win rate against the start model, KL, length, repetition. Changes nothing of training. none: "
        "never.",
    )
    eval_dataset_name: Annotated[str | None, _MEASURED] = Field(
        default=None,
        min_length=1,
        description="Held-out prompts to measure on: a file or hub dataset like dataset_name.",
    )
    dataset_test_split: Annotated[str | None, _MEASURED] = Field(
        default=None, min_length=1, description="Split of a hub dataset to measure on; a file has none."
    )
    eval_fraction: Annotated[float | None, _MEASURED] = Field(
        default=None,
        gt=0,
        le=0.9,
        description="Share of the prompts in dataset_name that is held out to measure on, and so not learned from; "
        "equal prompts stay on one side. Usual: 0.05.",
    )
    eval_num_prompts: Annotated[int, _MEASURED] = Field(
        default=128,
        ge=1,
        description="Measure on at most so many of the held-out prompts, chosen by chance once. A mean over n prompts "
        "is known to about one standard deviation / sqrt(n); time grows with n.",
    )
    eval_temperature: Annotated[float, _MEASURED] = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Temperature of the measured answers; 0 takes the most likely token each time (greedy). The same "
        "random numbers are used at every measurement.",
    )
    eval_reward_funcs: Annotated[list[RewardFunction], _MEASURED] = Field(
        default=[],
        description="Python functions that score the measured answers and are never optimised, written file.py:name. "
        "If reward_funcs' score rises and theirs falls, the policy pleases its scorer and nobody else.",
    )
    eval_reward_model_path: Annotated[str | None, _MEASURED] = Field(
        default=None,
        min_length=1,
        description="A reward model that scores the measured answers and is never optimised, best one that learned "
        "from other data than reward_model_path.",
    )
    metric_for_best_model: Annotated[str | None, _MEASURED] = Field(
        default=None,
        min_length=1,
        description="Keep the checkpoint at which this measure was best, whatever save_total_limit says: eval/score, "
        "eval/win_rate, eval/kl, or the name of any other that metrics.jsonl has. none: no checkpoint is the best.",
    )
    greater_is_better: Annotated[bool, _CHOSEN] = Field(
        default=True,
        description="Whether the best is the greatest value of metric_for_best_model; false for eval/kl or "
        "eval/repetition.",
    )
    load_best_model_at_end: Annotated[bool, _CHOSEN] = Field(
        default=False, description="The final model is that of the best checkpoint instead of the last iteration's."
    )

    @property
    def sources(self) -> dict[str, object]:
        """The options that say where held-out prompts come from, of those that are given."""
        names = ("eval_dataset_name", "dataset_test_split", "eval_fraction")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def check_evaluation(evaluation: EvalConfig, n_iterations: int, save_steps: int) -> None:
    """The rules between the options of the section, in a run of `n_iterations`. Raises OptionError."""
    if evaluation.eval_steps is not None:
        _check_sources(evaluation)
        if evaluation.eval_steps > n_iterations:
            raise InertOptionError(
                "eval_steps",
                f"eval_steps = {evaluation.eval_steps} is more than the {n_iterations} iterations of this run. "
                f"Use --eval_steps {n_iterations} or less.",
            )
    for function in evaluation.eval_reward_funcs:
        check_function_name("eval_reward_funcs", function, model="eval_reward_model_path")
    metric = evaluation.metric_for_best_model
    if metric is not None and not metric.startswith("eval/"):
        raise OptionError(
            "metric_for_best_model",
            f"metric_for_best_model = {metric} is nothing that is measured on held-out prompts; those names begin with "
            "eval/. Use --metric_for_best_model eval/score.",
        )
    if metric is not None and not save_steps:
        raise OptionError(
            "metric_for_best_model",
            f"metric_for_best_model = {metric} keeps the best checkpoint, and with save_steps = 0 none is written. "
            "Set --save_steps 50, or leave out --metric_for_best_model.",
        )


def _check_sources(evaluation: EvalConfig) -> None:
    """One source of held-out prompts."""
    sources = evaluation.sources
    if not sources:
        raise OptionError(
            "eval_steps",
            f"eval_steps = {evaluation.eval_steps} measures on held-out prompts, and there are none. "
            "Set --eval_dataset_name FILE, or --eval_fraction 0.05 to hold out a share of dataset_name.",
        )
    if len(sources) > 1:
        said = [f"{name} = {spelled(value)}" for name, value in sources.items()]
        raise OptionError(
            list(sources)[1],
            f"{listed(said)} {'both' if len(said) == 2 else 'all'} say which prompts are held out. Give only one.",
        )
