"""What TRL's configurations share: transformers' TrainingArguments, TRL's ModelConfig and ScriptArguments.

Names and defaults are those of TRL 1.12.0 with transformers 5.23, and names that transformers 4 had besides.
"""

from clearppo.foreign.rule import Rule, Rules, carried, each, joined, left

_LOADING = "how rows are fetched and put together changes nothing that is learned; there is no such option here"
_MACHINE = "the machine is found out, or chosen with --device; several processes come from torchrun (docs/scaling.md)"
_HUB = "nothing is ever uploaded; the finished directory loads with from_pretrained and can be pushed by hand"
_LOGGING = "what is printed and written here is fixed: metrics.jsonl has every step"
_COMPILED = "layers are fused, and the vocabulary is walked over in tiles, without any option"
_QUANTISED = "there is no quantised training here; for less memory: --use_peft true, --freeze_layers, --dtype bfloat16"
_EVALUATING = "measuring has its own defaults here (docs/evaluation.md)"
_LORA = "LoRA adapters here have a rank, a scale and target modules, and nothing else"


def _dtype(value: object) -> object:
    """transformers' names of number types."""
    if value in (None, "auto"):
        raise ValueError("the type of the checkpoint's own weights is not looked up: float32 is kept")
    if value == "float16":
        raise ValueError("there is no float16 here: float32 is kept, and --bf16 computes in bfloat16")
    return value


def _optimiser(value: object) -> object:
    """AdamW is what there is; its forms are one mathematics."""
    if value not in ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"):
        raise ValueError("AdamW is the only optimiser here")
    return "torch"


def _whole_number(value: object) -> object:
    """A count of steps; a share of the run is none."""
    if isinstance(value, float | str) and 0 < float(value) < 1:
        raise ValueError("it is a share of the run, and here it is a number of steps")
    return value


OPTIMISER: Rules = {
    "weight_decay": carried("weight_decay", 0.0),
    "adam_beta1": carried("adam_beta1", 0.9),
    "adam_beta2": carried("adam_beta2", 0.999),
    "adam_epsilon": carried("adam_epsilon", 1e-8),
    "optim": carried("adam_style", "adamw_torch_fused", convert=_optimiser),
    "lr_scheduler_type": joined("lr_scheduler_type", default="linear"),
    "lr_scheduler_kwargs": joined("min_lr_ratio"),
    "warmup_steps": joined("warmup_steps", "warmup_ratio", default=0),
    "warmup_ratio": joined("warmup_ratio", why="transformers 5 writes it as warmup_steps below 1"),
    **each(("optim_args", "optim_target_modules"), left("AdamW is the only optimiser here")),
}

MODEL: Rules = {
    "model_name_or_path": joined("model_name_or_path"),
    "dtype": carried("dtype", convert=_dtype),
    "torch_dtype": carried("dtype", convert=_dtype),
    "attn_implementation": carried("attn_implementation"),
    "use_flash_attention_2": joined("attn_implementation"),
    "trust_remote_code": carried("trust_remote_code"),
    "use_peft": joined("use_peft", default=False),
    "lora_r": joined("lora_r", default=16),
    "lora_alpha": joined("lora_alpha", default=32),
    "lora_target_modules": joined("lora_target_modules"),
    "lora_dropout": joined(default=0.05),
    **each(
        ("lora_modules_to_save", "lora_target_parameters", "lora_task_type", "use_rslora", "use_dora", "lora_bias"),
        left(_LORA),
    ),
    **each(
        ("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"),
        left(_QUANTISED),
    ),
    "model_revision": left("a model is a directory or a name: download that revision, and give its directory"),
    "model_init_kwargs": left("models are loaded with --dtype and --attn_implementation, and nothing else"),
}

DATA: Rules = {
    "dataset_name": carried("dataset_name"),
    "dataset_config": carried("dataset_config"),
    "dataset_train_split": joined("dataset_train_split", default="train"),
    "dataset_streaming": left("data sets are read whole"),
    "datasets": joined("dataset_name", "dataset_config"),
    **each(("streaming", "test_split_size"), left("a mixture of data sets is not made here: write it into one file")),
    **each(
        ("dataset_num_proc", "preprocessing_num_workers", "pad_to_multiple_of", "remove_unused_columns"),
        left(_LOADING),
    ),
    "ignore_bias_buffers": left(_MACHINE),
    "chat_template_path": left("the chat template is the tokenizer's: save the tokenizer with the one you want"),
    **each(("eos_token", "pad_token"), left("they are the tokenizer's; masks come from lengths, so pad may be eos")),
}

WHERE: Rules = {
    "output_dir": carried("output_dir"),
    "overwrite_output_dir": carried("overwrite_output_dir", why="without it a directory that holds a run is an error"),
    "seed": carried("seed", 42, why="the same seed, other random numbers: no two programs draw alike"),
    "data_seed": left("one seed stands for all chance"),
    "full_determinism": carried("deterministic"),
    "save_strategy": joined("save_steps", default="steps"),
    "save_steps": joined("save_steps", default=500),
    "save_total_limit": carried("save_total_limit"),
    "report_to": joined("report_to", default="none"),
    "run_name": joined("run_name"),
    "project": joined("tracking_project"),
    "logging_dir": joined("tracking_dir"),
    **each(
        ("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        left("a checkpoint of TRL is none of ours; --resume_from_checkpoint auto goes on with a run of ours"),
    ),
    **each(
        ("save_only_model", "save_safetensors", "save_on_each_node", "enable_jit_checkpoint"),
        left("a checkpoint holds all that it takes to go on, as safetensors and JSON"),
    ),
    **each(
        ("push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "hub_strategy", "hub_always_push",
         "hub_revision", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"),
        left(_HUB),
    ),
    **each(
        ("logging_strategy", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter", "log_level",
         "log_level_replica", "disable_tqdm", "include_num_input_tokens_seen", "include_tokens_per_second"),
        left(_LOGGING),
    ),
    **each(
        ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        left("trackio's own settings are read from its environment"),
    ),
    **each(("do_train", "do_eval", "do_predict"), left("every command here trains, and measures if it is asked to")),
    "exp_name": left("a run is named by its output_dir, or by --run_name where trackers list it"),
    "env": left("environment variables are the shell's: set them there"),
}  # fmt: skip

MACHINE: Rules = {
    **each(
        ("local_rank", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_backend",
         "ddp_static_graph", "ddp_timeout", "use_cpu", "no_cuda", "use_mps_device", "tf32", "accelerator_config",
         "parallelism_config", "half_precision_backend", "use_ipex", "tpu_num_cores", "debug", "skip_memory_metrics"),
        left(_MACHINE),
    ),
    **each(
        ("fsdp", "fsdp_config", "deepspeed", "fsdp_transformer_layer_cls_to_wrap"),
        left("weights are shared out with --sharding full (docs/scaling.md)"),
    ),
    **each(
        ("dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
         "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
         "train_sampling_strategy", "group_by_length", "length_column_name", "label_names", "past_index",
         "average_tokens_across_devices", "split_batches", "dispatch_batches"),
        left(_LOADING),
    ),
    **each(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "liger_kernel_config",
         "use_cache", "torch_empty_cache_steps", "use_legacy_prediction_loop"),
        left(_COMPILED),
    ),
    **each(
        ("gradient_checkpointing_kwargs", "activation_checkpointing", "activation_checkpointing_kwargs",
         "activation_offloading"),
        left("activations are computed again with --gradient_checkpointing true, and nowhere else"),
    ),
    **each(
        ("neftune_noise_alpha", "label_smoothing_factor"),
        left("there is no such addition to the loss here"),
    ),
    "auto_find_batch_size": left("--max_tokens_per_microbatch auto, the default, fits the free memory"),
}  # fmt: skip

EVALUATION: Rules = each(
    ("eval_delay", "prediction_loss_only", "eval_on_start", "eval_do_concat_batches", "eval_use_gather_object",
     "eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "per_device_eval_batch_size",
     "bf16_full_eval", "fp16_full_eval", "include_inputs_for_metrics", "fp16_backend", "fp16_opt_level",
     "per_gpu_train_batch_size", "per_gpu_eval_batch_size"),
    left(_EVALUATING),
)  # fmt: skip

SHARED: Rules = {**OPTIMISER, **MODEL, **DATA, **WHERE, **MACHINE, **EVALUATION}
"""What all steps have, unless a step says otherwise."""


def overridden(base: Rules, **more: Rule) -> dict[str, Rule]:
    """A table with some rules of a step's own."""
    return {**base, **more}
