"""The model card: what this directory holds and how it came to be."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

CITATION = """\
@misc{clearppo,
  title  = {ClearPPO: PPO for language models from human feedback},
  year   = {2026},
}"""


def model_card(
    *,
    base_model: str,
    objective: str,
    facts: Sequence[tuple[str, str]],
    history: Sequence[Mapping[str, float]],
    ended: str,
) -> str:
    """A README.md with the front matter that the hub reads, the objective, the run's first and last numbers."""
    rows = "\n".join(
        f"| {name} | {history[0][name]:.4g} | {history[-1][name]:.4g} |"
        for name in ("objective/scores", "objective/kl", "objective/entropy", "completions/mean_length")
        if history and name in history[0]
    )
    table = f"\n| | first iteration | last iteration |\n|---|---|---|\n{rows}\n" if rows else ""
    settings = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return f"""---
library_name: transformers
base_model: {base_model}
tags: [ppo, rlhf, clearppo]
---

# {base_model}, trained with PPO

{ended}

    {objective}
{table}
| setting | value |
|---|---|
{settings}

Every option is in `config.yaml`, every iteration in `metrics.jsonl`. The policy is in this directory
(`AutoModelForCausalLM.from_pretrained`), its critic in `value_model/` (`AutoModelForSequenceClassification`).

Made with ClearPPO {version("clearppo")}, torch {version("torch")}, transformers {version("transformers")}.

```bibtex
{CITATION}
```
"""
