"""Writing the policy in the formats that the rest of the world loads."""

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from clearppo.models.actor import Actor, SeparateCritic, SharedCritic, plain_weights
from clearppo.models.loading import quiet_transformers
from clearppo.models.network import Network
from clearppo.models.policy import Policy
from clearppo.models.whole import whole

logger = logging.getLogger(__name__)


def written(network: Network, *, adapter: bool) -> list[Tensor]:
    """The weights that are read when a network is written: all, or with `adapter` those that its adapter is made of."""
    return [weight for name, weight in network.named_parameters() if not adapter or "lora_" in name]


def save_actor(actor: Actor, tokenizer: Any, directory: Path) -> None:
    """An ordinary Hugging Face directory, adapters merged, that AutoModelForCausalLM.from_pretrained loads."""
    with quiet_transformers():
        actor.causal_lm.save_pretrained(directory, state_dict=contiguous(dict(plain_weights(actor.causal_lm))))
        tokenizer.save_pretrained(directory)


def save_adapter(actor: Actor, directory: Path) -> None:
    """The LoRA adapter alone, in PEFT's format; a reward model's on the same trunk is left out."""
    weights = {name: whole(weight) for name, weight in actor.model.state_dict().items() if "lora_" in name}
    with quiet_transformers():
        actor.model.save_pretrained(directory, selected_adapters=[actor.model.active_adapter], state_dict=weights)
    sort_targets(directory)


def sort_targets(directory: Path) -> None:
    """Put the lists of layers in an adapter's config into order: peft writes sets, and so in another one every time."""
    file = directory / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(name), list):
            config[name].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def save_critic(policy: Policy, tokenizer: Any, directory: Path) -> None:
    """The critic as AutoModelForSequenceClassification with one label; its score at a token is the value after it.

    A shared critic is saved with the actor's backbone. A family that has no such class in transformers gets its
    layer alone, as value_head.safetensors.
    """
    critic = policy.critic
    if isinstance(critic, SeparateCritic):
        config = critic.classifier.config
        config.pad_token_id = padding_id(config, tokenizer)
        with quiet_transformers():
            critic.classifier.save_pretrained(directory, state_dict=contiguous(dict(plain_weights(critic.classifier))))
            tokenizer.save_pretrained(directory)
        return
    try:
        classifier = _classifier(policy.actor, critic, tokenizer)
    except ValueError:
        logger.info("transformers has no sequence classifier for %s", type(policy.actor.causal_lm).__name__)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"score.weight": critic.score.weight.detach().cpu()}, directory / "value_head.safetensors")
        return
    with quiet_transformers():
        classifier.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _classifier(actor: Actor, critic: SharedCritic, tokenizer: Any) -> Any:
    """A sequence classifier with the actor's backbone and the critic's layer. ValueError if transformers has none."""
    config = deepcopy(actor.causal_lm.config)
    config.num_labels = 1
    config.pad_token_id = padding_id(config, tokenizer)
    weight = critic.score.weight.detach()
    with torch.device(weight.device), quiet_transformers():
        classifier = AutoModelForSequenceClassification.from_config(config)
    prefix = f"{actor.causal_lm.base_model_prefix}."
    weights = {name: w for name, w in plain_weights(actor.causal_lm) if name.startswith(prefix)}
    backbone_dtype = next(iter(weights.values())).dtype
    classifier.to(backbone_dtype).load_state_dict({**weights, "score.weight": weight.to(backbone_dtype)})
    return classifier


def padding_id(config: Any, tokenizer: Any) -> int:
    """The padding token for a saved classifier's config: the tokenizer's, the model's, else the EOS."""
    for candidate in (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    raise ValueError("neither a padding nor an end-of-sequence token")


def contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached weights as safetensors wants them."""
    return {name: weight.detach().contiguous() for name, weight in weights.items()}
