"""The sections about models: which one is read, trained, given a critic; on which device and in which precision."""

from typing import Annotated, Literal

from pydantic import Field

from clearppo.config.kinds import Allowed, OnlyIf
from clearppo.config.section import Section

_WHERE = "a directory, a hub name, or the built-in smollm2-135m-instruct"
_WITH_LORA = OnlyIf("use_peft", "equals", "without LoRA all weights are trained", "--use_peft true", value=True)
WITH_CRITIC = OnlyIf("advantage_estimator", "equals", "only GAE has a critic", "--advantage_estimator gae", value="gae")


class ReadModelConfig(Section):
    """The model that answers, on which device and in which precision."""

    model_name_or_path: str = Field(min_length=1, description=f"The language model that answers: {_WHERE}.")
    device: Annotated[str, Allowed("auto, cpu, cuda, cuda:N or mps", "auto")] = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="Where to compute: auto takes CUDA, then Apple's MPS, then the CPU, whichever is there first.",
    )
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        default="float32",
        description="Number type of the weights. float32 is the safe one; bfloat16 halves the memory, but small "
        "updates are rounded away; float64 is for proofs on tiny models.",
    )
    bf16: Annotated[
        bool | Literal["auto"],
        OnlyIf(
            "dtype",
            "equals",
            "autocast is for float32 weights only",
            "--dtype float32",
            value="float32",
        ),
    ] = Field(
        default="auto",
        description="Compute in bfloat16 over float32 weights (autocast): faster where the hardware has it, at about "
        "three digits. auto: if the hardware has it.",
    )
    attn_implementation: str | None = Field(
        default=None,
        min_length=1,
        description="Attention kernel by transformers' name: eager, sdpa, flash_attention_2 (a package of its own). "
        "none lets transformers choose.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with the model's files. It can do anything on your machine: for models "
        "you trust only.",
    )


class NetworkConfig(ReadModelConfig):
    """The model that is trained: all of it or adapters, on which device and in which precision."""

    model_name_or_path: str = Field(
        min_length=1, description=f"The language model that training starts from: {_WHERE}."
    )
    use_peft: bool = Field(
        default=False,
        description="Train small LoRA adapters (peft) and leave the weights frozen. Saves most of the optimiser's "
        "memory, and the reference costs none: it is the same weights with the adapters off.",
    )
    lora_r: Annotated[int, _WITH_LORA] = Field(
        default=16,
        ge=1,
        le=65536,
        description="Rank of the LoRA matrices: how much an adapter can learn. Usual: 8 to 64.",
    )
    lora_alpha: Annotated[int, _WITH_LORA] = Field(
        default=32,
        ge=1,
        le=65536,
        description="Scale of the LoRA update, which is multiplied by lora_alpha / lora_r. Usual: once or twice "
        "lora_r.",
    )
    lora_target_modules: Annotated[list[str] | Literal["all-linear"], _WITH_LORA] = Field(
        default="all-linear",
        description="Which layers get adapters: all-linear, or names such as q_proj,v_proj as the model's code spells "
        "them.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass and do not keep them: much less memory for about a "
        "third more time. Changes no result.",
    )


class ModelConfig(NetworkConfig):
    """The models: which one is trained, where its critic lives, on which device and in which precision."""

    model_name_or_path: str = Field(
        min_length=1,
        description=f"The language model to train: {_WHERE}. A frozen copy of it is the reference that the KL is "
        "measured from.",
    )
    critic: Annotated[Literal["shared", "separate"], WITH_CRITIC] = Field(
        default="shared",
        description="Where the critic lives. shared: one linear layer on the policy's last hidden state, cheap, the "
        "article's layout. separate: a network of its own, twice the memory, and the two losses cannot "
        "disturb each other.",
    )
    freeze_layers: int = Field(
        default=0,
        ge=0,
        description="So many of the lowest layers, and the embeddings, do not learn; of a separate critic neither. "
        "What they make of an answer is computed once and kept, and the reference shares them: less time and memory, "
        "for a model that can change less. 0: all learn. Usual: two thirds.",
    )
    value_model_path: Annotated[
        str | None,
        OnlyIf(
            "critic",
            "equals",
            "a shared critic is a layer on the policy itself",
            "--critic separate",
            value="separate",
        ),
    ] = Field(
        default=None,
        min_length=1,
        description="The model that a separate critic starts from: a directory or hub name, often the reward model's. "
        "none starts it from the policy's own model.",
    )
