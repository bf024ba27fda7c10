"""What a run is about to do, said before it does it."""

from collections.abc import Iterable

import torch
from torch import nn

from clearppo.config import PPOConfig, objective
from clearppo.data import PromptSet
from clearppo.models.policy import Policy
from clearppo.train.listener import Summary


def summarise(config: PPOConfig, policy: Policy, prompts: PromptSet, device: torch.device) -> Summary:
    """The objective really optimised, the models, the sizes, and what the user should know."""
    return Summary(
        objective=objective(config),
        facts=_facts(config, prompts, device),
        models=_models(config, policy, device),
        notes=_notes(config, prompts),
    )


def _models(config: PPOConfig, policy: Policy, device: torch.device) -> list[dict[str, str]]:
    precision = "bf16 autocast over float32" if policy.actor.autocast else config.model.dtype
    name, lora = config.model.model_name_or_path, config.model.use_peft
    actor, critic = list(policy.actor.parameters()), list(policy.critic.parameters())
    separate = config.model.critic == "separate"
    critic_from = (config.model.value_model_path or name) if separate else "one layer on the actor"
    critic_dtype = precision if separate else str(critic[0].dtype).removeprefix("torch.")
    reference_from = "the actor, adapters off" if lora else f"frozen copy of {name}"
    rows = [
        ("actor", name, _count(actor), _trainable(actor), precision),
        ("critic", critic_from, _count(critic), _trainable(critic), critic_dtype),
        ("reference", reference_from, "none of its own" if lora else _count(actor), "0", precision),
    ]
    titles = ("model", "from", "parameters", "trainable", "dtype", "device")
    return [dict(zip(titles, (*row, str(device)), strict=True)) for row in rows]


def _facts(config: PPOConfig, prompts: PromptSet, device: torch.device) -> list[tuple[str, str]]:
    run, ppo = config.run, config.ppo
    micro = min(run.micro_batch_size, config.mini_batch_size)
    facts = [
        ("prompts", f"{len(prompts)} from {config.data.dataset_name}"),
        (
            "iterations",
            f"{config.num_iterations} of {run.batch_size} answers, up to {config.sampling.response_length} tokens",
        ),
        (
            "an update",
            f"{ppo.num_ppo_epochs} epochs x {ppo.num_mini_batches} mini-batches of {config.mini_batch_size} "
            f"(micro-batches of {micro})",
        ),
        ("learning rate", f"{config.optim.learning_rate:g}, {config.optim.lr_scheduler_type}"),
        ("dropout", "off in every model"),
        ("seed", str(run.seed)),
        ("output", str(run.output_dir)),
    ]
    if device.type == "cpu":
        facts.insert(-2, ("threads", str(torch.get_num_threads())))
    return facts


def _notes(config: PPOConfig, prompts: PromptSet) -> list[str]:
    run, kl, notes = config.run, config.kl, list[str]()
    if prompts.n_too_long:
        notes.append(
            f"{prompts.n_too_long} prompts longer than max_prompt_length = {config.data.max_prompt_length} tokens are "
            f"left out (the longest has {prompts.longest})"
        )
    if run.total_episodes % run.batch_size:
        notes.append(
            f"total_episodes = {run.total_episodes} is rounded up to {config.num_iterations} whole iterations "
            f"({config.num_iterations * run.batch_size} answers)"
        )
    if kl.kl_coef and kl.kl_estimator != "k1":
        notes.append(
            f"kl_estimator = {kl.kl_estimator}: inside a reward, only k1 has the gradient of KL(policy || reference); "
            "another estimator has another optimum (docs/math.md)"
        )
    return notes


def _count(parameters: Iterable[nn.Parameter]) -> str:
    count = sum(parameter.numel() for parameter in parameters)
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def _trainable(parameters: Iterable[nn.Parameter]) -> str:
    return _count(parameter for parameter in parameters if parameter.requires_grad)
