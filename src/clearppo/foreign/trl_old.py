"""TRL's first PPOConfig, until TRL 0.11, with the loop in the user's script and `ppo_trainer.step`.

Names and defaults are those of TRL 0.11, the last with it; earlier ones had learning_rate 1e-5, batch_size 256 and
mini_batch_size 1.
"""

from clearppo.foreign.rule import Rules, carried, each, joined, left, silent

_TRACKERS = "trackers are chosen with --report_to; their own settings are read from their environment"
_FILLED_IN = "TRL filled it in when it began"
_HUB = "nothing is ever uploaded; the finished directory loads with from_pretrained and can be pushed by hand"


def _penalty(value: object) -> object:
    known = {"kl": "k1", "mse": "k2", "full": "full"}
    if value not in known:
        raise ValueError("the absolute log-ratio is no estimator that we have: k1 is kept")
    return known[str(value)]


OLD_PPO: Rules = {
    "learning_rate": carried("learning_rate", 1.41e-5, "earlier versions had 1e-5"),
    "batch_size": joined("batch_size", default=128, why="for each process"),
    "mini_batch_size": joined("micro_batch_size", "num_mini_batches", default=128),
    "forward_batch_size": joined("micro_batch_size", "num_mini_batches", why="an old name of mini_batch_size"),
    "gradient_accumulation_steps": joined("num_mini_batches", default=1),
    "ppo_epochs": carried("num_ppo_epochs", 4),
    "steps": joined("total_episodes", default=20000, why="answers in all: the loop made steps / batch_size iterations"),
    "init_kl_coef": carried("kl_coef", 0.2),
    "adap_kl_ctrl": joined("kl_controller", default=True),
    "target": joined("kl_target", default=6.0),
    "horizon": joined("kl_horizon", default=10000.0),
    "kl_penalty": carried("kl_estimator", "kl", "kl is k1, mse is k2", convert=_penalty),
    "gamma": carried("gamma", 1.0),
    "lam": carried("lam", 0.95),
    "cliprange": carried("cliprange", 0.2),
    "cliprange_value": carried("cliprange_value", 0.2),
    "vf_coef": carried("vf_coef", 0.1),
    "max_grad_norm": carried("max_grad_norm", None, "this one did clip; none by default"),
    "whiten_rewards": carried("whiten_rewards", False),
    "early_stopping": joined("early_stop_kl", default=False),
    "target_kl": joined("early_stop_kl", default=1.0),
    "use_score_scaling": joined("score_scaling", default=False),
    "use_score_norm": joined("score_scaling", default=False),
    "score_clip": carried("score_clip"),
    "ratio_threshold": left("no mini-batch is passed over for its ratio; --early_stop_kl ends an update"),
    "seed": carried("seed", 0, "the same seed, other random numbers: no two programs draw alike"),
    "model_name": carried("model_name_or_path", why="for trackers; TRL's scripts loaded the model by it"),
    "query_dataset": carried("dataset_name", why="for trackers; TRL's scripts loaded the prompts by it"),
    "reward_model": left(
        "TRL kept it for trackers only, the script called the reward: give it as --reward_funcs or --reward_model_path"
    ),
    "gradient_checkpointing": carried("gradient_checkpointing"),
    "log_with": joined("report_to"),
    "tracker_project_name": joined("tracking_project"),
    "output_dir": carried("output_dir"),
    "dataset_name": carried("dataset_name"),
    "model_name_or_path": carried("model_name_or_path"),
    "use_peft": joined("use_peft", default=False),
    "lora_r": joined("lora_r", default=16),
    "lora_alpha": joined("lora_alpha", default=32),
    "lora_target_modules": joined("lora_target_modules"),
    "lora_dropout": joined(default=0.05),
    "trust_remote_code": carried("trust_remote_code"),
    **each(("tracker_kwargs", "project_kwargs", "accelerator_kwargs", "task_name", "exp_name"), left(_TRACKERS)),
    **each(("push_to_hub_if_best_kwargs", "compare_steps"), left(_HUB)),
    **each(
        ("optimize_cuda_cache", "optimize_device_cache", "remove_unused_columns", "dataset_num_proc"),
        left("memory and data are seen to without an option"),
    ),
    **each(
        ("world_size", "is_encoder_decoder", "is_peft_model", "backward_batch_size", "global_backward_batch_size",
         "global_batch_size", "total_ppo_epochs"),
        silent(_FILLED_IN),
    ),
}  # fmt: skip
