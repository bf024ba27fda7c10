"""What `clearppo sft` and `clearppo reward` are about to do, said before they do it."""

from collections.abc import Mapping
from typing import Any

import torch

from clearppo.config import NetworkConfig, RewardModelConfig, SFTConfig
from clearppo.data.comparisons import ComparisonSet
from clearppo.data.demonstrations import SequenceSet
from clearppo.models.actor import Actor
from clearppo.models.reward_model import RewardModel
from clearppo.train.listener import Summary
from clearppo.train.sizes import count, micro_batches, trainable
from clearppo.train.supervised import Course

Part = SequenceSet | ComparisonSet


def summarise_sft(
    config: SFTConfig, actor: Actor, *, learned: SequenceSet, held_out: SequenceSet | None, course: Course,
    micro_batch_tokens: int | None, device: torch.device,
) -> Summary:  # fmt: skip
    """The loss, the model, the data, the length of the run, and what the user should know."""
    what = (
        "the learned tokens: completions and assistant messages" if config.data.completion_only_loss else "all tokens"
    )
    data = (
        "demonstrations",
        f"{len(learned)} from {config.data.dataset_name} ({sum(learned.lengths):,} tokens, "
        f"{learned.n_loss_tokens:,} of them learned)",
    )
    return Summary(
        objective=f"minimise E[-log p(token | what stands before it)],  E over {what}",
        facts=[data, *_facts(config, held_out, course, micro_batch_tokens, device)],
        models=[_model("policy", config.model, actor, device)],
        notes=_notes(config, learned, held_out),
        round="step",
        headline=sft_headline,
    )


def summarise_reward(
    config: RewardModelConfig, model: RewardModel, *, template: str, learned: ComparisonSet,
    held_out: ComparisonSet | None, course: Course, micro_batch_tokens: int | None, device: torch.device,
) -> Summary:  # fmt: skip
    """The loss, the model, the data, what it reads, the length of the run, and what the user should know."""
    data = (
        "comparisons",
        f"{len(learned)} from {config.data.dataset_name} ({learned.n_pairs:,} pairs of {sum(map(len, learned.ids)):,} "
        "answers)",
    )
    has_margins = any(any(comparison.margins) for comparison in learned.comparisons)
    scale = {
        None: "as trained",
        "mean": "moved to mean 0 on the reference samples",
        "mean-std": "moved to mean 0, standard deviation 1 on the reference samples",
    }
    return Summary(
        objective=f"minimise {reward_objective(config, has_margins=has_margins)}",
        facts=[
            data,
            ("reads", repr(template)),
            ("scores", scale[config.rm.score_normalisation]),
            *_facts(config, held_out, course, micro_batch_tokens, device),
        ],
        models=[_model("reward model", config.model, model, device)],
        notes=_notes(config, learned, held_out),
        round="step",
        headline=reward_headline,
    )


def reward_objective(config: RewardModelConfig, *, has_margins: bool) -> str:
    """The loss in one line of mathematics; s is the score of an answer."""
    rm = config.rm
    pair = f"-log sigmoid(s(better) - s(worse){' - margin' if has_margins else ''})"
    lines = {
        "pairwise": f"E_pairs[{pair}]",
        "k-wise": f"E_prompts[mean over its pairs of {pair}]",
        "best-of-n": "E_prompts[-log softmax(s)[the chosen answer]]",
        "all-token": f"E_pairs[mean over the tokens from where they differ of {pair}]",
    }
    centring = f" + {rm.center_coef:g} * E[(s(better) + s(worse))^2]" if rm.center_coef else ""
    return f"{lines[rm.rm_loss]}{centring}"


def sft_headline(metrics: Mapping[str, float]) -> str:
    """The numbers that one watches in a run of SFT."""
    return _line(_loss(metrics), metrics, ("eval/loss", "held out {:.3f}"))


def reward_headline(metrics: Mapping[str, float]) -> str:
    """The numbers that one watches while a reward model is trained."""
    line = _loss(metrics)
    if "accuracy" in metrics:
        line += f"  accuracy {metrics['accuracy']:.0%}"
    return _line(line, metrics, ("eval/accuracy", "held out {:.1%}"))


def _loss(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['loss']:.3f}" if "loss" in metrics else "step left out"


def _line(line: str, metrics: Mapping[str, float], held_out: tuple[str, str]) -> str:
    name, form = held_out
    if name in metrics:
        line += f"  {form.format(metrics[name])}"
    return f"{line}  epoch {metrics['epoch']:.2f}  {metrics['tokens_per_second']:.0f} tok/s"


def _model(role: str, config: NetworkConfig, model: Actor | RewardModel, device: torch.device) -> dict[str, str]:
    parameters = list(model.parameters())
    return {
        "model": role,
        "from": config.model_name_or_path,
        "parameters": count(parameters),
        "trainable": trainable(parameters),
        "dtype": "bf16 autocast over float32" if model.autocast else config.dtype,
        "device": str(device),
    }


def _facts(
    config: SFTConfig | RewardModelConfig,
    held_out: Part | None,
    course: Course,
    tokens: int | None,
    device: torch.device,
) -> list[tuple[str, str]]:
    run, optim = config.run, config.optim
    passes = course.n_steps / course.steps_per_epoch
    facts = [
        ("held out", _held_out(config, held_out)),
        (
            "steps",
            f"{course.n_steps} of {min(run.batch_size, len(course.lengths))} rows, {passes:.3g} epochs "
            f"({micro_batches(run.micro_batch_size, tokens)})",
        ),
        ("learning rate", f"{optim.learning_rate:g}, {optim.lr_scheduler_type}"),
        ("dropout", "off"),
        ("seed", str(run.seed)),
        ("output", str(run.output_dir)),
    ]
    if device.type == "cpu":
        facts.insert(-2, ("threads", str(torch.get_num_threads())))
    return facts


def _held_out(config: Any, held_out: Part | None) -> str:
    if held_out is None:
        return "nothing"
    data = config.data
    if data.eval_dataset_name is not None:
        return f"{len(held_out)} from {data.eval_dataset_name}"
    if data.dataset_test_split is not None:
        return f"{len(held_out)}, the split {data.dataset_test_split}"
    return f"{len(held_out)} of the rows, chosen by seed"


def _notes(config: SFTConfig | RewardModelConfig, learned: Part, held_out: Part | None) -> list[str]:
    notes: list[str] = []
    noun = "demonstrations" if isinstance(learned, SequenceSet) else "comparisons"
    for part, which in ((learned, ""), (held_out, "held-out ")):
        if part is not None and part.n_too_long:
            notes.append(
                f"{part.n_too_long} {which}{noun} longer than max_length = {config.data.max_length} tokens, or than "
                f"the model's context, are left out (the longest has {part.longest})"
            )
    if held_out is None:
        notes.append("nothing is held out, so nothing will tell what the model learned by heart from what it learned")
    return notes
