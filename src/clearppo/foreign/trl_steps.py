"""TRL's PPOConfig (0.12 to its removal), SFTConfig and RewardConfig: every setting, and what becomes of it.

Names, defaults and what the trainers do with them: TRL 1.12.0 (trl/experimental/ppo), the last release with PPO.
PPO's loop is its own: what transformers' Trainer does in *its* loop (clipping gradients, evaluating, ...) never ran.
"""

from clearppo.foreign.rule import Rules, carried, each, joined, left, silent
from clearppo.foreign.trl_arguments import SHARED

_FILLED_IN = "TRL's PPO overwrote it when it began, from the other sizes"
_NOT_EVALUATED = (
    "PPO's loop had no evaluation; ours measures with --eval_steps on held-out prompts (docs/evaluation.md)"
)
_NEVER_RAN = "it belongs to a part of transformers' Trainer that PPO's own loop never ran"


def _estimator(value: object) -> object:
    if value not in ("k1", "k3"):
        raise ValueError("TRL knows k1 and k3")
    return value


PPO: Rules = {
    **SHARED,
    # what is sampled
    "sft_model_path": joined("model_name_or_path"),
    "model_name_or_path": joined("model_name_or_path"),
    "response_length": carried("response_length", 53),
    "temperature": carried("temperature", 0.7),
    "stop_token": joined("fixed_length"),
    "stop_token_id": joined("stop_token_ids"),
    "local_rollout_forward_batch_size": carried(
        "generation_batch_size", 64, "memory only: at most so many answers are written at once"
    ),
    # what is good
    "reward_model_path": joined("reward_model_path", "critic", "value_model_path"),
    "missing_eos_penalty": carried("missing_eos_penalty"),
    "whiten_rewards": carried("whiten_rewards", False),
    "kl_coef": carried("kl_coef", 0.05),
    "kl_estimator": carried("kl_estimator", "k1", convert=_estimator),
    # what is learned
    "num_ppo_epochs": carried("num_ppo_epochs", 4),
    "num_mini_batches": joined("num_mini_batches", default=1),
    "gamma": carried("gamma", 1.0),
    "lam": carried("lam", 0.95),
    "cliprange": carried("cliprange", 0.2),
    "cliprange_value": carried("cliprange_value", 0.2),
    "vf_coef": carried("vf_coef", 0.1),
    "learning_rate": joined("learning_rate", default=3e-6),
    # how much of it
    "total_episodes": joined("total_episodes"),
    "num_train_epochs": joined("total_episodes", default=3.0),
    "per_device_train_batch_size": joined("batch_size", "micro_batch_size", default=8),
    "gradient_accumulation_steps": joined("batch_size", default=1),
    "num_sample_generations": joined("sample_steps", default=10),
    **each(
        ("world_size", "num_total_batches", "micro_batch_size", "local_batch_size", "batch_size",
         "local_mini_batch_size", "mini_batch_size"),
        silent(_FILLED_IN),
    ),
    # what did nothing
    "max_grad_norm": silent(
        "PPO's loop never clipped gradients, so ours is told none; write max_grad_norm: VALUE to have it now"
    ),
    "bf16": joined("bf16"),
    "fp16": silent("PPO's Accelerator was made without it; there is no float16 here, --bf16 computes in bfloat16"),
    "gradient_checkpointing": silent(
        "transformers switches it on in its own loop, which PPO's never ran; --gradient_checkpointing true has it, and "
        "changes no result"
    ),
    "logging_steps": silent("PPO logged every iteration whatever it said; so do we"),
    "max_steps": silent("PPO went by total_episodes alone"),
    **each(
        ("eval_strategy", "evaluation_strategy", "eval_steps", "dataset_test_split", "load_best_model_at_end",
         "metric_for_best_model", "greater_is_better", "per_device_eval_batch_size", "eval_on_start", "eval_delay"),
        silent(_NOT_EVALUATED),
    ),
    "resume_from_checkpoint": silent("PPO could not go on from a checkpoint; --resume_from_checkpoint auto does here"),
    **each(
        ("neftune_noise_alpha", "label_smoothing_factor", "auto_find_batch_size", "torch_compile", "use_liger_kernel",
         "group_by_length", "train_sampling_strategy", "full_determinism"),
        silent(_NEVER_RAN),
    ),
    # what has no place here
    "ds3_gather_for_generation": left("it is about DeepSpeed ZeRO-3; sharded weights are gathered here by themselves"),
    **each(
        ("model_adapter_name", "ref_adapter_name"),
        left("with --use_peft the reference is the same weights with the adapters off"),
    ),
    "dataset_text_field": silent("PPO's data are rows with input_ids"),
}  # fmt: skip

_LENGTHS = {
    "num_train_epochs": carried("num_train_epochs", 3.0),
    "max_steps": joined("max_steps", default=-1),
    "per_device_train_batch_size": joined("batch_size", "micro_batch_size", default=8),
    "gradient_accumulation_steps": joined("batch_size", default=1),
    "max_length": carried("max_length", 1024),
    "max_grad_norm": joined("max_grad_norm", default=1.0),
    "logging_steps": joined("logging_steps"),
    "bf16": joined("bf16"),
    "fp16": left("there is no float16 here; --bf16 computes in bfloat16"),
    "gradient_checkpointing": carried(
        "gradient_checkpointing", True, "TRL's default; it saves memory and changes no result"
    ),
    "eval_strategy": joined("eval_steps", "eval_fraction", default="no"),
    "evaluation_strategy": joined("eval_steps", "eval_fraction"),
    "eval_steps": joined("eval_steps"),
    "dataset_test_split": joined("dataset_test_split", default="test"),
    **each(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        left("supervised steps keep their last weights; the newest checkpoints stay beside them"),
    ),
}

SFT: Rules = {
    **SHARED,
    **_LENGTHS,
    "learning_rate": carried("learning_rate", 2e-5),
    "max_length": carried("max_length", 1024, "TRL cut longer rows; here they are left out and counted"),
    "max_seq_length": carried("max_length", why="its earlier name; longer rows are left out, not cut"),
    "completion_only_loss": joined("completion_only_loss"),
    "assistant_only_loss": joined("completion_only_loss"),
    "dataset_text_field": left("plain text stands in the column `text`: rename it in your file"),
    "packing": joined(default=False),
    **each(
        (
            "packing_strategy",
            "eval_packing",
            "padding_free",
            "num_of_sequences",
            "chars_per_token",
            "dataset_batch_size",
        ),
        left("rows are not packed: rows of like length share a micro-batch, which costs little padding"),
    ),
    "truncation_mode": left("nothing is cut here: longer rows are left out and counted"),
    "loss_type": left("the loss here is the mean of -log p over the learned tokens, TRL's nll and chunked_nll"),
    "router_aux_loss_coef": left("there is no loss for the router of a mixture of experts"),
    **each(("shuffle_dataset", "dataset_kwargs"), left("rows are shuffled with the seed in any case")),
}

REWARD: Rules = {
    **SHARED,
    **_LENGTHS,
    "learning_rate": carried("learning_rate", 1e-4),
    "center_rewards_coefficient": joined("center_coef"),
    "disable_dropout": left("dropout is never on here"),
}
