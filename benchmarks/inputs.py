"""What the timings are made with: the peer's prompts, and models of any size.

Run as `python -m benchmarks.inputs JSON` by the scripts, in a process of its own, it makes the models that a
measurement needs in a folder, and prints where they are.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.apart import argument

DEFAULT_MODEL = "smollm2-135m-instruct"
TEXT = (
    "The movie was shot in a small town near the coast, and most of the people who worked on it had never "
    "seen a camera before. When the director arrived in the spring he asked every family to tell him a story "
    "about the sea, and the stories he liked best became the script. "
)
"""The text of the peer's script (shared/bench), which cuts its prompts out of four copies of it."""
COPIES = 4
PROMPT_SEED = 1  # the peer's
MIN_PROMPTS = 64

SIZES: dict[str, dict[str, int]] = {
    "45m": {"hidden_size": 384, "num_hidden_layers": 16, "num_attention_heads": 6, "intermediate_size": 1024},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "intermediate_size": 1536},
    "360m": {"hidden_size": 960, "num_hidden_layers": 32, "num_attention_heads": 15, "intermediate_size": 2560},
}
"""Llama shapes for the growth with the size: SmolLM2's two, and a smaller one of the same proportions."""
SMOKE_SIZES = {"tiny": 1, "small": 2, "less-tiny": 4}
"""For --smoke: layers of the test suite's tiny model."""


def peer_prompts(tokenizer: Any, *, batch: int, iters: int, shortest: int, longest: int) -> list[tuple[int, ...]]:
    """Token ids of prompts with `shortest` to `longest` tokens, the ones that the peer's script makes of this batch."""
    import torch

    base = tokenizer(TEXT * COPIES)["input_ids"]
    if longest >= len(base):
        base = base * (longest // len(base) + 2)
    chance = torch.Generator().manual_seed(PROMPT_SEED)
    rows = []
    for _ in range(max(batch * (iters + 1), MIN_PROMPTS)):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=chance))
        start = int(torch.randint(0, len(base) - length, (1,), generator=chance))
        rows.append(tuple(base[start : start + length]))
    return rows


def n_layers(model: str) -> int:
    """How many transformer layers the model in this directory has."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return int(config.get("num_hidden_layers") or config["n_layer"])


def make(folder: Path, *, model: str, smoke: bool, adapter: bool) -> dict[str, str]:
    """The paths of a policy's model and of reward models with random heads; tiny ones for `smoke`.

    `reward` is a sequence classifier, as the peer's. With `adapter`, `reward_adapter` was trained for one step with
    LoRA on the policy's own model by `clearppo reward`, so that it can share the policy's trunk.
    """
    paths = {"model": _tiny(folder / "model", model) if smoke else resolved(folder, model)}
    paths["reward"] = str(folder / "reward")
    save_classifier(paths["model"], paths["reward"])
    if adapter:
        paths["reward_adapter"] = _trained_adapter(folder, paths["model"])
    return paths


def resolved(folder: Path, model: str) -> str:
    """The directory of a model: a name or path that ClearPPO knows, or one of SIZES, made with random weights."""
    from clearppo.models.loading import resolve_model

    if model not in SIZES:
        return resolve_model(model)
    return _random_llama(folder / model, SIZES[model], tokenizer_of=resolve_model(DEFAULT_MODEL))


def save_classifier(model: str, directory: str) -> None:
    """A sequence classifier with one label: the model's backbone and a random head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from clearppo.models.loading import load_tokenizer, quiet_transformers

    tokenizer = load_tokenizer(model)
    torch.manual_seed(0)
    with quiet_transformers():
        classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
        classifier.config.pad_token_id = tokenizer.pad_token_id
        classifier.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _random_llama(directory: Path, size: dict[str, int], *, tokenizer_of: str) -> str:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from clearppo.models.loading import load_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tokenizer_of)
    config.update(size | {"num_key_value_heads": size["num_attention_heads"] // 3, "head_dim": 64})
    config.layer_types = None
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    load_tokenizer(tokenizer_of).save_pretrained(directory)
    return str(directory)


def _tiny(directory: Path, model: str) -> str:
    from tests.tiny import tiny_causal_lm  # --smoke is run from the repository's root

    return tiny_causal_lm(directory, context=512, num_hidden_layers=SMOKE_SIZES.get(model, 2))


def _trained_adapter(folder: Path, model: str) -> str:
    from clearppo.api import reward

    rows = [{"prompt": f"Film {i} was", "chosen": " good.", "rejected": " bad."} for i in range(4)]
    data = folder / "comparisons.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = reward(
        model_name_or_path=model,
        dataset_name=str(data),
        eval_fraction=0.0,
        rm_loss="pairwise",
        use_peft=True,
        max_steps=1,
        output_dir=str(folder / "reward_adapter"),
    )
    return str(done.output_dir)


if __name__ == "__main__":
    given = argument()
    print(json.dumps(make(Path(given.pop("folder")), **given)))
