"""What a run is about to do, said before it does it."""

import torch

from clearppo.config import PPOConfig, objective
from clearppo.config.kinds import number
from clearppo.data import PromptSet, SequenceSet
from clearppo.learning import Passes
from clearppo.models.policy import Policy
from clearppo.train.listener import Summary
from clearppo.train.ppo import Recipe
from clearppo.train.sizes import count, micro_batches, trainable


def summarise(
    config: PPOConfig,
    policy: Policy,
    prompts: PromptSet,
    texts: SequenceSet | None,
    *,
    decoding: str,
    exact: bool,
    recipe: Recipe,
    passes: Passes,
    reward_model: str | None,
    evaluation: str | None,
    device: torch.device,
) -> Summary:
    """The objective really optimised, the models, the sizes, and what the user should know. `texts` are PPO-ptx's.

    `decoding` says who writes the answers, `exact` whether with the learner's numbers; `recipe` and `passes` are what
    the run will use: what was chosen where the configuration says auto.
    `reward_model` says where its weights are, if there is one, and `evaluation` what is measured in the loop.
    """
    chosen = [("decoding", decoding), ("old log-probs", _old_log_probs(recipe, passes, exact=exact))]
    if (frozen := policy.actor.frozen) is not None:
        said = f"the lowest {frozen.freeze.layers} of {frozen.n_layers} and the embeddings, computed once an answer"
        chosen.append(("frozen layers", said))
    if reward_model is not None:
        chosen.append(("reward model", reward_model))
    if evaluation is not None:
        chosen.append(("evaluation", evaluation))
    return Summary(
        objective=objective(config),
        facts=_facts(config, prompts, texts, passes, chosen, device),
        models=_models(config, policy, device),
        notes=[*_left_out(config, prompts, texts), *_notes(config, exact=exact)],
    )


def _models(config: PPOConfig, policy: Policy, device: torch.device) -> list[dict[str, str]]:
    precision = "bf16 autocast over float32" if policy.actor.autocast else config.model.dtype
    name, lora = config.model.model_name_or_path, config.model.use_peft
    actor, critic = list(policy.actor.parameters()), list(policy.critic.parameters())
    separate = config.model.critic == "separate"
    critic_from = (config.model.value_model_path or name) if separate else "one layer on the actor"
    critic_dtype = precision if separate else str(critic[0].dtype).removeprefix("torch.")
    reference_from, of_reference = f"frozen copy of {name}", count(actor)
    if lora:
        reference_from, of_reference = "the actor, adapters off", "none of its own"
    elif policy.actor.frozen is not None:
        reference_from, of_reference = f"frozen copy of the upper layers of {name}", trainable(actor)
    rows = [
        ("actor", name, count(actor), trainable(actor), precision),
        ("critic", critic_from, count(critic), trainable(critic), critic_dtype),
        ("reference", reference_from, of_reference, "0", precision),
    ]
    if not config.has_critic:
        del rows[1]
    titles = ("model", "from", "parameters", "trainable", "dtype", "device")
    return [dict(zip(titles, (*row, str(device)), strict=True)) for row in rows]


def _facts(
    config: PPOConfig,
    prompts: PromptSet,
    texts: SequenceSet | None,
    passes: Passes,
    chosen: list[tuple[str, str]],
    device: torch.device,
) -> list[tuple[str, str]]:
    run, ppo, sampling, n = config.run, config.ppo, config.sampling, config.sampling.num_generations
    of_each = f" ({n} to each of {run.batch_size // n} prompts)" if n > 1 else ""
    length = f"{'exactly' if sampling.fixed_length else 'up to'} {sampling.response_length} tokens"
    facts = [
        ("prompts", f"{len(prompts)} from {config.data.dataset_name}"),
        ("iterations", f"{config.num_iterations} of {run.batch_size} answers{of_each}, {length}"),
        *chosen,
        (
            "an update",
            f"{ppo.num_ppo_epochs} epochs x {ppo.num_mini_batches} mini-batches of {config.mini_batch_size} answers "
            f"({micro_batches(min(run.micro_batch_size, config.mini_batch_size), passes.micro_batch_tokens)})",
        ),
        ("advantages", _credit(config)),
        ("learning rate", _rate(config)),
    ]
    if config.has_critic and ppo.critic_warmup_steps:
        facts.append(("critic warm-up", f"the policy waits {ppo.critic_warmup_steps} iterations"))
    if texts is not None:
        ptx = config.ptx
        facts.append(
            (
                "PPO-ptx",
                f"{number(ptx.ptx_batch_ratio)} texts for each answer, of {len(texts)} from {ptx.ptx_dataset_name}, "
                f"weight {number(ptx.ptx_coef)}, {ptx.ptx_reduction} of the gradients",
            )
        )
    if run.ema_decay is not None:
        facts.append(("average", f"of the policy's weights in ema_model/, decay {number(run.ema_decay)} an iteration"))
    facts.append(("dropout", "off in every model"))
    if device.type == "cpu":
        facts.append(("threads", str(torch.get_num_threads())))
    return [*facts, ("seed", str(run.seed)), ("output", str(run.output_dir))]


def _old_log_probs(recipe: Recipe, passes: Passes, *, exact: bool) -> str:
    if passes.first_is_old:
        return "of the learning pass itself, in the loss (1 epoch, 1 mini-batch); elsewhere the sampler's"
    if recipe.old_log_probs == "learner":
        return "the learner's, which reads the answers once more"
    return f"the sampler's, {'the same as' if exact else 'near'} the learner's"


def _credit(config: PPOConfig) -> str:
    n = config.sampling.num_generations
    return {
        "gae": "GAE from the critic's values",
        "rloo": f"RLOO among a prompt's {n} answers, no critic",
        "grpo": f"GRPO among a prompt's {n} answers, no critic",
        "reinforce++": "REINFORCE++, no critic",
    }[config.ppo.advantage_estimator]


def _rate(config: PPOConfig) -> str:
    optim, said = config.optim, f"{number(config.optim.learning_rate)}, {config.optim.lr_scheduler_type}"
    if optim.warmup_steps:
        said += f", warm-up of {optim.warmup_steps} iterations"
    elif optim.warmup_ratio:
        said += f", warm-up of {optim.warmup_ratio:.0%} of the iterations"
    if optim.adam_style == "tf":
        said += ", Adam as in TensorFlow 1"
    return said


def _left_out(config: PPOConfig, prompts: PromptSet, texts: SequenceSet | None) -> list[str]:
    notes = list[str]()
    if prompts.n_too_long:
        notes.append(
            f"{prompts.n_too_long} prompts longer than max_prompt_length = {config.data.max_prompt_length} tokens are "
            f"left out (the longest has {prompts.longest})"
        )
    if texts is not None and texts.n_too_long:
        notes.append(
            f"{texts.n_too_long} texts longer than ptx_max_length = {config.ptx.ptx_max_length} tokens (or than the "
            f"model's context) are left out (the longest has {texts.longest})"
        )
    return notes


def _notes(config: PPOConfig, *, exact: bool) -> list[str]:
    run, kl, sampling, notes = config.run, config.kl, config.sampling, list[str]()
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
    if kl.kl_loss_coef and kl.kl_loss_estimator == "k3":
        notes.append(
            "kl_loss_estimator = k3: inside a loss, its gradient is that of KL(reference || policy); k2 and full have "
            "that of KL(policy || reference)"
        )
    if config.vllm.sampler == "vllm" and run.resume_from_checkpoint is not None:
        notes.append("what vLLM answers from here on may be other than in a run that never stopped (docs/vllm.md)")
    if config.ppo.importance_cap is not None and exact and not sampling.top_k and sampling.top_p == 1:
        notes.append(
            f"importance_cap = {number(config.ppo.importance_cap)}: here sampling and learning compute the same, so "
            "every weight is 1"
        )
    return notes
