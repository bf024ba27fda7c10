"""TRL 1.12.0's options with their defaults, written down from its dataclasses: what the rules are held against.

UNSET: its default is None, or of no account. Of transformers' TrainingArguments (5.23) the names alone, but for those
that decide what is learned.
"""

UNSET = object()


def names(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


PPO = {
    "learning_rate": 3e-6, "dataset_num_proc": UNSET, "num_mini_batches": 1, "total_episodes": UNSET,
    "local_rollout_forward_batch_size": 64, "num_sample_generations": 10, "response_length": 53, "stop_token": UNSET,
    "stop_token_id": UNSET, "temperature": 0.7, "missing_eos_penalty": UNSET, "sft_model_path": UNSET,
    "world_size": UNSET, "num_total_batches": UNSET, "micro_batch_size": UNSET, "local_batch_size": UNSET,
    "batch_size": UNSET, "local_mini_batch_size": UNSET, "mini_batch_size": UNSET, "push_to_hub": UNSET,
    "reward_model_path": UNSET, "model_adapter_name": UNSET, "ref_adapter_name": UNSET, "num_ppo_epochs": 4,
    "whiten_rewards": False, "kl_coef": 0.05, "kl_estimator": "k1", "cliprange": 0.2, "vf_coef": 0.1,
    "cliprange_value": 0.2, "gamma": 1.0, "lam": 0.95, "ds3_gather_for_generation": UNSET,
}  # fmt: skip

SFT = {
    "learning_rate": 2e-5, "model_init_kwargs": UNSET, "router_aux_loss_coef": UNSET, "trust_remote_code": UNSET,
    "chat_template_path": UNSET, "dataset_text_field": UNSET, "dataset_kwargs": UNSET, "dataset_num_proc": UNSET,
    "eos_token": UNSET, "max_length": 1024, "truncation_mode": UNSET, "shuffle_dataset": UNSET, "packing": False,
    "packing_strategy": UNSET, "padding_free": UNSET, "pad_to_multiple_of": UNSET, "eval_packing": UNSET,
    "completion_only_loss": UNSET, "assistant_only_loss": UNSET, "loss_type": UNSET, "activation_offloading": UNSET,
    "pad_token": UNSET, "max_grad_norm": 1.0, "num_train_epochs": 3.0, "gradient_checkpointing": True,
}  # fmt: skip

REWARD = {
    "learning_rate": 1e-4, "model_init_kwargs": UNSET, "trust_remote_code": UNSET, "chat_template_path": UNSET,
    "disable_dropout": UNSET, "dataset_num_proc": UNSET, "eos_token": UNSET, "max_length": 1024,
    "pad_to_multiple_of": UNSET, "center_rewards_coefficient": UNSET, "activation_offloading": UNSET,
    "pad_token": UNSET, "max_grad_norm": 1.0, "num_train_epochs": 3.0, "gradient_checkpointing": True,
}  # fmt: skip

MODEL = names(
    """
model_name_or_path model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout
lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit
load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage trust_remote_code torch_dtype
"""
)

SCRIPT = names(
    """
dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming ignore_bias_buffers datasets
streaming test_split_size env
"""
)

TRAINING = names(
    """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
warmup_steps warmup_ratio optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules
gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16
bf16_full_eval fp16_full_eval tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
liger_kernel_config use_cache neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size logging_strategy
logging_steps logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub
hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end
metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint full_determinism seed
data_seed use_cpu accelerator_config parallelism_config dataloader_drop_last dataloader_num_workers
dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
dataloader_in_order remove_unused_columns label_names train_sampling_strategy length_column_name
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp
fsdp_config deepspeed debug skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank
"""
)

# transformers 4 had these, too
EARLIER = names(
    """
overwrite_output_dir evaluation_strategy logging_dir save_safetensors no_cuda use_mps_device group_by_length
half_precision_backend push_to_hub_model_id hub_token include_inputs_for_metrics include_tokens_per_second
"""
)

OLD_PPO = {
    "exp_name": UNSET, "seed": 0, "log_with": UNSET, "task_name": UNSET, "model_name": UNSET, "query_dataset": UNSET,
    "reward_model": UNSET, "remove_unused_columns": UNSET, "tracker_kwargs": UNSET, "accelerator_kwargs": UNSET,
    "project_kwargs": UNSET, "tracker_project_name": UNSET, "push_to_hub_if_best_kwargs": UNSET, "steps": 20000,
    "learning_rate": 1.41e-5, "adap_kl_ctrl": True, "init_kl_coef": 0.2, "kl_penalty": "kl", "target": 6.0,
    "horizon": 10000.0, "gamma": 1.0, "lam": 0.95, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1,
    "batch_size": 128, "forward_batch_size": UNSET, "mini_batch_size": 128, "gradient_accumulation_steps": 1,
    "world_size": UNSET, "ppo_epochs": 4, "max_grad_norm": None, "optimize_cuda_cache": UNSET,
    "optimize_device_cache": UNSET, "early_stopping": False, "target_kl": 1.0, "compare_steps": UNSET,
    "ratio_threshold": UNSET, "use_score_scaling": False, "use_score_norm": False, "score_clip": UNSET,
    "whiten_rewards": False, "gradient_checkpointing": UNSET, "is_encoder_decoder": UNSET, "is_peft_model": UNSET,
    "backward_batch_size": UNSET, "global_backward_batch_size": UNSET, "global_batch_size": UNSET,
    "dataset_num_proc": UNSET,
}  # fmt: skip

METRICS = names(
    """
eps objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward objective/scores
policy/approxkl_avg policy/clipfrac_avg policy/entropy_avg loss/policy_avg loss/value_avg val/clipfrac_avg val/ratio
val/ratio_var val/num_eos_tokens lr episode
"""
)
