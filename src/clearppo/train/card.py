"""The model card: what this directory holds and how it came to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from clearppo.train.listener import Summary

CITATION = """\
@misc{clearppo,
  title  = {ClearPPO: PPO for language models from human feedback},
  year   = {2026},
}"""


@dataclass(frozen=True, kw_only=True)
class CardKind:
    """What the cards of one command's models have in common. `numbers` are the metrics whose course is shown."""

    title: str
    tags: str
    pipeline: str
    round: str
    numbers: tuple[str, ...]
    contents: str


PPO = CardKind(
    title="trained with PPO",
    tags="ppo, rlhf, clearppo",
    pipeline="text-generation",
    round="iteration",
    numbers=("objective/scores", "objective/kl", "objective/entropy", "completions/mean_length"),
    contents="""\
Every option is in `config.yaml`, every iteration in `metrics.jsonl`. The policy is in this directory
(`AutoModelForCausalLM.from_pretrained`).""",
)
SFT = CardKind(
    title="fine-tuned on demonstrations",
    tags="sft, rlhf, clearppo",
    pipeline="text-generation",
    round="measured",
    numbers=("loss", "eval/loss", "eval/perplexity"),
    contents="""\
Every option is in `config.yaml`, every step in `metrics.jsonl`. The model is in this directory
(`AutoModelForCausalLM.from_pretrained`).""",
)
REWARD = CardKind(
    title="a reward model from comparisons",
    tags="reward-model, rlhf, clearppo",
    pipeline="text-classification",
    round="measured",
    numbers=("loss", "accuracy", "eval/loss", "eval/accuracy"),
    contents="""\
Every option is in `config.yaml`, every step in `metrics.jsonl`, what the model is worth in `reward_report.json`. The
model is in this directory (`AutoModelForSequenceClassification.from_pretrained`, one label). Its score is read at the
last token of the text that `judgement.json` describes.""",
)


def ppo_card(*, critic: bool, average: bool) -> CardKind:
    """The kind of a PPO run's card, with what lies beside the policy."""
    beside = [PPO.contents]
    if critic:
        beside.append("Its critic is in `value_model/` (`AutoModelForSequenceClassification`).")
    if average:
        beside.append("The running average of its weights is in `ema_model/` (`AutoModelForCausalLM`).")
    return replace(PPO, contents="\n".join(beside))


def model_card(
    *,
    kind: CardKind,
    base_model: str,
    summary: Summary,
    history: Sequence[Mapping[str, float]],
    ended: str,
    found: str = "",
) -> str:
    """A README.md with the front matter that the hub reads, the objective, the run's first and last numbers.

    `found` is a paragraph on what came out, if there is more to say than numbers.
    """
    rows = "\n".join(_course(name, history) for name in kind.numbers if any(name in row for row in history))
    table = f"\n| | first {kind.round} | last {kind.round} |\n|---|---|---|\n{rows}\n" if rows else ""
    settings = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in summary.facts)
    return f"""---
library_name: transformers
pipeline_tag: {kind.pipeline}
base_model: {base_model}
tags: [{kind.tags}]
---

# {base_model}, {kind.title}

{ended}

    {summary.objective}
{table}{f"{chr(10)}{found}{chr(10)}" if found else ""}
| setting | value |
|---|---|
{settings}

{kind.contents}

Made with ClearPPO {version("clearppo")}, torch {version("torch")}, transformers {version("transformers")}.

```bibtex
{CITATION}
```
"""


def _course(name: str, history: Sequence[Mapping[str, float]]) -> str:
    values = [row[name] for row in history if name in row]
    return f"| {name} | {values[0]:.4g} | {values[-1]:.4g} |"
