"""Options of ours that come of several settings of TRL's, configuration by configuration."""

import math
from collections.abc import Callable, Mapping

from clearppo.foreign.sizes import batch_size, episodes_in_all, mini_batches, sample_tables, saving, supervised, times
from clearppo.foreign.together import data_sets, lora, schedule, trackers
from clearppo.foreign.work import Work

_BF16 = (
    "with transformers 5 PPO's Accelerator was made without it, and TRL trained in float32 (with 4 it worked); here it "
    "works: bf16: false repeats float32"
)


def ppo(work: Work) -> None:
    """TRL 0.12 and later."""
    _ppo_models(work)
    batch = batch_size(work)
    mini_batches(work)
    episodes = episodes_in_all(work, batch)
    iterations = math.ceil(episodes / batch) if episodes else None
    sample_tables(work, iterations)
    saving(work, iterations)
    _endings(work)
    rate = work.number("learning_rate")
    if rate is not None:
        why = "" if work.given("learning_rate") else "TRL's last default; before it took 5e-5, transformers' own"
        work.put("learning_rate", rate, "learning_rate", why=why)
    _ppo_precision(work)
    if work.given("lora_dropout"):
        work.nothing("lora_dropout", "PPO switched dropout off in all its models")
    work.put("unbiased_whitening", True, why="TRL divides by n - 1 where it whitens")
    work.put("max_grad_norm", None, why="PPO's loop never clipped gradients")


def old_ppo(work: Work) -> None:
    """TRL 0.11 and earlier."""
    each, inner, steps = (
        work.count(name) or 1 for name in ("batch_size", "mini_batch_size", "gradient_accumulation_steps")
    )
    name = "mini_batch_size"
    if work.given("forward_batch_size"):
        name, inner = "forward_batch_size", work.count("forward_batch_size") or inner
    batch = each * work.processes
    work.put("batch_size", batch, "batch_size", why=times(work, f"batch_size {each}"))
    work.put("micro_batch_size", inner, name)
    if each % (inner * steps):
        work.drop(name, f"{inner} x {steps} does not divide batch_size {each}, which TRL refuses")
    else:
        names = [name, *(["gradient_accumulation_steps"] if work.given("gradient_accumulation_steps") else [])]
        work.put("num_mini_batches", each // (inner * steps), *names, why=f"{each} / ({inner} x {steps})")
    total = work.count("steps")
    work.put("total_episodes", max(total or batch, batch), "steps", why="" if work.given("steps") else "TRL's default")
    _old_controls(work)
    if work.given("log_with"):
        trackers(work, "log_with")
    if work.given("lora_dropout"):
        work.drop("lora_dropout", "there is no dropout here")
    work.put("critic", "shared", why="its value head was a layer on the policy")
    work.put("temperature", 1.0, why="not in PPOConfig, but in the script's generation_kwargs; losses were at 1")
    work.put("adam_epsilon", 1e-8, why="torch's Adam, unless the script gave another optimiser")
    work.put("lr_scheduler_type", "constant", why="no schedule, unless the script gave one")
    work.put("unbiased_whitening", True, why="TRL divides by n - 1 where it whitens")
    work.notes.append(
        "response_length, top_k and top_p stood in the script's generation_kwargs (max_new_tokens, ...), which are not "
        "read: set --response_length."
    )


def _old_controls(work: Work) -> None:
    """The KL coefficient, the early stop, the scale of scores."""
    adaptive = work.flag("adap_kl_ctrl")
    work.put("kl_controller", "adaptive" if adaptive else "fixed", "adap_kl_ctrl")
    for name, option in (("target", "kl_target"), ("horizon", "kl_horizon")):
        if adaptive:
            work.put(option, work.number(name), name)
        elif work.given(name):
            work.nothing(name, "adap_kl_ctrl is off")
    target = work.number("target_kl")
    if work.flag("early_stopping") and target is not None:
        why = "1.5 x target_kl, as TRL had it; measured there as the mean log-ratio, here as half its square"
        work.put("early_stop_kl", 1.5 * target, "early_stopping", "target_kl", why=why)
    elif work.given("target_kl"):
        work.nothing("target_kl", "early_stopping is off")
    if work.flag("use_score_scaling"):
        scaling = "running" if work.flag("use_score_norm") else "running-std"
        work.put("score_scaling", scaling, "use_score_scaling", "use_score_norm")
    elif work.flag("use_score_norm"):
        work.nothing("use_score_norm", "use_score_scaling is off")


def sft(work: Work) -> None:
    """Supervised fine-tuning."""
    supervised(work)
    whole = work.given("completion_only_loss") and not work.flag("completion_only_loss")
    if work.given("completion_only_loss", "assistant_only_loss"):
        only = not whole or work.flag("assistant_only_loss")
        names = [name for name in ("completion_only_loss", "assistant_only_loss") if work.given(name)]
        work.put("completion_only_loss", only, *names, why="of chat messages: the assistant's alone")
    else:
        work.notes.append(
            "TRL learns all turns of chat `messages` unless assistant_only_loss says otherwise; here the assistant's "
            "alone are learned: write completion_only_loss: false for all."
        )
    if work.given("packing"):
        if work.flag("packing"):
            work.drop("packing", "rows are not packed, so batch_size counts rows: choose it anew")
        else:
            work.dropped.pop("packing", None)
    if work.given("lora_dropout"):
        work.drop("lora_dropout", "there is no dropout here")


def reward(work: Work) -> None:
    """Reward models."""
    supervised(work)
    weight = work.number("center_rewards_coefficient")
    if weight is not None:
        work.put("center_coef", weight, "center_rewards_coefficient")
    work.put("rm_loss", "pairwise", why="TRL's only loss, with the margin of rows that have one")
    work.put("score_normalisation", None, why="TRL leaves scores as they were trained")
    work.put("judgement_template", "{conversation}{eos}", why="TRL reads the score at the end-of-text token")
    if work.given("lora_dropout"):
        work.drop("lora_dropout", "there is no dropout here")


WORK_OUT: Mapping[tuple[str, bool], Callable[[Work], None]] = {
    ("ppo", False): ppo,
    ("ppo", True): old_ppo,
    ("sft", False): sft,
    ("reward", False): reward,
}
"""By the step, and whether it is the PPO of TRL 0.11 and earlier."""


def joint(work: Work, step: str, *, old: bool) -> None:
    """Whatever comes of several settings."""
    lora(work)
    if not old:
        data_sets(work)
        schedule(work)
        trackers(work, "report_to")
        for name, option in (
            ("run_name", "run_name"),
            ("project", "tracking_project"),
            ("logging_dir", "tracking_dir"),
        ):
            if work.given(name):
                work.put(option, work.value(name), name)
        if work.given("use_flash_attention_2") and work.flag("use_flash_attention_2"):
            work.put("attn_implementation", "flash_attention_2", "use_flash_attention_2")
    elif work.given("tracker_project_name"):
        work.put("tracking_project", work.value("tracker_project_name"), "tracker_project_name")
    WORK_OUT[step, old](work)


def _ppo_models(work: Work) -> None:
    """Scripts load the policy by sft_model_path, and by model_name_or_path the tokenizer alone."""
    policy, other = work.text("sft_model_path"), work.text("model_name_or_path")
    if policy:
        work.put("model_name_or_path", policy, "sft_model_path")
        if other and other != policy:
            work.drop(
                "model_name_or_path", "TRL's scripts took the tokenizer alone from it: here it comes with the model"
            )
        elif other:
            work.put("model_name_or_path", policy, "sft_model_path", "model_name_or_path")
    elif other:
        why = "TRL's scripts trained sft_model_path, by default pythia-160m; this is most likely what you mean"
        work.put("model_name_or_path", other, "model_name_or_path", why=why)
    scores = work.text("reward_model_path")
    work.put("critic", "separate", *(["reward_model_path"] if scores else []), why="a network of its own, as in TRL")
    if scores:
        work.put("reward_model_path", scores, "reward_model_path")
        work.put("value_model_path", scores, "reward_model_path", why="TRL's scripts start the critic from it")


def _endings(work: Work) -> None:
    """Without a stop token TRL went on behind the end of the text, to response_length."""
    token = work.value("stop_token_id")
    if work.value("stop_token") == "eos":
        work.put("fixed_length", False, "stop_token")
        if token is not None:
            work.drop("stop_token_id", "TRL refuses both; the end-of-text token ends an answer")
    elif token is not None:
        why = "the end-of-text token ends an answer here, too"
        work.put("stop_token_ids", token if isinstance(token, list) else [token], "stop_token_id", why=why)
    elif work.given("missing_eos_penalty") and work.number("missing_eos_penalty"):
        work.notes.append(
            "Without stop_token TRL went on behind the end-of-text token, to response_length, and the penalty met "
            "answers without one. Here an answer ends at it, as with stop_token: eos."
        )
    else:
        work.put("fixed_length", True, "stop_token", why="without stop_token every answer has response_length tokens")
    if work.given("stop_token") and work.value("stop_token") != "eos":
        work.drop("stop_token", "TRL knows eos alone")


def _ppo_precision(work: Work) -> None:
    launched = work.source.mixed_precision
    if launched is not None:
        work.put(
            "bf16", launched == "bf16", *(["bf16"] if work.given("bf16") else []), why="accelerate's --mixed_precision"
        )
    elif work.given("bf16"):
        wanted = work.flag("bf16")
        work.put("bf16", wanted, "bf16")
        if wanted:
            work.nothing("bf16", _BF16)
